"""Folders as ModelScope has them, read, refused and written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from golden.palm_cases import CASES, read_palm_case, tiny_palm
from mplug import palm
from mplug.checkpoints.report import MismatchError
from mplug.errors import CheckpointError
from mplug.palm import SIZES, PalmConfig, PalmModel


@pytest.mark.parametrize("name", CASES)
def test_every_key_is_accounted_for(name: str, tmp_path: Path) -> None:
    case = read_palm_case(name)
    extra = {
        "palm.decoder.transformer_layers.0.mask": torch.ones(1, 4, 4, dtype=torch.uint8),
        "loss.generator.dense.bias": torch.zeros(130),
        "palm.mystery": torch.zeros(1),
    }
    report = palm.load(case.write(tmp_path / name, {**case.weights, **extra})).report
    assert report.unknown == ("palm.mystery",)
    assert report.unused == (
        "loss.generator.dense.bias",
        "palm.bert.pooler.dense.bias",
        "palm.bert.pooler.dense.weight",
        "palm.decoder.pos_emb.pe",
        "palm.decoder.transformer_layers.0.mask",
        "palm.generator.dense.weight",
    )
    keys = len(report.loaded) + len(report.unused) + len(report.unknown)
    assert keys == len({**case.weights, **extra})
    assert (report.missing, report.mis_shaped) == ((), ())


@pytest.mark.parametrize("wrapping", ["model", "palm", "prefix"])
def test_wrappings_are_taken_off_as_the_reference_does(wrapping: str, tmp_path: Path) -> None:
    case = read_palm_case("zh_bert")
    bare = {name.removeprefix("palm."): tensor for name, tensor in case.weights.items()}
    files: dict[str, Any] = {
        "model": {"model": case.weights},
        "palm": {"palm": bare},
        "prefix": {f"model.palm.{name}": tensor for name, tensor in bare.items()},
    }
    wanted = palm.load(case.write(tmp_path / "plain")).state_dict()
    found = palm.load(case.write(tmp_path / wrapping, files[wrapping])).state_dict()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("name", CASES)
def test_a_folder_written_is_the_folder_read(name: str, tmp_path: Path) -> None:
    case = read_palm_case(name)
    model = palm.load(case.write(tmp_path / name))
    palm.save(model, tmp_path / "again" / name)

    again = palm.load(tmp_path / "again" / name)

    assert again.config == model.config
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    written = torch.load(tmp_path / "again" / name / "pytorch_model.bin", weights_only=True)
    computed = {"palm.decoder.pos_emb.pe", "palm.bert.pooler.dense.weight", "palm.bert.pooler.dense.bias"}
    assert written.keys() == case.weights.keys() - computed
    assert all(torch.equal(tensor, case.weights[key]) for key, tensor in written.items())
    read = model.tokenizer.encode("piece7 the cat").ids.tolist()
    assert again.tokenizer.encode("piece7 the cat").ids.tolist() == read


def test_a_missing_tensor_is_named_as_the_file_would(tmp_path: Path) -> None:
    case = read_palm_case("zh_bert")
    gone = "palm.decoder.transformer_layers.1.feed_forward.w_1.bias"
    wrong = "palm.bert.embeddings.word_embeddings.weight"
    weights = {name: tensor for name, tensor in case.weights.items() if name != gone}
    weights[wrong] = weights[wrong][:-1]
    with pytest.raises(MismatchError, match=r"transformer_layers\.1\.feed_forward\.w_1\.bias") as refused:
        palm.load(case.write(tmp_path / "zh", weights))
    assert refused.value.report.mis_shaped[0].key == wrong.removeprefix("palm.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share_emb": True}, "share_emb is True"),
        ({"max_pos": 1024}, "max_pos 1024"),
        ({"dec_hidden_size": 32}, "dec_hidden_size is 32, the encoder is 64 wide"),
        ({"dec_heads": 7}, "dec_heads is 7; it must divide"),
        ({"encoder_pth": "elsewhere"}, "vocab.txt is missing"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"label_smoothing": 1}, r"label_smoothing is 1\.0"),
        ({"encoder": "gpt"}, "encoder is 'gpt'"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = read_palm_case("zh_bert").write(tmp_path / "zh", **change)
    if "encoder_pth" in change:
        (folder / "elsewhere" / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=message):
        palm.load(folder)


def test_sequence_length_is_the_preprocessor_s(tmp_path: Path) -> None:
    folder = read_palm_case("zh_bert").write(tmp_path / "zh")
    assert palm.load(folder).config.max_length == 40, "128 by default, and no more than there are positions"
    (folder / "configuration.json").write_text(json.dumps({"preprocessor": {"sequence_length": 20}}))
    assert palm.load(folder).config.max_length == 20
    (folder / "configuration.json").write_text(json.dumps({"preprocessor": {"sequence_length": "long"}}))
    with pytest.raises(CheckpointError, match="sequence_length is 'long'"):
        palm.load(folder)


def test_the_meta_device_shows_whether_everything_is_there(tmp_path: Path) -> None:
    case = read_palm_case("roberta")
    model = palm.load(case.write(tmp_path / "en"), shapes_only=True)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert len(model.report.loaded) == len(list(model.parameters()))


def test_weights_can_be_bfloat16(tmp_path: Path) -> None:
    model = palm.load(read_palm_case("zh_bert").write(tmp_path / "zh"), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training


def test_named_sizes_are_counted_without_memory() -> None:
    assert {name: palm.count_parameters(config) for name, config in SIZES.items()} == {
        "chinese-base": 231_347_336,
        "english-base": 276_131_673,
    }


def test_a_tiny_model_s_settings_survive(tmp_path: Path) -> None:
    model = tiny_palm(label_smoothing=0.0, length_penalty=0.6)
    palm.save(model, tmp_path / "tiny")
    again = palm.load(tmp_path / "tiny").config
    # The reference's files have no place for these two, constants of its code.
    decoder = dataclasses.replace(again.decoder, positions=64)
    assert dataclasses.replace(again, decoder=decoder, encoder_folder="roberta-base") == model.config
    assert isinstance(again, PalmConfig)
    with torch.device("meta"):
        PalmModel(again)
