"""Decoding: a prompt read at once, then a token a step; the stream is the primitive, a batch is a loop over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mplug.decoder_facts import longest_read
from mplug.errors import MplugError
from mplug.generation.beam import BeamSearch
from mplug.generation.config import GenerationConfig, Rules
from mplug.generation.decoder import StateT, StepDecoder
from mplug.generation.events import Event, Finished, Hypothesis
from mplug.generation.flow import Flow
from mplug.generation.gpt3_beam import Gpt3BeamSearch
from mplug.generation.open_clip_beam import OpenClipBeamSearch
from mplug.generation.sampling import TokenSearch
from mplug.generation.search import JoinableSearch, Search

_BEAM_SEARCHES: Mapping[Rules, type[BeamSearch | OpenClipBeamSearch | Gpt3BeamSearch]] = {
    "mplug": BeamSearch,
    "open_clip": OpenClipBeamSearch,
    "gpt3": Gpt3BeamSearch,
}

Start = Callable[[Sequence[int]], StateT]
"""From the numbers of items to a state that holds them in this order, one sequence each, no token read yet."""


def generate(
    decoder: StepDecoder[StateT],
    start: Start[StateT],
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    seeds: Sequence[int] | None = None,
) -> list[tuple[Hypothesis, ...]]:
    """Generate texts for a batch of items; arguments and errors as in `stream`.

    Returns:
        Each item's `num_results` hypotheses.
    """
    finished = {
        event.item: event.hypotheses
        for event in stream(decoder, start, prompts, config, seeds=seeds)
        if isinstance(event, Finished)
    }
    return [finished[item] for item in range(len(prompts))]


def stream(
    decoder: StepDecoder[StateT],
    start: Start[StateT],
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    seeds: Sequence[int] | None = None,
) -> Iterator[Event]:
    """Generate texts for a batch of items, token by token.

    Items leave the batch as they finish. Closing the iterator stops all work.

    Args:
        decoder: what reads tokens.
        start: opens a state for some of the items; called once with all of them, or once for each (deterministic).
        prompts: every item's first tokens, the starting one included; of any lengths, at least one token each.
        config: settings of all items.
        seeds: of `sample`, one for each item; None = `config.seed` for every one.

    Yields:
        Each item's tokens in order, items interleaved, and an item's `Finished` after its last token.

    Raises:
        MplugError: an empty prompt, a text that could outgrow the decoder's positions, more beams than vocabulary,
            another number of seeds than of items. Raised by the call, before any work.
    """
    seeds = [config.seed] * len(prompts) if seeds is None else seeds
    _check(decoder, prompts, config, seeds)
    return _stream(decoder, start, prompts, config, seeds)


def _stream(
    decoder: StepDecoder[StateT],
    start: Start[StateT],
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    seeds: Sequence[int],
) -> Iterator[Event]:
    everything = list(range(len(prompts)))
    batches = [[item] for item in everything] if config.deterministic or not everything else [everything]
    for items in batches:
        some_prompts = {item: prompts[item] for item in items}
        some_seeds = [seeds[item] for item in items]
        for events in decode_steps(decoder, start(items), some_prompts, config, some_seeds):
            yield from events


def decode_steps(
    decoder: StepDecoder[StateT],
    state: StateT,
    prompts: Mapping[int, Sequence[int]],
    config: GenerationConfig,
    seeds: Sequence[int],
    *,
    alive: Callable[[int], bool] = lambda item: True,
) -> Iterator[list[Event]]:
    """Decode one batch, a step at a time; what `stream` is made of, for whoever has other work between two steps.

    Nothing is checked here.

    Args:
        decoder: what reads tokens.
        state: of the items in the order of `prompts`, one sequence each, no token read yet.
        prompts: by item, its first tokens.
        config: settings of all items.
        seeds: of `sample`, in the order of `prompts`.
        alive: asked of every item after every step; without one that is not, the others go on.

    Yields:
        What each step decided.
    """
    search = make_search(decoder.eos_id, prompts, config, seeds)
    return search_steps(decoder, state, prompts, search, config.sequences, alive=alive)


def search_steps(
    decoder: StepDecoder[StateT],
    state: StateT,
    prompts: Mapping[int, Sequence[int]],
    search: Search,
    sequences: int,
    *,
    alive: Callable[[int], bool] = lambda item: True,
) -> Iterator[list[Event]]:
    """Decode one batch by any search; `decode_steps` is this by the search that a configuration asks for.

    Args:
        decoder: what reads tokens.
        state: as of `decode_steps`.
        prompts: as of `decode_steps`.
        search: of the items in the order of `prompts`.
        sequences: that it decodes at a time for one item.
        alive: as of `decode_steps`.

    Yields:
        What each step decided.
    """
    going = list(prompts)
    flow = Flow(decoder, state, sequences)
    logits_SV = flow.begin(*pad_right(list(prompts.values())))
    while True:
        move = search.advance(logits_SV)
        yield move.events
        stay = [place for place, kept in enumerate(move.kept) if alive(going[kept])]
        if not stay:
            return
        if len(stay) < len(move.kept):
            search.keep(stay)
            move = move.only(stay)
        going = [going[place] for place in move.kept]
        flow.follow(move)
        logits_SV = flow.step()


def make_search(
    eos_id: int, prompts: Mapping[int, Sequence[int]], config: GenerationConfig, seeds: Sequence[int]
) -> JoinableSearch:
    """The search that a configuration asks for.

    Args:
        eos_id: token id that ends a text.
        prompts: by item, its first tokens.
        config: settings of all items.
        seeds: of `sample`, in the order of `prompts`.
    """
    if config.method == "beam":
        return _BEAM_SEARCHES[config.rules](config, eos_id, list(prompts), list(prompts.values()))
    return TokenSearch(config, eos_id, list(prompts), list(prompts.values()), seeds)


def pad_right(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Stack texts of unequal length.

    Returns:
        int64 (S, L), padded with 0, and the lengths int64 (S,), or None where all are equal.
    """
    lengths = [len(text) for text in texts]
    longest = max(lengths)
    ids_SL = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    return ids_SL, None if min(lengths) == longest else torch.tensor(lengths)


def _check(
    decoder: StepDecoder[StateT],
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    seeds: Sequence[int],
) -> None:
    if len(seeds) != len(prompts):
        raise MplugError(f"there are {len(seeds)} seeds for {len(prompts)} items; give one for each, or none")
    for item, prompt in enumerate(prompts):
        check_item(decoder, item, prompt, config)


def check_item(
    decoder: StepDecoder[StateT], item: int, prompt: Sequence[int], config: GenerationConfig
) -> None:
    """Refuse what a decoder cannot do.

    Raises:
        MplugError: an empty prompt, a text that could outgrow the decoder's positions, or more beams than vocabulary.
    """
    if config.candidates > decoder.vocab_size:
        raise MplugError(
            f"beam_size is {config.beam_size}, the vocabulary has {decoder.vocab_size} tokens; use fewer beams"
        )
    if not prompt:
        raise MplugError(f"the prompt of item {item} is empty; it needs the token that starts a text")
    longest = longest_read(len(prompt), config.max_length)
    if longest > decoder.max_positions:
        raise MplugError(
            f"item {item} may grow to {longest} tokens before its last ({len(prompt)} of prompt, max_length "
            f"{config.max_length}); the decoder has {decoder.max_positions} positions: lower max_length"
        )
