"""Text in and out, and the checkpoint's own settings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.gpt3_cases import TOKENIZER, tiny_generator
from golden.mplug_cases import small_vocab
from mplug.errors import ConfigError, MplugError
from mplug.gpt3 import Gpt3Config, Gpt3Generator, Gpt3Sampling
from mplug.text.jieba_bpe import JiebaBpeTokenizer
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_generator import Prompt

LARGE = tiny_generator("distributed")
SMALL = Gpt3Generator(
    Gpt3Config(
        name="small", layout="plain", vocab_size=300, hidden=8, layers=1, heads=1, ffn=32, prompt_tokens=8
    ),
    WordPieceTokenizer([*small_vocab(104), *"床前明月光，疑是地上霜。", "a", "dog", "##s"], max_length=8),
)
SEP = 2


def ids(text: str) -> tuple[int, ...]:
    return tuple(SMALL.tokenizer.vocab.index(piece) for piece in text.split())  # type: ignore[union-attr]


def test_small_models_read_a_text_without_sep() -> None:
    assert SMALL.read("床前明月") == Prompt(ids("[CLS] 床 前 明 月"))
    assert SMALL.read("") == Prompt(ids("[CLS]"))
    long = SMALL.read("床前明月光，疑是")
    assert long == Prompt(ids("[CLS] 床 前 明 月 光 ，"), truncated=True)


def test_small_models_write_as_the_reference_s_pipeline() -> None:
    prompt = SMALL.read("床前")
    assert (
        SMALL.text([*prompt.first, *ids("明 月 光 ， [UNK] 疑 [SEP] [MASK] a dog ##s 。")], prompt)
        == "明月光，疑 a dogs 。"
    )
    assert SMALL.text(prompt.first, prompt) == ""


def test_pieces_that_join_across_the_seam() -> None:
    prompt = SMALL.read("a dog")
    assert SMALL.text([*prompt.first, *ids("##s a")], prompt) == "s a"


def test_large_models_read_any_text_but_none() -> None:
    assert LARGE.read("今天天气真好") == Prompt((366, 246, 307, 257, 300))
    assert LARGE.read("今天" * 100).truncated
    with pytest.raises(MplugError, match="the text is empty"):
        LARGE.read("")


def test_large_models_write_up_to_the_first_sep() -> None:
    prompt = LARGE.read("今天")
    assert LARGE.text([*prompt.first, 337, 246, SEP, 300], prompt) == LARGE.text(
        [*prompt.first, 337, 246], prompt
    )
    assert LARGE.text([*prompt.first, SEP, 300], prompt) == ""


def test_a_sep_in_the_prompt_hides_nothing() -> None:
    before, after = LARGE.read("今天").first, LARGE.read("天气").first
    prompt = Prompt((*before, SEP, *after))
    assert LARGE.text([*prompt.first, *LARGE.read("真好").first], prompt) == "真好"


@settings(max_examples=60, deadline=None)
@given(
    before=st.text("今天气真好圆月公园 \nHello", min_size=1, max_size=12),
    after=st.text("今天气真好月公 \nwo", max_size=12),
)
def test_prompt_and_text_are_the_whole(before: str, after: str) -> None:
    prompt = LARGE.read(before)
    written = LARGE.tokenizer.encode(after).ids.tolist()
    assert before + LARGE.text([*prompt.first, *written], prompt) == before + after


def sampling(**own: Any) -> Gpt3Generator:
    return tiny_generator("distributed", sampling=Gpt3Sampling(**own))


def test_the_checkpoint_s_own_settings() -> None:
    config = sampling(tokens_to_generate=7, temperature=0.5).generation_config()
    assert (config.method, config.rules, config.min_length, config.max_length) == ("sample", "gpt3", 0, 7)
    assert (config.temperature, config.top_k, config.top_p, config.length_penalty) == (0.5, 0, 0.9, 1.0)
    assert sampling(top_k=1, top_p=0.0).generation_config().method == "greedy"
    several = sampling(top_k=5, top_p=0.0).generation_config()
    assert (several.top_k, several.top_p) == (5, 1.0)


def test_one_filter_turns_the_other_off() -> None:
    generator = sampling(top_p=0.9)
    by_count, by_sum = generator.generation_config(top_k=10), generator.generation_config(top_p=0.5)
    assert (by_count.top_k, by_count.top_p) == (10, 1.0)
    assert (by_sum.top_k, by_sum.top_p) == (0, 0.5)
    both = generator.generation_config(top_k=10, top_p=0.5)
    assert (both.top_k, both.top_p) == (10, 0.5)
    off = generator.generation_config(top_k=10, top_p=0.0)
    assert (off.top_k, off.top_p) == (10, 1.0)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="unknown among beams; settings of generation are method, rules"):
        LARGE.generation_config(beams=3)
    with pytest.raises(ConfigError, match="temperature is 0"):
        LARGE.generation_config(temperature=0)


def test_a_tokenizer_that_does_not_fit() -> None:
    jieba = JiebaBpeTokenizer.from_file(TOKENIZER, max_length=9)
    with pytest.raises(ConfigError, match="a JiebaBpeTokenizer does not go with the plain layout"):
        Gpt3Generator(SMALL.config, jieba)
    with pytest.raises(ConfigError, match="the vocabulary has 382 tokens, vocab_size is 300"):
        tiny_generator("distributed", vocab_size=300)
