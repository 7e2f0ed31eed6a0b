"""ModelScope's two files, and the sizes by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mplug.errors import CheckpointError, ConfigError
from mplug.gpt3 import SIZES, Gpt3Config, Gpt3Decoder, Gpt3Sampling, count_parameters
from mplug.gpt3.settings import read_settings, write_settings

COUNTED = {
    "base": 106_289_664,
    "large": 330_622_976,
    "1.3B": 1_265_225_728,
    "2.7B": 2_588_431_360,
    "13B": 12_727_142_400,
    "30B": 29_797_677_056,
}


def write(folder: Path, values: dict[str, Any], configuration: dict[str, Any] | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "configuration.json").write_text(json.dumps(configuration or {}))
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_counted_parameters_of_the_published_sizes(size: str) -> None:
    config = SIZES[size]
    # By hand: two tables, 12 D^2 + 13 D a layer, one norm behind.
    tables, layer = (config.vocab_size + config.positions) * config.hidden, 12 * config.hidden + 13
    by_hand = tables + config.layers * layer * config.hidden + 2 * config.hidden
    assert count_parameters(config) == by_hand == COUNTED[size]


def test_the_sizes_are_those_of_the_cards() -> None:
    assert {name: (one.layers, one.heads, one.hidden) for name, one in SIZES.items()} == {
        "base": (12, 12, 768),
        "large": (24, 16, 1024),
        "1.3B": (24, 32, 2048),
        "2.7B": (32, 32, 2560),
        "13B": (40, 40, 5120),
        "30B": (48, 56, 7168),
    }
    assert [one.layout for one in SIZES.values()] == ["plain"] * 2 + ["distributed"] * 4


def test_a_decoder_is_made_on_the_meta_device() -> None:
    with torch.device("meta"):
        decoder = Gpt3Decoder(SIZES["13B"])
    assert all(parameter.is_meta for parameter in decoder.parameters())


def test_defaults_are_the_reference_s(tmp_path: Path) -> None:
    plain = read_settings(write(tmp_path, {}))
    assert plain == Gpt3Config(name=tmp_path.name, layout="plain")
    assert (plain.vocab_size, plain.positions, plain.eps, plain.eod_id) == (25600, 2048, 1e-12, 1)
    assert plain.sampling == Gpt3Sampling(tokens_to_generate=100, top_k=0, top_p=0.9, temperature=1.0)
    distributed = read_settings(write(tmp_path, {}, {"megatron": {"world_size": 1}}))
    assert distributed == Gpt3Config(name=tmp_path.name, layout="distributed", approximate="tanh")


def test_what_the_layouts_read(tmp_path: Path) -> None:
    values = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "ffn_hidden_size": 100,
        "intermediate_size": 7,
        "hidden_act": "relu",
        "hidden_dropout": 0.2,
        "hidden_dropout_prob": 0.3,
        "bias_gelu_fusion": False,
        "kv_channels": 16,
        "transformers_version": "4",
    }
    plain = read_settings(write(tmp_path, values, {"preprocessor": {"sequence_length": 32}}))
    distributed = read_settings(write(tmp_path, values, {"megatron": {}}))
    assert (plain.ffn, plain.dropout, plain.approximate, plain.prompt_tokens) == (256, 0.3, "none", 32)
    assert (distributed.ffn, distributed.dropout, distributed.approximate) == (100, 0.2, "none")


@pytest.mark.parametrize("layout", ["plain", "distributed"])
def test_settings_are_written_as_they_are_read(layout: Any, tmp_path: Path) -> None:
    config = Gpt3Config(
        name=tmp_path.name,
        layout=layout,
        vocab_size=99,
        hidden=32,
        layers=3,
        heads=2,
        ffn=128,
        positions=77,
        eps=1e-5,
        approximate="none" if layout == "plain" else "tanh",
        dropout=0.25,
        eod_id=9,
        prompt_tokens=50,
        sampling=Gpt3Sampling(tokens_to_generate=5, top_k=1, top_p=0.0, temperature=0.5),
    )
    write_settings(config, tmp_path, ranks=4)
    assert read_settings(tmp_path) == config
    megatron = json.loads((tmp_path / "configuration.json").read_text()).get("megatron")
    assert megatron == (None if layout == "plain" else {"world_size": 4, "tensor_model_parallel_size": 4})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 100}, r"heads is 12; it must divide hidden \(100\)"),
        ({"num_hidden_layers": 0}, "layers is 0; it must be at least 1"),
        ({"eod_id": 25600}, r"eod_id is 25600; it must lie below vocab_size \(25600\)"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; it must be int"),
        ({"apply_residual_connection_post_layernorm": True}, "residuals from behind the norms"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_settings(write(tmp_path, values))


def test_a_length_that_cannot_be(tmp_path: Path) -> None:
    for length, message in (
        (2, "prompt_tokens is 2"),
        ("long", "sequence_length of configuration.json is 'long'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_settings(write(tmp_path, {}, {"preprocessor": {"sequence_length": length}}))


@pytest.mark.parametrize("name", ["config.json", "configuration.json"])
def test_missing_files_are_named(name: str, tmp_path: Path) -> None:
    write(tmp_path, {})
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing in"):
        read_settings(tmp_path)


def test_an_unknown_layout() -> None:
    with pytest.raises(ConfigError, match="layout is 'odd'; known are plain, distributed"):
        dataclasses.replace(SIZES["base"], layout="odd")  # type: ignore[arg-type]
