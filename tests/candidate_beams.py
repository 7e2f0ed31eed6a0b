"""Searches over candidates on language models of tables: what is drawn, and what holds of each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hypothesis import assume
from hypothesis import strategies as st

from generation_cases import EOS, Naive, NextLogits, TableDecoder, check_texts
from mplug.generation import GenerationConfig, Token, generate, stream
from mplug.generation.config import Rules

SEEDS = st.integers(0, 2**20)
PROMPTS = st.lists(st.lists(st.integers(3, 11), min_size=1, max_size=4), min_size=1, max_size=4)
BONUSES = st.sampled_from([0.0, 2.0, 4.0])
"""Of the end's logit."""


def candidate_configs(rules: Rules) -> st.SearchStrategy[GenerationConfig]:
    """Settings of a search by these rules that gives all its texts."""
    return st.builds(
        GenerationConfig,
        rules=st.just(rules),
        min_length=st.integers(0, 3),
        max_length=st.integers(3, 9),
        beam_size=st.integers(1, 4),
        length_penalty=st.sampled_from([1.0, 1.0, 0.0, 2.0]),
        repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
        no_repeat_ngram_size=st.sampled_from([0, 0, 2]),
    ).map(lambda config: dataclasses.replace(config, num_results=config.beam_size))


def check_search(
    naive: type[Naive], decoder: TableDecoder, config: GenerationConfig, prompts: Sequence[Sequence[int]]
) -> None:
    """The same texts and scores as written naively, but where two candidates are nearly equal."""
    found = generate(decoder, decoder.start, prompts, config)
    for item, (texts, prompt) in enumerate(zip(found, prompts, strict=True)):
        plain = naive(_logits(decoder, item), list(prompt), config)
        wanted = plain.generate()
        assume(plain.margin > 1e-5)
        check_texts(texts, wanted)
        assert all(EOS not in one.ids[len(prompt) : -1] for one in texts), "no beam lives on behind its end"


def check_stream(decoder: TableDecoder, config: GenerationConfig, prompts: Sequence[Sequence[int]]) -> None:
    """Tokens come in order and make the best text; an item's last event says so."""
    texts = [list(prompt) for prompt in prompts]
    finished: set[int] = set()
    for event in stream(decoder, decoder.start, prompts, config):
        assert event.item not in finished, "an item's Finished is its last event"
        if isinstance(event, Token):
            texts[event.item].append(event.id)
        else:
            finished.add(event.item)
            assert tuple(texts[event.item]) == event.hypotheses[0].ids
    assert finished == set(range(len(prompts)))


def _logits(decoder: TableDecoder, item: int) -> NextLogits:
    return lambda text: decoder.logits(item, text)
