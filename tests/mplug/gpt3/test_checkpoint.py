"""Folders in either layout, in one file or in several, there and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden.drawn_weights import check_rank
from golden.gpt3_cases import CASES, read_gpt3_case, tiny_generator
from mplug import gpt3
from mplug.checkpoints.report import MismatchError
from mplug.errors import CheckpointError, MplugError
from mplug.gpt3.config import Layout

DIST, BASE = read_gpt3_case("dist"), read_gpt3_case("base")


def tensors(folder: Path) -> dict[str, Tensor]:
    return gpt3.load(folder).decoder.state_dict()


def same(ones: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return ones.keys() == others.keys() and all(torch.equal(ones[name], others[name]) for name in ones)


def state(folder: Path, rank: int) -> dict[str, dict[str, Tensor]]:
    path = folder / "model" / f"mp_rank_{rank:02d}_model_states.pt"
    read: dict[str, dict[str, Tensor]] = torch.load(path, weights_only=True)
    return read


@pytest.mark.parametrize("name", CASES)
def test_everything_in_a_folder_is_used(name: str, tmp_path: Path) -> None:
    generator = gpt3.load(read_gpt3_case(name).write(tmp_path / "nlp_gpt3"))
    assert generator.name == "nlp_gpt3"
    assert not generator.training
    assert set(generator.report.loaded) == set(generator.decoder.state_dict())
    assert (generator.report.missing, generator.report.unknown, generator.report.unused) == ((), (), ())
    assert generator.num_parameters == sum(t.numel() for t in read_gpt3_case(name).weights.values())


@pytest.mark.parametrize("files", [2, 4])
def test_files_of_ranks_are_merged(files: int, tmp_path: Path) -> None:
    assert same(tensors(DIST.write(tmp_path / "one")), tensors(DIST.write(tmp_path / "more", files=files)))


@pytest.mark.parametrize("read", [1, 2, 4])
def test_two_ranks_are_written_as_the_reference_has_them(read: int, tmp_path: Path) -> None:
    generator = gpt3.load(DIST.write(tmp_path / "read", files=read))
    gpt3.save(generator, tmp_path / "written", ranks=2)
    for rank in (0, 1):
        check_rank("gpt3", rank, state(tmp_path / "written", rank))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_what_is_saved_is_loaded(ranks: int, tmp_path: Path) -> None:
    generator = tiny_generator(seed=ranks)
    gpt3.save(generator, tmp_path / "tiny", ranks=ranks)
    again = gpt3.load(tmp_path / "tiny")
    assert again.config == generator.config
    assert same(again.decoder.state_dict(), generator.decoder.state_dict())
    assert again.read("今天天气").first == generator.read("今天天气").first


def test_the_plain_layout_is_written_as_it_was_read(tmp_path: Path) -> None:
    generator = gpt3.load(BASE.write(tmp_path / "read"))
    gpt3.save(generator, tmp_path / "read" / "written")
    written = torch.load(tmp_path / "read" / "written" / "pytorch_model.bin", weights_only=True)
    assert list(written) == [f"model.{name}" for name in BASE.weights]
    assert all(torch.equal(written[f"model.{name}"], tensor) for name, tensor in BASE.weights.items())
    assert same(tensors(tmp_path / "read" / "written"), generator.decoder.state_dict())


def test_files_are_no_larger_than_their_tensors(tmp_path: Path) -> None:
    gpt3.save(tiny_generator(), tmp_path, ranks=4)
    held = sum(tensor.nbytes for tensor in state(tmp_path, 0)["module"].values())
    assert (tmp_path / "model" / "mp_rank_00_model_states.pt").stat().st_size < held + 30_000


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights},
        lambda weights: {name.removeprefix("model."): tensor for name, tensor in weights.items()},
        lambda weights: {name: tensor.half() for name, tensor in weights.items()},
    ],
)
def test_other_ways_to_keep_the_plain_weights(
    wrap: Callable[[dict[str, Tensor]], dict[str, object]], tmp_path: Path
) -> None:
    folder = BASE.write(tmp_path)
    expected = tensors(folder)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(wrap(weights), folder / "pytorch_model.bin")
    found = tensors(folder)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    assert all(torch.allclose(found[name], expected[name], atol=2e-3) for name in expected)


def test_files_from_before_zip_are_read(tmp_path: Path) -> None:
    folder = BASE.write(tmp_path)
    expected = tensors(folder)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert same(tensors(folder), expected)


def test_a_type_and_no_numbers(tmp_path: Path) -> None:
    folder = DIST.write(tmp_path, files=2)
    assert gpt3.load(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    empty = gpt3.load(folder, shapes_only=True)
    assert empty.device.type == "meta"
    assert empty.report == gpt3.load(folder).report


def spoil_missing_rank(folder: Path) -> None:
    (folder / "model" / "mp_rank_01_model_states.pt").unlink()


def spoil_number_of_ranks(folder: Path) -> None:
    (folder / "model" / "mp_rank_03_model_states.pt").unlink()


def spoil_all_ranks(folder: Path) -> None:
    for path in (folder / "model").iterdir():
        path.unlink()


def spoil_names(folder: Path) -> None:
    torch.save({"module": {"odd": torch.zeros(2)}}, folder / "model" / "mp_rank_02_model_states.pt")


def spoil_parts(folder: Path) -> None:
    held = state(folder, 1)
    name = next(name for name in held["module"] if "word_embeddings" in name)
    held["module"][name] = held["module"][name][:5]
    torch.save(held, folder / "model" / "mp_rank_01_model_states.pt")


def spoil_config(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "hidden_size": 128}))


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_missing_rank, "lacks mp_rank_01_model_states.pt, and has mp_rank_03"),
        (spoil_number_of_ranks, "holds 3 files of ranks; it must be a power of two"),
        (spoil_all_ranks, "holds no mp_rank_00_model_states.pt"),
        (
            spoil_names,
            "mp_rank_02_model_states.pt and mp_rank_00_model_states.pt in .* hold different tensors",
        ),
        (spoil_parts, "word_embeddings"),
        (spoil_config, r"52 have another shape: .*query_key_value\.bias: stored \[64\], expected \[128\]"),
        (spoil_tokenizer, "tokenizer.json is missing"),
    ],
)
def test_broken_folders_are_refused(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = DIST.write(tmp_path, files=4)
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        gpt3.load(folder)


def test_what_is_missing_and_what_is_unknown_have_the_file_s_names(tmp_path: Path) -> None:
    folder = BASE.write(tmp_path)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**weights, "model.novelty": torch.zeros(2)}, folder / "pytorch_model.bin")
    assert gpt3.load(folder).report.unknown == ("model.novelty",)
    del weights["model.language_model.transformer.layers.1.attention.query_key_value.bias"]
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(MismatchError, match=r"layers\.1\.attention\.query_key_value\.bias") as refused:
        gpt3.load(folder)
    assert refused.value.report.missing == tuple(
        f"layers.1.attention.{part}.bias" for part in ("key", "query", "value")
    )


@pytest.mark.parametrize(
    ("layout", "ranks", "message"),
    [
        ("plain", 2, "ranks is 2; the plain layout has one file"),
        ("distributed", 3, "ranks is 3; it must be a power of two"),
        ("distributed", 8, r"ranks is 8, which does not divide heads \(4\)"),
    ],
)
def test_ranks_that_cannot_be(layout: Layout, ranks: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(MplugError, match=message):
        gpt3.save(tiny_generator(layout), tmp_path, ranks=ranks)
    assert list(tmp_path.iterdir()) == []


def test_files_of_more_ranks_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    gpt3.save(tiny_generator(), tmp_path, ranks=4)
    with pytest.raises(MplugError, match="holds 4 files of ranks; beside 2 new ones"):
        gpt3.save(tiny_generator(), tmp_path, ranks=2)
    gpt3.save(tiny_generator(seed=1), tmp_path, ranks=4)
    assert same(tensors(tmp_path), tiny_generator(seed=1).decoder.state_dict())
