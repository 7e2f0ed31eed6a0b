"""Decoding of a batch, a step at a time, that items may leave between two steps.

`mplug.generation.stream` yields events, and may run many steps for one; the scheduler must get its turn after each.
Here every item has a search of its own, so that one can go without the others.

Legend: B items, S = B x sequences of each, L tokens read, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mplug.generation import Event, GenerationConfig, StepDecoder
from mplug.generation.beam import BeamSearch
from mplug.generation.decoder import StateT
from mplug.generation.engine import pad_right
from mplug.generation.sampling import TokenSearch
from mplug.generation.search import Move, Search


def make_search(config: GenerationConfig, eos_id: int, item: int, prompt: Sequence[int], seed: int) -> Search:
    """A search for one item; its events carry the item's number."""
    if config.method == "beam":
        return BeamSearch(config, eos_id, [item], [prompt])
    return TokenSearch(config, eos_id, [item], [prompt], [seed])


def decode_steps(
    decoder: StepDecoder[StateT],
    state: StateT,
    prompts: Mapping[int, Sequence[int]],
    searches: Mapping[int, Search],
    sequences: int,
    alive: Callable[[int], bool],
) -> Iterator[list[Event]]:
    """Decode items until each is finished or not alive any more.

    Args:
        decoder: what reads tokens.
        state: of the items in the order of `prompts`, one sequence each, no token read yet.
        prompts: by item, its first tokens.
        searches: by item.
        sequences: sequences of each item behind the prompt.
        alive: asked after every step; without this item, the others go on.

    Yields:
        What each step decided.
    """
    going = list(prompts)
    ids_SL, lengths_S = pad_right([prompts[item] for item in going])
    logits_SV = decoder.step(ids_SL, state, lengths_S=lengths_S)
    width = 1
    while True:
        moves = [
            searches[item].advance(part_SV)
            for item, part_SV in zip(going, torch.split(logits_SV, width), strict=True)
        ]
        yield [event for move in moves for event in move.events]
        kept = [place for place, item in enumerate(going) if moves[place].kept and alive(item)]
        if not kept:
            return
        if len(kept) < len(going):
            state.keep_images(torch.tensor(kept, device=logits_SV.device))
        going = [going[place] for place in kept]
        moves = [moves[place] for place in kept]
        if width < sequences:
            state.repeat(sequences)  # copies of the prompt: whichever a beam goes on from, it is the same
            width = sequences
        elif (rows_S := _reordered(moves, width)) is not None:
            state.select(rows_S.to(logits_SV.device))
        logits_SV = decoder.step(
            torch.tensor([token for move in moves for token in move.ids])[:, None], state
        )


def _reordered(moves: Sequence[Move], width: int) -> Tensor | None:
    """Sequences that the next ones go on from, (S,); None where all stay in place."""
    rows = [place * width + row for place, move in enumerate(moves) for row in move.rows]
    return None if rows == list(range(len(rows))) else torch.tensor(rows)
