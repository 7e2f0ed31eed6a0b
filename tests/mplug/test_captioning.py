"""Captions from pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from golden.mplug_cases import read_case, small_vocab, some_pixels, tiny_config
from mplug.captioning import CaptionModel
from mplug.checkpoints import modelscope
from mplug.config import GenerationDefaults, MplugConfig, TextDecoderConfig
from mplug.errors import ConfigError, MplugError
from mplug.generation import Finished, GenerationConfig, Token
from mplug.text.tokenizer import WordPieceTokenizer

DECODER = TextDecoderConfig(
    vocab_size=130, hidden=48, layers=2, heads=4, ffn=64, positions=40, memory_width=48
)


def caption_model(config: MplugConfig | None = None) -> CaptionModel:
    """A tiny one whose parameters are all random."""
    config = config or tiny_config(text_decoder=DECODER, generation=GenerationDefaults(max_length=8))
    model = CaptionModel(
        config, WordPieceTokenizer(small_vocab(130), max_length=config.max_text_tokens)
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.text_decoder.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def model() -> CaptionModel:
    return caption_model()


@torch.inference_mode()
def test_the_golden_picture_has_the_golden_captions(tmp_path: Path) -> None:
    case = read_case("caption_large")
    model = modelscope.load(case.write_modelscope(tmp_path / "caption"), CaptionModel)
    # The golden picture is stored normalised, so it enters behind the bytes.
    image_tokens = model.image_encoder.adapter(model.image_encoder.backbone(case.io["image"]))

    captions = model.caption(image_tokens)

    stored = case.described["beam_top1_forward"]
    assert [[list(one.hypothesis.ids) for one in texts] for texts in captions] == stored["ids"]
    assert [texts[0].text for texts in captions] == ["piece87 piece118", "piece87 piece87"]
    every = model.caption(image_tokens, model.generation_config(beam_size=5, max_length=12, num_results=5))
    stored = case.described["generation"]["beam5_max12"]
    assert [[list(one.hypothesis.ids) for one in texts] for texts in every] == stored["ids"]
    assert every[0][4].text == "piece87 piece118 piece30", "what a beam puts behind the end is read out"


def test_only_its_task_s_modules_are_held(model: CaptionModel) -> None:
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"image_encoder", "text_decoder"}


def test_bytes_and_their_tokens_give_one_caption(model: CaptionModel) -> None:
    pixels = some_pixels(3)
    with torch.no_grad():
        tokens = model.encode_image(pixels)
    config = model.generation_config(method="sample", num_results=2)
    from_pixels, from_tokens = (model.caption(images, config, seeds=[4, 5, 6]) for images in (pixels, tokens))
    assert from_pixels == from_tokens
    assert len({text.text for texts in from_pixels for text in texts}) > 3


@pytest.mark.parametrize("method", ["beam", "sample"])
def test_deterministic_captions_are_bit_equal_from_bytes_on(model: CaptionModel, method: str) -> None:
    pixels, prompts, seeds = some_pixels(5), ["", "piece8", "", "piece9 piece10 piece11", ""], [1, 2, 3, 4, 5]
    config = model.generation_config(method=method, deterministic=True)
    together = model.caption(pixels, config, prompts=prompts, seeds=seeds)
    for item in range(5):
        one = slice(item, item + 1)
        alone = model.caption(pixels[one], config, prompts=prompts[one], seeds=seeds[one])
        assert alone == [together[item]]


def test_a_caption_begins_with_its_prompt(model: CaptionModel) -> None:
    captions = model.caption(some_pixels(2), prompts=["Piece9 piece10", ""])
    assert captions[0][0].hypothesis.ids[:3] == (101, 9, 10)
    assert captions[0][0].text.startswith("piece9 piece10")
    assert captions[1][0].hypothesis.ids[0] == 101


def test_the_stream_is_the_caption(model: CaptionModel) -> None:
    pixels = some_pixels(2)
    captions = model.caption(pixels)
    events = list(model.stream_captions(pixels))
    for item, (caption,) in enumerate(captions):
        mine = [event for event in events if event.item == item]
        assert mine[-1] == Finished(item, (caption.hypothesis,))
        ids = [event.id for event in mine if isinstance(event, Token)]
        assert (101, *ids) == caption.hypothesis.ids


def test_settings_are_the_checkpoint_s(model: CaptionModel) -> None:
    assert model.generation_config() == GenerationConfig(max_length=8)
    assert model.generation_config(beam_size=2, min_length=3) == GenerationConfig(
        beam_size=2, min_length=3, max_length=8
    )
    with pytest.raises(ConfigError, match="min_length is 9"):
        model.generation_config(min_length=9)


def test_no_pictures_give_no_captions(model: CaptionModel) -> None:
    assert model.caption(some_pixels(2)[:0]) == []


def test_mistakes_are_named(model: CaptionModel) -> None:
    with pytest.raises(MplugError, match="1 prompts for 2 pictures"):
        model.caption(some_pixels(2), prompts=[""])
    with pytest.raises(MplugError, match="decoder has 40 positions: lower max_length"):
        model.caption(some_pixels(1), model.generation_config(max_length=41))
    with pytest.raises(ConfigError, match=r"no text_decoder.*caption"):
        caption_model(tiny_config())
    with pytest.raises(ConfigError, match=r"vocabulary has 130 pieces, text_decoder\.vocab_size is 110"):
        caption_model(tiny_config(text_decoder=dataclasses.replace(DECODER, vocab_size=110)))
    with pytest.raises(ConfigError, match=r"memory_width is 40.*48 wide"):
        caption_model(tiny_config(text_decoder=dataclasses.replace(DECODER, memory_width=40)))
