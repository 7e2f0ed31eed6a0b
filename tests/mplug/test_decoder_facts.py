"""Limits of prompts, answers and lengths, at their edges; the models and the services ask the same place."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from golden.mplug_cases import small_vocab, some_pixels, tiny, tiny_whole_config
from mplug.captioning import CaptionModel
from mplug.config import GenerationDefaults
from mplug.decoder_facts import DecoderFacts
from mplug.errors import ConfigError, MplugError
from mplug.generation import GenerationConfig
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.vqa import VqaModel


def facts(*, read: int = 8, positions: int = 12) -> DecoderFacts:
    tokenizer = WordPieceTokenizer(small_vocab(130), max_length=read)
    return DecoderFacts(
        tokenizer=tokenizer,
        bos_id=101,
        vocab_size=130,
        max_positions=positions,
        defaults=GenerationDefaults(),
    )


def pieces(count: int) -> str:
    return " ".join(["piece9"] * count)


def test_a_prompt_fits_to_its_last_piece() -> None:
    one = facts(read=8)
    assert one.prompt_ids(one.tokenizer.encode(pieces(6))) == [101, *[9] * 6]
    assert one.prompt_ids(one.tokenizer.encode("")) == [101]
    with pytest.raises(MplugError, match="longer than the 6 tokens"):
        one.prompt_ids(one.tokenizer.encode(pieces(7)))


@pytest.mark.parametrize(("read", "positions"), [(8, 12), (12, 8)])
def test_an_answer_fits_to_its_end(read: int, positions: int) -> None:
    one = facts(read=read, positions=positions)
    assert one.answer_ids(one.tokenizer.encode(pieces(6))) == [101, *[9] * 6, 102]
    with pytest.raises(MplugError, match="longer than the 6 tokens"):
        one.answer_ids(one.tokenizer.encode(pieces(7)))


def test_a_text_fits_to_the_last_position() -> None:
    one = facts(positions=12)
    one.check_length(1, 12)
    one.check_length(4, 9)
    with pytest.raises(
        MplugError, match=r"grow to 13 tokens, 5 of prompt and start included; .* 12 positions"
    ):
        one.check_length(5, 9)


@pytest.fixture(scope="module")
def vqa() -> VqaModel:
    return tiny(VqaModel)


def test_the_longest_text_that_passes_is_written(vqa: VqaModel) -> None:
    limit = vqa.text_decoder.max_positions
    vqa.decoder_facts.check_length(1, limit)
    config = vqa.generation_config(method="greedy", min_length=limit, max_length=limit)
    ((found,),) = vqa.answer(some_pixels(1), ["piece9"], config)
    assert len(found.hypothesis.ids) == limit + 1, "the start, and as many as there are positions"


def test_settings_are_the_checkpoint_s_and_give_way(vqa: VqaModel) -> None:
    config = dataclasses.replace(
        tiny_whole_config(), generation=GenerationDefaults(min_length=4, max_length=9, beam_size=2)
    )
    for model in (tiny(VqaModel, config), tiny(CaptionModel, config)):
        assert model.generation_config() == GenerationConfig(min_length=4, max_length=9, beam_size=2)
        assert model.generation_config(max_length=3).min_length == 3
        with pytest.raises(ConfigError, match="unknown among beams; settings of generation are method"):
            model.generation_config(beams=3)


def test_answers_of_bytes_and_of_their_tokens_are_the_same(vqa: VqaModel) -> None:
    pixels, questions = some_pixels(2), ["piece9", "piece10 piece11"]
    with torch.no_grad():
        tokens = vqa.encode_image(pixels)
    config = vqa.generation_config(method="sample", num_results=2)
    assert vqa.answer(pixels, questions, config, seeds=[1, 2]) == vqa.answer(
        tokens, questions, config, seeds=[1, 2]
    )
    answers = ["piece7", "piece8 piece7", "piece12"]
    ranked = vqa.rank(pixels, questions, answers)
    assert [[one.index for one in item] for item in ranked] == [
        [one.index for one in item] for item in vqa.rank(tokens, questions, answers)
    ]
    assert [vqa.rank(pixels[1:], questions[1:], answers)[0][0].index] == [ranked[1][0].index]


def test_mistakes_are_named(vqa: VqaModel) -> None:
    with pytest.raises(MplugError, match="1 questions for 2 pictures"):
        vqa.answer(some_pixels(2), ["piece9"])
    with pytest.raises(MplugError, match="1 questions for 2 pictures"):
        vqa.rank(some_pixels(2), ["piece9"], ["piece8"])
    with pytest.raises(MplugError, match="no answers"):
        vqa.rank(some_pixels(1), ["piece9"], [])
    with pytest.raises(MplugError, match=r"answers\[1\], 'piece9 .*longer than the"):
        vqa.rank(some_pixels(1), ["piece9"], ["piece8", pieces(60)])
    with pytest.raises(MplugError, match="the prompt is longer than the"):
        tiny(CaptionModel, tiny_whole_config()).caption(some_pixels(1), prompts=[pieces(60)])
