from __future__ import annotations

import json
from typing import Any

import pytest

from golden.mplug_cases import tiny_config, tiny_whole_config
from mplug.config import GenerationDefaults, ImageEncoderConfig, MplugConfig, TextEncoderConfig
from mplug.errors import ConfigError
from mplug.preprocess import PreprocessConfig


def test_json_round_trip() -> None:
    generation = GenerationDefaults(min_length=8, max_length=25, beam_size=3)
    for config in (
        tiny_config(licence="research use"),
        tiny_whole_config(generation=generation),
        tiny_whole_config(fusion_encoder=None),
    ):
        assert MplugConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_files_from_before_there_were_decoders_are_read() -> None:
    values = tiny_config().to_dict()
    for key in ("fusion_encoder", "text_decoder", "generation"):
        del values[key]
    assert MplugConfig.from_dict(values) == tiny_config()


def changed(path: str, value: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(tiny_whole_config().to_dict()))
    *outer, last = path.split(".")
    place = values
    for key in outer:
        place = place[key]
    if value is None and last != "adapter_width":
        del place[last]
    else:
        place[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("layrs", 3, "unknown keys in the configuration: layrs; known are"),
        ("text_encoder.layrs", 3, "unknown keys in text_encoder: layrs"),
        ("text_encoder.layers", None, "missing keys in text_encoder: layers"),
        ("text_encoder", None, "missing keys in the configuration: text_encoder"),
        ("text_encoder", 3, "text_encoder must be a JSON object, not 3"),
        ("text_encoder.layers", "six", "text_encoder.layers is 'six'; it must be int"),
        ("text_encoder.layers", True, "text_encoder.layers is True; it must be int"),
        ("text_encoder.layers", 1.5, "text_encoder.layers is 1.5; it must be int"),
        ("text_encoder.heads", 5, r"heads is 5; it must divide text_encoder.hidden \(48\)"),
        ("lower_case", 1, "lower_case is 1; it must be bool"),
        ("image_encoder.adapter_width", 47, "image tokens are 47 wide, text states 48"),
        ("image_encoder.adapter_width", None, "image tokens are 64 wide"),
        ("max_text_tokens", 41, "max_text_tokens is 41; it must lie between 2 and"),
        ("preprocess.mean", [0.5, 0.5], "preprocess.mean has 2 values"),
        ("preprocess.mean", ["a", 0.5, 0.5], "preprocess.mean is 'a'; it must be float"),
        ("preprocess.std", [0.5, 0.0, 0.5], "every value must be above 0"),
        ("preprocess.image_size", 0, "image_size is 0"),
        ("fusion_encoder", 3, "fusion_encoder must be a JSON object, not 3"),
        ("fusion_encoder.strides", 3, "unknown keys in fusion_encoder: strides"),
        ("fusion_encoder.stride_layer", None, "missing keys in fusion_encoder: stride_layer"),
        ("fusion_encoder.stride_layer", 0, "fusion_encoder.stride_layer is 0; it must be at least 1"),
        ("fusion_encoder.layers", 0, "fusion_encoder.layers is 0; it must be at least 1"),
        (
            "fusion_encoder.heads",
            5,
            r"fusion_encoder.heads is 5; it must divide fusion_encoder.hidden \(48\)",
        ),
        ("fusion_encoder.memory_width", 64, "connected layers join image and text to one sequence"),
        ("fusion_encoder.hidden", 64, "connected layers join image and text to one sequence"),
        ("text_decoder.layers", 0, "text_decoder.layers is 0; it must be at least 1"),
        ("text_decoder.heads", 0, "text_decoder.heads is 0; it must divide"),
        ("text_decoder.memory_width", 64, "text_decoder.memory_width is 64; the image tokens are 48 wide"),
        ("text_decoder.eos_id", 130, r"eos_id is 130; it must lie below text_decoder.vocab_size \(130\)"),
        ("text_decoder.pad_id", -1, "text_decoder.pad_id is -1"),
        ("generation.min_length", 11, r"min_length is 11; it must lie between 0 and .*max_length \(10\)"),
        ("generation.beam_size", 0, "generation.beam_size is 0; it must be at least 1"),
    ],
)
def test_mistakes_are_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MplugConfig.from_dict(changed(path, value))


def test_whole_numbers_serve_as_floats() -> None:
    config = MplugConfig.from_dict(changed("text_encoder.dropout", 0))
    assert isinstance(config.text_encoder.dropout, float)


def test_defaults_are_mplugs() -> None:
    config = MplugConfig(
        name="base",
        image_encoder=ImageEncoderConfig(backbone="timm:vit_base_patch16_clip_quickgelu_224", width=768),
        text_encoder=TextEncoderConfig(vocab_size=30522, hidden=768, layers=6, heads=12, ffn=3072),
        preprocess=PreprocessConfig(image_size=224),
    )
    assert (config.embed_dim, config.max_text_tokens, config.text_encoder.eps) == (256, 25, 1e-12)
    assert config.image_encoder.output_width == 768


def test_fusion_takes_the_widths_of_what_it_mixes() -> None:
    values = changed("fusion_encoder.memory_width", 64)
    values["fusion_encoder"]["stride_layer"] = 4  # no connected layer
    with pytest.raises(
        ConfigError, match="memory_width 64; the text states are 48 wide, the image tokens 48"
    ):
        MplugConfig.from_dict(values)
