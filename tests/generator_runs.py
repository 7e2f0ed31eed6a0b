"""What holds of everything that writes from text: a text is its own, and a stream is the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mplug.generation import GenerationConfig, Hypothesis, Token, generate, stream
from mplug.text_generator import Prompt, TextGenerator

METHODS = ("greedy", "sample", "beam")


def config_of(model: TextGenerator[Any], method: str, **changes: Any) -> GenerationConfig:
    """A few tokens; two texts where a method gives several."""
    results = 1 if method == "greedy" else 2
    given: dict[str, Any] = {"method": method, "max_length": 7, "num_results": results, "beam_size": 3}
    return model.generation_config(**{**given, **changes})


def prompts_of(sources: Sequence[Sequence[int]]) -> list[Prompt]:
    """Of an encoder-decoder: [CLS] source [SEP], and the text begins with [CLS]."""
    return [Prompt((101,), (101, *source, 102)) for source in sources]


def written(
    model: TextGenerator[Any], prompts: Sequence[Prompt], config: GenerationConfig, seeds: Sequence[int]
) -> list[tuple[Hypothesis, ...]]:
    return generate(
        model.decoder,
        lambda items: model.start([prompts[item] for item in items]),
        [prompt.first for prompt in prompts],
        config,
        seeds=seeds,
    )


def check_neighbours(model: TextGenerator[Any], prompts: Sequence[Prompt], config: GenerationConfig) -> None:
    """Each prompt alone gives what it gives among the others."""
    seeds = range(len(prompts))
    together = written(model, prompts, config, seeds)
    for prompt, seed, texts in zip(prompts, seeds, together, strict=True):
        (alone,) = written(model, [prompt], config, [seed])
        assert [one.ids for one in texts] == [one.ids for one in alone]
        assert [one.score for one in texts] == pytest.approx([one.score for one in alone], rel=1e-3)


def check_stream(model: TextGenerator[Any], prompts: Sequence[Prompt], config: GenerationConfig) -> None:
    """Tokens come in order and make the texts of the batch."""
    seeds = range(len(prompts))
    texts: dict[tuple[int, int], list[int]] = {}
    finished: dict[int, tuple[Hypothesis, ...]] = {}
    events = stream(
        model.decoder,
        lambda items: model.start([prompts[item] for item in items]),
        [prompt.first for prompt in prompts],
        config,
        seeds=seeds,
    )
    for event in events:
        if isinstance(event, Token):
            texts.setdefault((event.item, event.text), list(prompts[event.item].first)).append(event.id)
        else:
            finished[event.item] = event.hypotheses
    assert [finished[item] for item in range(len(prompts))] == written(model, prompts, config, seeds)
    for (item, text), ids in texts.items():
        assert tuple(ids) == finished[item][text].ids
