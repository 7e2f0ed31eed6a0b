"""CoCa on our engine against what open_clip's own modules and its own `generate` make of the same weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden.coca_cases import (
    BOS,
    EOS,
    NAME,
    CocaCase,
    add_bonus,
    random_weights,
    read_golden,
    register,
    write_checkpoint,
)
from mplug.coca import CocaModel
from mplug.coca_decoder import CocaDecoder
from mplug.errors import CheckpointError, MplugError
from mplug.freezing import freeze
from mplug.generation import Finished, GenerationConfig, Token, generate
from mplug.loading import load
from mplug.open_clip_model import OpenClipModel

GOLDEN = read_golden()
CASES = {case.name: case for case in GOLDEN.cases}
GREEDY = [name for name in CASES if name.startswith("greedy")]
BEAMS = [name for name in CASES if name not in GREEDY]


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    # open_clip logs through the root logger, which then gets a handler.
    before = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = before


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("coca"), GOLDEN)


@pytest.fixture
def model(source: str) -> CocaModel:
    return captioner(source)


def captioner(source: str) -> CocaModel:
    model = load(source, task="caption")
    assert isinstance(model, CocaModel)
    return model


def settings_of(case: CocaCase) -> dict[str, Any]:
    """open_clip's options in our words: lengths without the prompt, one group's beams."""
    options, prompt = case.options, len(case.options.get("text", [BOS]))
    settings: dict[str, Any] = {"repetition_penalty": options.get("repetition_penalty", 1.0)}
    settings["min_length"] = max(0, options.get("min_seq_len", 5) - prompt)
    settings["max_length"] = options.get("seq_len", 30) - prompt
    if "generation_type" in options:
        return {**settings, "method": "greedy"}
    return {**settings, "beam_size": options.get("num_beams", 6) // options.get("num_beam_groups", 3)}


def ids_of(model: CocaModel, images: Tensor, config: GenerationConfig) -> list[list[int]]:
    return [list(best.hypothesis.ids) for best, *_ in model.caption(images, config)]


@pytest.mark.parametrize("name", BEAMS)
def test_captions_are_open_clip_s(name: str, model: CocaModel) -> None:
    case = CASES[name]
    add_bonus(model.text_decoder.multimodal, case.bonus)
    config = model.generation_config(**settings_of(case))
    assert ids_of(model, GOLDEN.pixels, config) == case.ids
    each = [ids_of(model, GOLDEN.pixels[one : one + 1], config)[0] for one in range(len(case.ids))]
    assert each == case.ids


def test_the_default_is_open_clip_s(model: CocaModel) -> None:
    own = {"rules": "open_clip", "beam_size": 2, "length_penalty": 1.0}
    wanted = model.generation_config(**settings_of(CASES["default"]))
    assert model.generation_config() == wanted == GenerationConfig(min_length=4, max_length=29, **own)  # type: ignore[arg-type]
    assert model.generation_config(max_length=2).min_length == 2
    assert model.generation_config(rules="mplug") == GenerationConfig(min_length=4, max_length=29)


def test_the_stored_cases_tell_searches_apart(model: CocaModel) -> None:
    found = {name: CASES[name].ids for name in BEAMS}
    assert found["default"] != found["beams3_groups1"] != found["beams8_groups2"]
    assert found["default"] == found["beams4_groups2"], "groups are copies of one search"
    assert any(row[-1] == EOS for row in found["default_early"])
    assert any(0 in row for row in found["default_padding"])
    assert ids_of(model, GOLDEN.pixels, model.generation_config(rules="mplug")) != found["default"]


@pytest.mark.parametrize("name", GREEDY)
@torch.inference_mode()
def test_greedy_is_open_clip_s_likeliest_token(name: str, model: CocaModel) -> None:
    case = CASES[name]
    add_bonus(model.text_decoder.multimodal, case.bonus)
    config = model.generation_config(**settings_of(case))
    image_BND = model.encode_image(GOLDEN.pixels)
    prompts = [list(case.options.get("text", [BOS]))] * len(image_BND)
    found = generate(
        model.text_decoder, lambda rows: model.start_decoding(image_BND[list(rows)]), prompts, config
    )
    ids = [list(best.ids) for best, *_ in found]
    # open_clip makes whatever stands in the last place the end.
    longest = config.max_length + len(prompts[0])
    assert [[*row[:-1], EOS] if len(row) == longest else row for row in ids] == case.ids


@pytest.mark.parametrize("mask", ["legacy", "correct"])
@torch.inference_mode()
def test_logits_are_open_clip_s_token_by_token(mask: str, model: CocaModel) -> None:
    model.text_decoder.text.correct_cls_mask = mask == "correct"
    expected_BLV = GOLDEN.logits[mask]
    image_BND = model.encode_image(GOLDEN.pixels)
    assert_close(model.text_decoder(GOLDEN.ids, image_BND), expected_BLV)
    check_steps(model.text_decoder, image_BND, expected_BLV)


@pytest.mark.parametrize("mask", ["legacy", "correct"])
@torch.inference_mode()
def test_prompts_of_unequal_length(mask: str, model: CocaModel) -> None:
    model.text_decoder.text.correct_cls_mask = mask == "correct"
    lengths = torch.tensor([4, 6, 2, 5])  # the first and the third end with the token that is padding, too
    ids_BL = GOLDEN.ids[:, :6].clone()
    ids_BL[torch.arange(6) >= lengths[:, None]] = 0
    state = model.start_decoding(GOLDEN.pixels)
    rows = torch.arange(4)
    logits_BV = model.text_decoder.step(ids_BL, state, lengths_S=lengths)
    assert_close(logits_BV, GOLDEN.logits[mask][rows, lengths - 1])
    state.repeat(2)
    state.select(torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]))
    for _ in range(3):
        ids_S1 = GOLDEN.ids[rows, lengths].repeat_interleave(2)[:, None]
        logits_SV = model.text_decoder.step(ids_S1, state)
        assert_close(logits_SV[::2], GOLDEN.logits[mask][rows, lengths])
        assert_close(logits_SV[1::2], logits_SV[::2])
        lengths = lengths + 1


@pytest.mark.parametrize("mask", ["legacy", "correct"])
@torch.inference_mode()
def test_texts_that_come_later_hide_what_they_hid_alone(mask: str, model: CocaModel) -> None:
    decoder = model.text_decoder
    decoder.text.correct_cls_mask = mask == "correct"
    lengths = torch.tensor([4, 6, 2, 5])  # the first and the third end with the token that is padding, too
    some, rest = torch.tensor([0, 1]), torch.tensor([2, 3])
    state, other = (model.start_decoding(GOLDEN.pixels[rows]) for rows in (some, rest))
    decoder.step(GOLDEN.ids[some, :6], state, lengths_S=lengths[some])
    decoder.step(GOLDEN.ids[some, lengths[some]][:, None], state)
    decoder.step(GOLDEN.ids[rest, :5], other, lengths_S=lengths[rest])
    lengths[some] += 1
    state.join(other)
    rows = torch.arange(4)
    for _ in range(3):
        logits_SV = decoder.step(GOLDEN.ids[rows, lengths][:, None], state)
        assert_close(logits_SV, GOLDEN.logits[mask][rows, lengths])
        lengths = lengths + 1
    state.keep_images(torch.tensor([2, 3]))
    rows, lengths = rest, lengths[rest]
    logits_SV = decoder.step(GOLDEN.ids[rows, lengths][:, None], state)
    assert_close(logits_SV, GOLDEN.logits[mask][rows, lengths])


@pytest.mark.parametrize(
    "changes",
    [
        {"quick_gelu": True},
        {"text_cfg": {"ls_init_value": 0.3}, "multimodal_cfg": {"ls_init_value": 0.3}},
        {"text_cfg": {"pad_id": 3}, "multimodal_cfg": {"layers": 3}},
        {"vision_cfg": {"attentional_pool": False}},
    ],
    ids=["quick gelu", "layer scale", "another padding", "every cell"],
)
@torch.inference_mode()
def test_every_kind_of_block(changes: dict[str, Any], tmp_path: Path) -> None:
    register(tmp_path, "coca_variant", **changes)
    model = captioner("open_clip:coca_variant")
    random_weights(model)
    image_BND = model.encode_image(GOLDEN.pixels)
    expected_BLV = model.text_decoder(GOLDEN.ids, image_BND)
    check_steps(model.text_decoder, image_BND, expected_BLV)
    check_steps(freeze(model).text_decoder, image_BND, expected_BLV)


def check_steps(decoder: CocaDecoder, image_BND: Tensor, expected_BLV: Tensor) -> None:
    state = decoder.start(image_BND)
    assert_close(decoder.step(GOLDEN.ids[:, :5], state), expected_BLV[:, 4])
    for place in range(5, GOLDEN.ids.shape[1]):
        assert_close(decoder.step(GOLDEN.ids[:, place : place + 1], state), expected_BLV[:, place])


def assert_close(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 1e-5 * scale


@torch.inference_mode()
def test_retrieval_with_a_coca_is_open_clip_s(source: str) -> None:
    model = load(source)
    assert isinstance(model, OpenClipModel)
    for found, expected in (
        (model.embed_images(GOLDEN.pixels), GOLDEN.features["image"]),
        (model.embed_texts(GOLDEN.ids, torch.ones_like(GOLDEN.ids, dtype=torch.bool)), None),
    ):
        if expected is None:  # texts are filled up to the context, where the class token has its own place
            whole = torch.nn.functional.pad(GOLDEN.ids, (0, 40 - GOLDEN.ids.shape[1]))
            expected = model.clip.encode_text(whole)
        assert_close(found, expected)


def test_every_method_captions(model: CocaModel) -> None:
    for settings in ({"method": "greedy"}, {"method": "sample", "num_results": 3}, {"rules": "mplug"}):
        config = model.generation_config(**settings, max_length=6)
        captions = model.caption(GOLDEN.pixels, config, prompts=["cat dog", "", "two", "!"])
        assert [len(texts) for texts in captions] == [config.num_results] * 4
        assert captions[0][0].hypothesis.ids[:3] == (BOS, *model.tokenizer.encode("cat dog").ids[1:-1])
        assert captions[0][0].text.startswith("cat dog")


def test_streams_say_what_is_certain(model: CocaModel) -> None:
    add_bonus(model.text_decoder.multimodal, {"eos": 7.0})
    captions = model.caption(GOLDEN.pixels)
    events = list(model.stream_captions(GOLDEN.pixels))
    for item, (caption,) in enumerate(captions):
        mine = [event for event in events if event.item == item]
        assert mine[-1] == Finished(item, (caption.hypothesis,))
        assert (BOS, *(each.id for each in mine if isinstance(each, Token))) == caption.hypothesis.ids


def test_text_there_and_back(model: CocaModel) -> None:
    tokens = model.tokenizer.encode("Two dogs, and a cat!")
    assert (tokens.ids[0], tokens.ids[-1], tokens.truncated) == (BOS, EOS, False)
    assert model.tokenizer.decode([*tokens.ids.tolist(), 5000]) == "two dogs , and a cat !"
    assert model.tokenizer.encode("dog " * 50).truncated
    with pytest.raises(MplugError, match="longer than the 38 tokens that the model reads"):
        model.caption(GOLDEN.pixels[:1], prompts=["dog " * 50])
    with pytest.raises(MplugError, match="the decoder has 40 positions"):
        model.caption(GOLDEN.pixels[:1], prompts=["dog " * 30])


def test_what_serving_needs(model: CocaModel, source: str) -> None:
    assert model.name == source.removeprefix("open_clip:")
    assert (model.preprocess.image_size, model.device.type, model.dtype) == (32, "cpu", torch.float32)
    assert model.report.unused == ("logit_scale",)
    assert model.num_parameters == sum(tensor.numel() for tensor in GOLDEN.weights.values()) - 1
    assert model.fingerprint == captioner(source).fingerprint
    other = captioner(source)
    add_bonus(other.text_decoder.multimodal, {"eos": 7.0})
    assert other.fingerprint != model.fingerprint
    half = load(source, task="caption", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert len(half.caption(GOLDEN.pixels)) == 4


def test_random_weights_are_announced_and_finite(source: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mplug.open_clip_model"):
        model = captioner(f"open_clip:{NAME}")
    assert "random weights" in caplog.text
    projection = model.text_decoder.multimodal.text_projection
    assert float(projection.detach().std()) == pytest.approx(32**-0.5, rel=0.1)


def test_what_cannot_caption_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="open_clip:RN50 is no CoCa"):
        load("open_clip:RN50", task="caption")
    with pytest.raises(CheckpointError, match="open_clip has no model 'coca_none'"):
        load("open_clip:coca_none", task="caption")
    for task, size in (("vqa", None), ("rerank", None), ("caption", 64)):
        with pytest.raises(MplugError, match="at its own image size"):
            load(source, task=task, image_size=size)  # type: ignore[call-overload]
    for changes, message in (
        ({"text_cfg": {"no_causal_mask": True}}, "not the ordinary causal one"),
        ({"text_cfg": {"heads": 4}}, "unequal numbers of heads"),
        ({"text_cfg": {"embed_cls": False}}, "no text tower with a class token"),
        ({"vision_cfg": {"output_tokens": False}}, "a tower without output_tokens"),
    ):
        register(tmp_path, "coca_other", **changes)
        with pytest.raises(CheckpointError, match=message):
            load("open_clip:coca_other", task="caption")
