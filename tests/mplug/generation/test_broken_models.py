"""Models that give NaN: the item says so, whatever the search, and no other item changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from generation_cases import TableDecoder, random_decoder, random_memories
from mplug.generation import Finished, GenerationConfig, Token, generate, stream

SEARCHES: dict[str, dict[str, Any]] = {
    "beams": {"beam_size": 3, "num_results": 3},
    "open_clip's beams": {"rules": "open_clip", "beam_size": 2, "num_results": 2, "length_penalty": 1.0},
    "greedy": {"method": "greedy"},
    "sampling": {"method": "sample", "num_results": 2},
}
every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


class BreakingDecoder(TableDecoder):
    """Gives NaN for one item from a length of text on."""

    bad_item = 1
    bad_from = 4

    def logits(self, item: int, text: Sequence[int]) -> Tensor:
        logits = super().logits(item, text)
        if item == self.bad_item and len(text) >= self.bad_from:
            logits[7] = torch.nan
        return logits


@every_search
@pytest.mark.parametrize("seed", range(8))
def test_an_item_with_nan_says_so_and_its_neighbours_are_as_without_it(
    search: dict[str, Any], seed: int
) -> None:
    # Ends are likely, so that texts that have ended lie beside the broken ones.
    config = GenerationConfig(**search, min_length=5, max_length=9)
    prompts, seeds = [[5], [6], [8]], [1, 2, 3]
    whole, breaking = (kind(12, seed, eos_bonus=1.0) for kind in (TableDecoder, BreakingDecoder))
    expected = generate(whole, whole.start, prompts, config, seeds=seeds)
    found = generate(breaking, breaking.start, prompts, config, seeds=seeds)
    assert (found[0], found[2]) == (expected[0], expected[2])
    assert len(found[1]) == len(expected[1])
    assert all(math.isnan(one.score) for one in found[1])
    assert all(len(one.ids) == BreakingDecoder.bad_from for one in found[1]), "nothing chosen by NaN"


def test_a_text_that_ended_before_is_no_excuse() -> None:
    """Of beams, one may have ended with a fine score while another meets NaN: which is best nobody can say."""
    config = GenerationConfig(beam_size=3, num_results=3, max_length=9)
    broken = 0
    for seed in range(40):
        decoder = BreakingDecoder(12, seed, eos_bonus=2.0)
        (texts,) = generate(decoder, lambda _: decoder.start([1]), [[6]], config)  # noqa: B023
        scores = [math.isnan(one.score) for one in texts]
        assert len(set(scores)) == 1
        broken += scores[0]
    assert 5 < broken < 35


@every_search
def test_a_stream_yields_no_token_that_nan_chose(search: dict[str, Any]) -> None:
    decoder = BreakingDecoder(12, 3, eos_bonus=-5)
    config = GenerationConfig(**search, min_length=5, max_length=9)
    events = list(stream(decoder, lambda _: decoder.start([1]), [[6]], config))
    finished = events[-1]
    assert isinstance(finished, Finished)
    for number, hypothesis in enumerate(finished.hypotheses[:1]):
        ids = [event.id for event in events if isinstance(event, Token) and event.text == number]
        assert (6, *ids) == hypothesis.ids


@every_search
def test_one_bad_weight_of_a_real_decoder_is_seen(search: dict[str, Any]) -> None:
    decoder = random_decoder(3)
    memories = random_memories(decoder, 2, torch.Generator().manual_seed(5))
    config = GenerationConfig(**search, max_length=6)
    assert all(
        math.isfinite(text.score)
        for texts in generate(decoder, memories, [[1]] * 2, config)
        for text in texts
    )
    with torch.no_grad():
        dict(decoder.named_parameters())["layers.1.attention.output.weight"][0, 0] = torch.nan
    decoder.drop_packed()
    found = generate(decoder, memories, [[1]] * 2, config)
    assert all(math.isnan(text.score) for texts in found for text in texts)
