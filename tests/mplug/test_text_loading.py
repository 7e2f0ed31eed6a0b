"""`mplug.load` and `survey` of text models: families, tasks, their names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, assert_type

import pytest
import torch

import mplug
from golden.mplug_cases import tiny_model
from mplug import loading
from mplug.checkpoints import native
from mplug.decoder_state import DecoderState
from mplug.errors import CheckpointError, MplugError
from mplug.gpt3 import Gpt3Generator
from mplug.loading import load, survey
from mplug.palm import PalmGenerator
from mplug.plug import PlugClassifier, PlugGenerator
from mplug.structbert import Classifier, EntailmentClassifier, FaqAnswerer, Tagger, WordFiller
from mplug.tasks import TaskSize
from mplug.text_classifier import (
    MaskFiller,
    QuestionAnswerer,
    TextClassifier,
    TokenClassifier,
    ZeroShotClassifier,
)
from mplug.text_generator import TextGenerator
from mplug.text_loading import FAMILIES, module_of, own_task
from mplug.text_tasks import TEXT_TASKS
from text_models import FOLDERS, write_folder, write_gpt3

# What a folder's model is, by the folder and our name of the task.
KINDS: dict[str, dict[str, type]] = {
    "gpt3": {"text-generation": Gpt3Generator},
    "palm": {"text-generation": PalmGenerator},
    "plug": {"text-generation": PlugGenerator},
    "plug classifier": {"text-classification": PlugClassifier},
    "plug_mental": {"text-classification": Classifier},
    "sentiment": {"text-classification": Classifier},
    "nli": {"text-classification": Classifier, "zero-shot-classification": EntailmentClassifier},
    "similarity": {"text-classification": Classifier},
    "zero-shot": {"zero-shot-classification": EntailmentClassifier, "text-classification": Classifier},
    "names": {"token-classification": Tagger},
    "words": {"token-classification": Tagger},
    "masks": {"fill-mask": WordFiller},
    "faq": {"faq-question-answering": FaqAnswerer},
}
PAIRS = [(name, task) for name, kinds in KINDS.items() for task in kinds]
ALL_TASKS = list(dict.fromkeys(TEXT_TASKS.values()))


# Any, here and below: tasks that are known when the test runs have no overload.
def load_any(folder: Path | str, task: Any, **options: Any) -> Any:
    return load(folder, task=task, **options)


def test_there_is_a_folder_of_every_family_and_task() -> None:
    assert KINDS.keys() == FOLDERS.keys()
    loadable = {task for family in FAMILIES for task in family.loaders}
    assert {task for _, task in PAIRS} == loadable == set(ALL_TASKS)


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_a_folder_s_tasks_under_every_name(name: str, task: str, tmp_path: Path) -> None:
    folder = write_folder(name, tmp_path)
    for alias in [alias for alias, ours in TEXT_TASKS.items() if ours == task]:
        model = load_any(folder, alias)
        assert model.name == name
        assert not module_of(model).training
        assert type(model) is KINDS[name][task]


def test_what_each_task_gives(tmp_path: Path) -> None:
    # By mypy and pyright; what is loaded is looked at above.
    assert_type(load(write_folder("palm", tmp_path), task="gpt3-generation"), TextGenerator[DecoderState])
    nli = write_folder("nli", tmp_path)
    assert_type(load(nli, task="sentence-similarity"), TextClassifier)
    assert_type(load(nli, task="zero-shot-classification"), ZeroShotClassifier)
    assert_type(load(write_folder("words", tmp_path), task="part-of-speech"), TokenClassifier)
    assert_type(load(write_folder("masks", tmp_path), task="fill-mask"), MaskFiller)
    assert_type(load(write_folder("faq", tmp_path), task="faq-question-answering"), QuestionAnswerer)


@pytest.mark.parametrize("name", FOLDERS)
def test_tasks_that_a_folder_cannot_do_are_refused(name: str, tmp_path: Path) -> None:
    folder = write_folder(name, tmp_path)
    for task in [task for task in ALL_TASKS if task not in KINDS[name]]:
        with pytest.raises(MplugError) as refused:
            load_any(folder, task)
        # The folder, and what is wrong with it: its family, what it was made for, or what it lacks.
        assert str(folder) in str(refused.value) or name in str(refused.value)
    for task in ("retrieval", "caption"):
        with pytest.raises(CheckpointError, match=r"sees no pictures; its tasks are .*(generation|classif)"):
            load_any(folder, task)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_survey_says_what_can_be_loaded(name: str, tmp_path: Path) -> None:
    folder = write_folder(name, tmp_path)
    found = survey(folder)
    assert {task for task, size in found.items() if isinstance(size, TaskSize)} == KINDS[name].keys()
    for task, size in found.items():
        if isinstance(size, str):
            assert size
            continue
        module = module_of(load_any(folder, task))
        assert size.parameters == sum(parameter.numel() for parameter in module.parameters())


def test_a_survey_of_a_folder_that_can_do_nothing(tmp_path: Path) -> None:
    folder = write_folder("gpt3", tmp_path)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is missing"):
        survey(folder)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_task_that_a_folder_was_made_for(name: str, tmp_path: Path) -> None:
    assert own_task(write_folder(name, tmp_path)) == next(iter(KINDS[name]))


def test_a_folder_that_does_not_say_what_it_was_made_for(tmp_path: Path) -> None:
    folder = write_folder("nli", tmp_path)
    change(folder / "configuration.json", task="backbone")
    with pytest.raises(
        CheckpointError, match="gives the task 'backbone'; name one of text-classification, zero"
    ):
        own_task(folder)
    assert isinstance(load(folder, task="nli"), Classifier)


def test_plug_s_decoder_is_nowhere_in_its_classifier(tmp_path: Path) -> None:
    model = load(write_folder("plug classifier", tmp_path), task="text-classification")
    assert isinstance(model, PlugClassifier)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"encoder", "classifier"}


@pytest.mark.parametrize(("name", "task"), [("palm", "text-generation"), ("nli", "zero-shot-classification")])
def test_types_of_weights(name: str, task: str, tmp_path: Path) -> None:
    folder = write_folder(name, tmp_path)
    for dtype in ("float32", "bfloat16", "float16"):
        parameters = module_of(load_any(folder, task, dtype=dtype)).parameters()
        assert {parameter.dtype for parameter in parameters} == {getattr(torch, dtype)}
    with pytest.raises(MplugError, match="dtype is 'int3'"):
        load_any(folder, task, dtype="int3")


def test_a_folder_named_by_its_config_alone(tmp_path: Path) -> None:
    folder = write_folder("masks", tmp_path)
    change(folder / "configuration.json", model={})
    assert isinstance(load(folder, task="fill-mask"), WordFiller)


def test_another_family_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = write_folder("masks", tmp_path)
    change(folder / "configuration.json", model={"type": "bart"})
    with pytest.raises(
        CheckpointError, match=r"says that its model is 'bart'; families .* GPT-3 \(gpt3\), PALM"
    ):
        load(folder, task="fill-mask")


@pytest.mark.parametrize("name", ["config.json", "configuration.json"])
def test_a_broken_file_is_named(name: str, tmp_path: Path) -> None:
    folder = write_folder("masks", tmp_path)
    (folder / name).write_text("{")
    with pytest.raises(CheckpointError, match=f"{name} is not JSON"):
        load(folder, task="fill-mask")


def test_a_picture_model_is_no_text_model(tmp_path: Path) -> None:
    native.save(tiny_model(), tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no text model: .* of pictures the tasks are retrieval"):
        load(tmp_path, task="text-generation")


@pytest.mark.parametrize(("source", "options"), [("gpt3", {"image_size": 32}), ("open_clip:RN50", {})])
def test_text_models_see_no_pictures(source: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = write_folder("gpt3", tmp_path) if source == "gpt3" else source
    with pytest.raises(MplugError, match="text-generation sees no pictures"):
        load_any(folder, "text-generation", **options)


def test_an_unknown_task_lists_all_names() -> None:
    with pytest.raises(MplugError) as refused:
        load_any("mplug-mini", "painting")
    assert all(name in str(refused.value) for name in (*TEXT_TASKS, "caption", "image-captioning"))


def test_a_text_model_that_ships_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gpt3(tmp_path / "some-mini")
    monkeypatch.setattr(loading, "WEIGHTS_FOLDER", tmp_path)
    assert loading.shipped_models() == ["some-mini"]
    assert mplug.load("some-mini", task="text-generation").name == "some-mini"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
