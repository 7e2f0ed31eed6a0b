"""Text in and out, settings, batches and streams."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator_runs import METHODS, check_neighbours, check_stream, config_of, prompts_of, written
from golden.mplug_cases import small_vocab
from golden.palm_cases import small_byte_bpe, tiny_palm
from mplug.decoder_state import DecoderState
from mplug.errors import ConfigError
from mplug.palm import PalmGenerator
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_generator import Prompt, TextGenerator

CHINESE, ENGLISH = tiny_palm(), tiny_palm(roberta=True)

prompts = st.lists(st.lists(st.integers(4, 129), min_size=1, max_size=9), min_size=2, max_size=4)
methods = st.sampled_from(METHODS)


@settings(max_examples=12, deadline=None)
@given(sources=prompts, method=methods)
def test_a_text_does_not_depend_on_its_neighbours(sources: list[list[int]], method: str) -> None:
    check_neighbours(CHINESE, prompts_of(sources), config_of(CHINESE, method))


@settings(max_examples=9, deadline=None)
@given(sources=prompts, method=methods)
def test_the_stream_is_the_batch(sources: list[list[int]], method: str) -> None:
    check_stream(CHINESE, prompts_of(sources), config_of(CHINESE, method))


def test_it_is_a_text_generator() -> None:
    generator: TextGenerator[DecoderState] = CHINESE
    prompt = generator.read("piece7 piece9")
    assert prompt == Prompt((101,), (101, 7, 9, 102))
    (texts,) = written(CHINESE, [prompt], config_of(CHINESE, "beam"), [0])
    text = generator.text(texts[0].ids, prompt)
    assert text.split() == [f"piece{id}" for id in texts[0].ids[1:] if id not in (0, 100, 101, 102, 103)]
    assert generator.name == "tiny"


def test_a_source_may_hold_separators_and_says_when_it_is_cut() -> None:
    assert CHINESE.read("piece7[SEP]piece9 piece8").source == (101, 7, 102, 9, 8, 102)
    whole, cut = CHINESE.read("piece7 " * 14), CHINESE.read("piece7 " * 15)
    assert (len(whole.source), whole.truncated) == (16, False)
    assert (len(cut.source), cut.source[-1], cut.truncated) == (16, 102, True)


def test_what_is_shown_of_a_chinese_text() -> None:
    vocab = small_vocab(130)
    vocab[4:9] = ["春", "风", "。", "##ing", "[unused1]"]
    model = tiny_palm()
    model = PalmGenerator(model.config, WordPieceTokenizer(vocab, max_length=16))
    prompt = model.read("春风")
    assert prompt.source == (101, 4, 5, 102)
    assert model.text([101, 4, 5, 6, 100, 8, 103, 20, 7, 102], prompt) == "春风。 piece20ing"


def test_what_is_shown_of_an_english_text() -> None:
    tokenizer = ENGLISH.tokenizer
    assert not isinstance(tokenizer, WordPieceTokenizer)
    ids = tokenizer.encode("the cat. The<mask> hat").ids.tolist()
    assert ENGLISH.text([0, *ids[1:]], Prompt((0,))) == "the cat. The.  hat"
    assert ENGLISH.read("a cat").source == tuple(tokenizer.encode("a cat").ids.tolist())


def test_settings_are_the_reference_s_and_give_way() -> None:
    own = CHINESE.generation_config()
    assert (own.beam_size, own.min_length, own.max_length, own.length_penalty) == (5, 40, 130, 0.95)
    assert own.method == "beam"
    short = CHINESE.generation_config(max_length=20)
    assert (short.min_length, short.max_length) == (20, 20)
    with pytest.raises(ConfigError, match="unknown among alpha"):
        CHINESE.generation_config(alpha=1)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="ByteBpeTokenizer does not go with the encoder zh_bert"):
        PalmGenerator(CHINESE.config, small_byte_bpe(max_length=16))
    with pytest.raises(ConfigError, match="has 131 tokens, vocab_size is 130"):
        PalmGenerator(CHINESE.config, WordPieceTokenizer(small_vocab(131), max_length=16))
    vocab = small_vocab(130)
    vocab[101], vocab[99] = vocab[99], vocab[101]
    with pytest.raises(ConfigError, match=r"with \(99, 102, 0\), the model with \(101, 102, 0\)"):
        PalmGenerator(CHINESE.config, WordPieceTokenizer(vocab, max_length=16))
