"""Text models as int8 rows: how the small ones ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from golden.gpt3_cases import tiny_generator
from golden.palm_cases import tiny_palm
from golden.plug_cases import tiny_plug
from golden.structbert_cases import tiny, tiny_config
from mplug import gpt3, palm, plug, structbert
from mplug.checkpoints.quantize import quantize, widen
from mplug.errors import CheckpointError, MplugError
from mplug.structbert import Classifier, WordFiller


@dataclass(frozen=True)
class Family:
    """A family's own functions; any: each has its own kind of model."""

    make: Callable[[], Any]
    save: Callable[..., None]
    load: Callable[..., Any]
    hub_file: str
    embeddings: str
    """Name of a table in the file."""


def load_classifier(folder: Path, **options: Any) -> Classifier:
    return structbert.load(folder, Classifier, **options)


def load_filler(folder: Path, **options: Any) -> WordFiller:
    return structbert.load(folder, WordFiller, **options)


FAMILIES = {
    "gpt3 plain": Family(
        lambda: tiny_generator("plain", ffn=128),
        gpt3.save,
        gpt3.load,
        "pytorch_model.bin",
        "model.language_model.word_embeddings.weight",
    ),
    "gpt3 distributed": Family(
        lambda: tiny_generator("distributed"),
        gpt3.save,
        gpt3.load,
        "model/mp_rank_00_model_states.pt",
        "language_model.embedding.word_embeddings.weight",
    ),
    "palm": Family(tiny_palm, palm.save, palm.load, "pytorch_model.bin", "palm.decoder.embeddings.weight"),
    "palm roberta": Family(
        lambda: tiny_palm(roberta=True),
        palm.save,
        palm.load,
        "pytorch_model.bin",
        "palm.decoder.embeddings.weight",
    ),
    "plug": Family(
        tiny_plug,
        partial(plug.save, ranks=1),
        plug.load,
        "model/mp_rank_00_model_states.pt",
        "bert.embeddings.word_embeddings.weight",
    ),
    "structbert classifier": Family(
        lambda: tiny(Classifier, tiny_config(task="nli")),
        structbert.save,
        load_classifier,
        "pytorch_model.bin",
        "bert.embeddings.word_embeddings.weight",
    ),
    "structbert filler": Family(
        lambda: tiny(WordFiller, tiny_config(labels=(), task="fill-mask")),
        structbert.save,
        load_filler,
        "pytorch_model.bin",
        "bert.embeddings.word_embeddings.weight",
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def rounded(model: nn.Module) -> dict[str, Tensor]:
    """What int8 makes of a model's tensors: rows are rounded alone, wherever they stand in a file."""
    return widen(quantize(model.state_dict()))


@every_family
def test_what_is_read_is_what_was_rounded(family: Family, tmp_path: Path) -> None:
    model = family.make()
    family.save(model, tmp_path / "tiny", storage="int8")
    again = family.load(tmp_path / "tiny")

    wanted, found = rounded(model), again.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), name
    assert (again.report.unknown, again.report.missing) == ((), ())
    assert not again.training


@every_family
def test_the_file_is_small_and_holds_every_table_once(family: Family, tmp_path: Path) -> None:
    model = family.make()
    family.save(model, tmp_path, storage="int8")
    assert not (tmp_path / family.hub_file).exists()
    stored = load_file(tmp_path / "model.safetensors")
    assert stored[family.embeddings].dtype == torch.int8
    assert stored[f"{family.embeddings}.scale"].dtype == torch.float16
    held = [tensor for name, tensor in stored.items() if not name.endswith((".scale", "position_ids"))]
    # Every parameter once, and none of what is computed.
    assert sum(tensor.numel() for tensor in held) == sum(each.numel() for each in model.parameters())


@every_family
def test_a_type_and_no_numbers(family: Family, tmp_path: Path) -> None:
    model = family.make()
    family.save(model, tmp_path, storage="int8")
    half = family.load(tmp_path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.parameters()} == {torch.bfloat16}
    empty = family.load(tmp_path, shapes_only=True)
    assert {tensor.device.type for tensor in empty.parameters()} == {"meta"}
    assert empty.report.loaded == half.report.loaded


@every_family
def test_two_files_of_weights_are_refused(family: Family, tmp_path: Path) -> None:
    model = family.make()
    family.save(model, tmp_path / "one", storage="int8")
    family.save(model, tmp_path / "other")
    (tmp_path / "one" / "model.safetensors").rename(tmp_path / "other" / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"holds model.safetensors and {family.hub_file}"):
        family.load(tmp_path / "other")


@every_family
@pytest.mark.parametrize("first", ["modelscope", "int8"])
def test_no_second_file_is_written(family: Family, first: str, tmp_path: Path) -> None:
    model = family.make()
    second = "int8" if first == "modelscope" else "modelscope"
    family.save(model, tmp_path, storage=first)
    there = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    family.save(model, tmp_path, storage=first)
    with pytest.raises(MplugError, match="take another folder, or remove it"):
        family.save(model, tmp_path, storage=second)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {path.name for path in there}


@every_family
def test_an_unknown_storage_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(MplugError, match="storage is 'int4'; known are modelscope, int8"):
        family.save(family.make(), tmp_path / "new", storage="int4")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["gpt3 plain", "gpt3 distributed", "plug"])
def test_int8_is_not_parted_among_ranks(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    with pytest.raises(MplugError, match=r"ranks is 2; .* has one file, so it must be 1"):
        family.save(family.make(), tmp_path, ranks=2, storage="int8")


@pytest.mark.parametrize("spoil", ["lost scale", "short scale", "cut file"])
def test_broken_files_are_named(spoil: str, tmp_path: Path) -> None:
    palm.save(tiny_palm(), tmp_path, storage="int8")
    path = tmp_path / "model.safetensors"
    name = "palm.bert.encoder.layer.0.output.dense.weight"
    stored = load_file(path)
    if spoil == "cut file":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        scale = stored.pop(f"{name}.scale")
        save_file(stored | ({f"{name}.scale": scale[:-1]} if spoil == "short scale" else {}), path)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors is not a whole|dense\.weight has int8 rows"
    ):
        palm.load(tmp_path)


def test_whole_tensors_are_read_as_well(tmp_path: Path) -> None:
    model = tiny_palm()
    palm.save(model, tmp_path)
    whole = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    (tmp_path / "pytorch_model.bin").unlink()
    save_file({name: tensor.clone() for name, tensor in whole.items()}, tmp_path / "model.safetensors")
    again = palm.load(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_names_in_the_file_are_the_hub_s(tmp_path: Path) -> None:
    model = tiny_generator("plain", ffn=128)
    gpt3.save(model, tmp_path / "hub")
    gpt3.save(model, tmp_path / "own", storage="int8")
    hub = torch.load(tmp_path / "hub" / "pytorch_model.bin", weights_only=True)
    with safe_open(tmp_path / "own" / "model.safetensors", framework="pt") as file:
        assert {key.removesuffix(".scale") for key in file.keys()} == hub.keys()  # noqa: SIM118 - not a mapping
