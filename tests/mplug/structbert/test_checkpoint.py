"""Folders read and written, and what is said of those that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden.structbert_cases import (
    FAQ_CASES,
    StructBertCase,
    read_plug_mental_case,
    read_structbert_case,
    tiny,
    tiny_config,
)
from mplug.checkpoints.report import MismatchError
from mplug.errors import CheckpointError, MplugError
from mplug.structbert import (
    TASKS,
    AdapterConfig,
    AdversarialConfig,
    Classifier,
    EntailmentClassifier,
    FaqAnswerer,
    FaqConfig,
    StructBertConfig,
    StructBertModel,
    Tagger,
    WordFiller,
    load,
    load_task,
    save,
    state_dict,
)

KINDS: dict[str, type[StructBertModel]] = {
    "seq_cls": Classifier,
    "token_cls": Tagger,
    "fill_mask": WordFiller,
    **dict.fromkeys(FAQ_CASES, FaqAnswerer),
}
CONFIGS: dict[str, tuple[type[StructBertModel], StructBertConfig]] = {
    "classifier": (
        Classifier,
        tiny_config(
            prefix="sbert",
            lower_case=False,
            task="nli",
            adversarial=AdversarialConfig(factor=None, sigma=1e-5, bound=3e-5),
        ),
    ),
    "plug_mental": (
        Classifier,
        tiny_config(
            task="nli",
            adversarial=AdversarialConfig(factor=None),
            adapters=AdapterConfig(states=(0, 2), hidden=768, ffn=3072),
        ),
    ),
    "tagger": (Tagger, tiny_config(task="word-segmentation")),
    "filler": (WordFiller, tiny_config(labels=(), task="fill-mask")),
    "protonet": (
        FaqAnswerer,
        tiny_config(
            labels=(),
            task="faq-question-answering",
            faq=FaqConfig(metric="relation", pooling="attn", balanced=True),
        ),
    ),
    "mgimn": (
        FaqAnswerer,
        tiny_config(
            labels=(), task="faq-question-answering", faq=FaqConfig(network="mgimnnet", instance_level=False)
        ),
    ),
}


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        prefix + key.removeprefix("bert.") if key.startswith("bert.") else key: tensor
        for key, tensor in weights.items()
    }


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_is_written_back_as_it_was(name: str, tmp_path: Path) -> None:
    case = read_structbert_case(name)
    model = load(case.write(tmp_path / "read"), KINDS[name])
    save(model, tmp_path / "written")
    written = torch.load(tmp_path / "written" / "pytorch_model.bin", weights_only=True)
    pooled = name == "seq_cls"
    expected = {key: tensor for key, tensor in case.weights.items() if pooled or ".pooler." not in key}
    assert set(written) == set(expected)
    assert all(torch.equal(written[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("name", KINDS)
def test_the_report_accounts_for_every_key(name: str, tmp_path: Path) -> None:
    case = read_structbert_case(name)
    extra = {**case.weights, "bert.mystery": torch.zeros(2)}
    report = load(case.write(tmp_path, extra), KINDS[name]).report
    assert report.unknown == ("bert.mystery",)
    dead = {"bert.embeddings.position_ids", "cls.predictions.decoder.weight"} & set(case.weights)
    if name != "seq_cls":
        dead |= {key for key in case.weights if ".pooler." in key}
    assert set(report.unused) == dead
    assert len(report.loaded) + len(dead) + 1 == len(extra)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_gives_the_model_back(name: str, tmp_path: Path) -> None:
    kind, config = CONFIGS[name]
    model = tiny(kind, config)
    save(model, tmp_path / "tiny")
    again = load(tmp_path / "tiny", kind)
    assert again.config == config
    assert again.tokenizer.vocab == model.tokenizer.vocab
    ours, theirs = model.state_dict(), again.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert again.report.unknown == ()
    assert isinstance(load_task(tmp_path / "tiny"), TASKS[config.task])


@pytest.mark.parametrize("prefix", ["bert.", "sbert.", "encoder.", ""])
@pytest.mark.parametrize("stated", ["bert", "sbert"])
def test_the_encoder_may_be_called_anything(prefix: str, stated: str, tmp_path: Path) -> None:
    case = read_structbert_case("seq_cls")
    case.config["base_model_prefix"] = stated
    model = load(case.write(tmp_path, prefixed(case.weights, prefix)), Classifier)
    assert model.report.unknown == ()
    assert len(model.report.loaded) == len(case.weights) - 1
    assert f"{stated}.pooler.dense.weight" in state_dict(model)


def test_what_other_files_name_otherwise_is_read(tmp_path: Path) -> None:
    case = read_structbert_case("fill_mask")
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor.half()
        for key, tensor in case.weights.items()
    }
    old["cls.predictions.bias"] = old.pop("cls.predictions.decoder.bias")
    del old["cls.predictions.decoder.weight"]
    model = load(case.write(tmp_path, {"module": old}), WordFiller)
    assert model.report.unknown == ()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_file_with_both_biases_is_read(tmp_path: Path) -> None:
    case = read_structbert_case("fill_mask")
    bias = case.weights["cls.predictions.decoder.bias"]
    model = load(case.write(tmp_path, {**case.weights, "cls.predictions.bias": bias}), WordFiller)
    assert model.report.unknown == ()
    assert "cls.predictions.bias" in model.report.unused


def test_zero_shot_is_an_entailment_model_asked(tmp_path: Path) -> None:
    save(tiny(Classifier), tmp_path)
    assert isinstance(load_task(tmp_path, "zero-shot-classification"), EntailmentClassifier)
    save(tiny(Classifier, tiny_config(labels=("0", "1"))), tmp_path)
    with pytest.raises(MplugError, match="entailment"):
        load_task(tmp_path, "zero-shot-classification")


@pytest.mark.parametrize("name", KINDS)
def test_shapes_alone_take_no_memory(name: str, tmp_path: Path) -> None:
    case = read_structbert_case(name)
    model = load(case.write(tmp_path), KINDS[name], shapes_only=True)
    assert model.device.type == "meta"
    whole = load(tmp_path, KINDS[name])
    assert model.report == whole.report
    assert model.num_parameters == whole.num_parameters


def without(name: str) -> Callable[[Path, StructBertCase], None]:
    return lambda folder, case: (folder / name).unlink()


def text(name: str, content: str) -> Callable[[Path, StructBertCase], None]:
    def spoil(folder: Path, case: StructBertCase) -> None:
        (folder / name).write_text(content)

    return spoil


def said(name: str, **changes: Any) -> Callable[[Path, StructBertCase], None]:
    def spoil(folder: Path, case: StructBertCase) -> None:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, **changes}))

    return spoil


def lacking(key: str) -> Callable[[Path, StructBertCase], None]:
    return lambda folder, case: torch.save(
        {name: tensor for name, tensor in case.weights.items() if name != key}, folder / "pytorch_model.bin"
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("config.json"), "config.json is missing"),
        (without("vocab.txt"), "vocab.txt is missing"),
        (without("pytorch_model.bin"), "pytorch_model.bin is missing"),
        (text("config.json", "{"), "config.json is not JSON"),
        (text("configuration.json", "[]"), "configuration.json holds no settings"),
        (text("pytorch_model.bin", "no torch"), "pytorch_model.bin"),
        (said("config.json", hidden_size="64"), "hidden_size is '64'"),
        (said("config.json", num_hidden_layers=True), "num_hidden_layers is True"),
        (said("config.json", num_attention_heads=5), "heads"),
        (said("config.json", hidden_act="relu"), "hidden_act is 'relu'"),
        (said("config.json", position_embedding_type="relative_key"), "position_embedding_type"),
        (said("config.json", vocab_size=50), "vocabulary has 130 pieces"),
        (said("config.json", adv_grad_factor="much"), "adv_grad_factor is 'much'"),
        (text("label_mapping.json", '{"a": 0, "b": 2}'), r"\[0, 2\]"),
        (text("label_mapping.json", '{"a": 0, "b": "one"}'), "'one'"),
        (text("label_mapping.json", '{"a": 0}'), "1 labels"),
        (text("label_mapping.json", '{"a": 0, "b": 1}'), "classifier.weight: stored \\[3, 64\\]"),
        (said("config.json", num_hidden_layers=4), "bert.encoder.layer.3.attention.self.query.weight"),
        (lacking("bert.pooler.dense.weight"), "missing: bert.pooler.dense.weight"),
        (said("configuration.json", model={"type": "structbert", "pooling": "max"}), "pooling is 'max'"),
        (said("configuration.json", preprocessor={"max_length": 3}), "max_length is 3"),
    ],
)
def test_a_broken_folder_says_what_is_wrong(
    spoil: Callable[[Path, StructBertCase], None], message: str, tmp_path: Path
) -> None:
    case = read_structbert_case("seq_cls")
    spoil(case.write(tmp_path / "spoilt"), case)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "spoilt", Classifier)
    assert "spoilt" in str(caught.value)


def test_a_head_of_another_task_is_missed(tmp_path: Path) -> None:
    case = read_structbert_case("token_cls")
    with pytest.raises(MismatchError, match=r"bert\.pooler\.dense"):
        load(case.write(tmp_path), Classifier)


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    folder = read_structbert_case("seq_cls").write(tmp_path)
    with pytest.raises(CheckpointError, match="'siamese-uie'"):
        load_task(folder, "siamese-uie")


def test_adapters_of_states_that_are_not_there_are_refused(tmp_path: Path) -> None:
    case = read_plug_mental_case()
    case.config.update(adapter_list=[4], adapter_size=768)
    with pytest.raises(CheckpointError, match="state 4"):
        load(case.write(tmp_path), Classifier)
