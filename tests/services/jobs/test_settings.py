"""What a client may set: nothing that names a thing of the server, unless it is under a job root."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug.train.recipes import RECIPES
from mplug_services.errors import ServiceError
from mplug_services.jobs.recipes import BACKBONE, FILES, START, TEXTS, read_order
from mplug_services.jobs.roots import JobRoots

FIELD = "options.train"
Code = grpc.StatusCode


def no_model(name: str) -> None:
    """There is none."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> JobRoots:
    folder = tmp_path_factory.mktemp("root")
    (folder / "start").mkdir()
    (folder / "dev.jsonl").write_text("{}")
    return JobRoots({"files": folder})


def order(roots: JobRoots, *settings: str, recipe: str = "finetune-captioning") -> Any:
    return read_order(recipe, ["start=own", *settings], roots, {"own": "/models/own"}.get, FIELD)


def refusal(roots: JobRoots, *settings: str, recipe: str = "finetune-captioning") -> Any:
    with pytest.raises(ServiceError) as refused:
        order(roots, *settings, recipe=recipe)
    return refused.value.failure


def test_names_become_places_and_the_rest_stays(roots: JobRoots) -> None:
    made = order(roots, "epochs=3", "dev=files/dev.jsonl", "goal=bleu_4", "start=files/start")
    (root,) = (path for path, name in roots.names() if name == "files")
    assert made.overrides == (
        "start=/models/own",
        "epochs=3",
        f"dev={root}/dev.jsonl",
        "goal=bleu_4",
        f"start={root}/start",
    )
    assert (made.row_task, made.served_tasks) == ("caption", ("caption",))


@pytest.mark.parametrize(
    ("recipe", "row_task", "served"),
    [
        ("finetune-vqa", "vqa", ("vqa",)),
        ("finetune-retrieval", "retrieval", ("retrieval", "rerank")),
    ],
)
def test_a_recipe_says_what_its_rows_and_its_model_are(
    roots: JobRoots, recipe: str, row_task: str, served: tuple[str, ...]
) -> None:
    made = order(roots, recipe=recipe)
    assert (made.row_task, made.served_tasks) == (row_task, served)


@pytest.mark.parametrize(
    ("settings", "code", "reason", "said"),
    [
        (["epochs=many"], Code.INVALID_ARGUMENT, "BAD_SETTING", "expected int"),
        (["epochs"], Code.INVALID_ARGUMENT, "BAD_SETTING", "expected name=value"),
        (["epoch=3"], Code.INVALID_ARGUMENT, "BAD_SETTING", "no field 'epoch'"),
        (["start=/etc"], Code.PERMISSION_DENIED, "DATA_ACCESS_DENIED", "job root"),
        (["start=files/../files/start"], Code.PERMISSION_DENIED, "DATA_ACCESS_DENIED", "job root"),
        (["start=gone"], Code.PERMISSION_DENIED, "DATA_ACCESS_DENIED", "job root"),
        (["dev=/etc/passwd"], Code.PERMISSION_DENIED, "DATA_ACCESS_DENIED", "job root"),
        (["backbone=timm:hf-hub:someone/model"], Code.PERMISSION_DENIED, "SETTING_NOT_ALLOWED", "backbone"),
        (["backbone=timm:local-dir:/etc"], Code.PERMISSION_DENIED, "SETTING_NOT_ALLOWED", "backbone"),
    ],
)
def test_a_refusal_names_the_setting(
    roots: JobRoots, settings: list[str], code: grpc.StatusCode, reason: str, said: str
) -> None:
    failure = refusal(roots, *settings)
    assert (failure.code, failure.reason, failure.field) == (code, reason, f"{FIELD}.settings[1]")
    assert said in failure.message


def test_a_recipe_that_is_none_is_refused_with_those_that_are(roots: JobRoots) -> None:
    failure = refusal(roots, recipe="dance")
    assert (failure.reason, failure.field) == ("UNKNOWN_RECIPE", f"{FIELD}.recipe")
    assert "finetune-captioning" in failure.message


def test_a_start_is_asked_for(roots: JobRoots) -> None:
    with pytest.raises(ServiceError) as refused:
        read_order("finetune-captioning", ["epochs=1"], roots, no_model, FIELD)
    assert refused.value.failure.reason == "NO_START"


def texts_of(config: Any, path: str = "") -> Iterator[str]:
    """Dotted names of all fields that hold a text, or could."""
    for field in dataclasses.fields(config):
        name, value = f"{path}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from texts_of(value, f"{name}.")
        elif value is None or isinstance(value, str | dict):
            yield name


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_text_of_any_recipe_leads_to_the_disk(roots: JobRoots, recipe: str) -> None:
    """Fields that recipes gain later are held, too."""
    config = RECIPES[recipe].config()
    names = list(texts_of(config))
    assert names
    for name in names:
        last = name.rpartition(".")[2]
        if last in TEXTS:
            continue
        for value in ("/etc/passwd", "../../etc/passwd", "local-dir:/etc", "{'file': '/etc/passwd'}"):
            with pytest.raises(ServiceError):
                read_order(recipe, ["start=own", f"{name}={value}"], roots, {"own": "/own"}.get, FIELD)
    assert not {START, BACKBONE, *FILES} & TEXTS


@given(st.text())
def test_whatever_is_named_lies_under_its_root(roots: JobRoots, name: str) -> None:
    folder = Path(roots.names()[0][0])
    for tried in (name, f"files/{name}"):
        try:
            found = roots.resolve(tried, "data")
        except ServiceError as error:
            assert error.failure.code in (Code.PERMISSION_DENIED, Code.NOT_FOUND)
        else:
            assert found.is_relative_to(folder)
