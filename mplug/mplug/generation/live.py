"""Continuous batching: items that are decoded together and come and go between steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from mplug.errors import MplugError
from mplug.generation.config import GenerationConfig
from mplug.generation.decoder import StateT, StepDecoder
from mplug.generation.engine import check_item, make_search, pad_right
from mplug.generation.events import Event
from mplug.generation.flow import Flow
from mplug.generation.search import JoinableSearch, Move


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """One item of a live batch."""

    prompt: tuple[int, ...]
    """What the decoder begins with, the starting token included."""
    config: GenerationConfig
    seed: int = 0
    """Of `sample`; the configuration's own is not looked at."""


@dataclass(slots=True)
class _Lane:
    """Items with equal settings: one search chooses for all of them, whenever they came."""

    config: GenerationConfig
    search: JoinableSearch
    items: list[int]
    """In the search's order."""


class LiveBatch(Generic[StateT]):
    """Items that are decoded together and come and go between steps.

    All have the same number of sequences (`config.sequences`); everything else may differ. What an item becomes does
    not depend on the others, but for rounding; `deterministic` items, for which there is none, need a batch each.

    Args:
        decoder: what reads tokens.
    """

    def __init__(self, decoder: StepDecoder[StateT]) -> None:
        self._decoder = decoder
        self._flow: Flow[StateT] | None = None
        self._items: list[int] = []
        """In the flow's order."""
        self._lanes: list[_Lane] = []

    @property
    def live(self) -> tuple[int, ...]:
        """Items that go on; empty = nothing to do."""
        return tuple(self._items)

    def admit(self, items: Mapping[int, LiveRequest], state: StateT) -> list[Event]:
        """Read the prompts of new items as one batch, and take their first step; those that go on join the others.

        Args:
            items: by their numbers, which no live item has.
            state: of these items in this order, one sequence each, no token read yet; it is the batch's from now on.

        Returns:
            What the step decided for the new items.

        Raises:
            MplugError: a number that is taken, another number of sequences than the others have, a `deterministic` item
                that is not alone, or what the decoder cannot do (see `mplug.generation.stream`). Whatever is raised,
                the batch is as it was.
        """
        if not items:
            return []
        self._check(items)
        requests = list(items.values())
        flow = Flow(self._decoder, state, requests[0].config.sequences)
        lanes, order = self._new_lanes(items), list(items)
        move = _advance(lanes, order, flow.begin(*pad_right([request.prompt for request in requests])))
        if move.kept:
            flow.follow(move)
            self._join(flow, lanes, [order[place] for place in move.kept])
        return move.events

    def step(self) -> list[Event]:
        """Let every item read a token and choose the next; after an error of the model a batch is of no more use."""
        if self._flow is None:
            return []
        move = _advance(self._lanes, self._items, self._flow.step())
        self._items = [self._items[place] for place in move.kept]
        if move.kept:
            self._flow.follow(move)
        self._forget_ended()
        return move.events

    def drop(self, items: Collection[int]) -> None:
        """Go on without these; those that are not live are passed over."""
        places = [place for place, item in enumerate(self._items) if item not in items]
        if self._flow is None or len(places) == len(self._items):
            return
        for lane in self._lanes:
            kept = [place for place, item in enumerate(lane.items) if item not in items]
            lane.search.keep(kept)
            lane.items = [lane.items[place] for place in kept]
        self._items = [self._items[place] for place in places]
        if places:
            self._flow.keep(places)
        self._forget_ended()

    def _check(self, items: Mapping[int, LiveRequest]) -> None:
        wanted = (self._lanes[0] if self._lanes else next(iter(items.values()))).config
        is_alone = len(items) + len(self._items) == 1
        for item, request in items.items():
            check_item(self._decoder, item, request.prompt, request.config)
            if item in self._items:
                raise MplugError(f"item {item} is in the batch already; give every item a number of its own")
            if request.config.sequences != wanted.sequences:
                raise MplugError(
                    f"item {item} has {request.config.sequences} sequences (beam_size or num_results), the batch "
                    f"{wanted.sequences}; open another for it"
                )
            if not is_alone and (request.config.deterministic or wanted.deterministic):
                raise MplugError(
                    f"item {item} is not alone, and there are deterministic items; open a batch for each"
                )

    def _new_lanes(self, items: Mapping[int, LiveRequest]) -> list[_Lane]:
        groups: dict[GenerationConfig, dict[int, LiveRequest]] = {}
        for item, request in items.items():
            groups.setdefault(dataclasses.replace(request.config, seed=0), {})[item] = request
        return [
            _Lane(
                config,
                make_search(
                    self._decoder.eos_id,
                    {item: request.prompt for item, request in some.items()},
                    config,
                    [request.seed for request in some.values()],
                ),
                list(some),
            )
            for config, some in groups.items()
        ]

    def _join(self, flow: Flow[StateT], lanes: Sequence[_Lane], items: Sequence[int]) -> None:
        if self._flow is None:
            self._flow = flow
        else:
            self._flow.join(flow)
        self._items = [*self._items, *items]
        by_config = {lane.config: lane for lane in self._lanes}
        for lane in lanes:
            same = by_config.get(lane.config)
            if same is None:
                self._lanes.append(lane)
            else:
                same.search.join(lane.search)
                same.items += lane.items
        self._forget_ended()

    def _forget_ended(self) -> None:
        self._lanes = [lane for lane in self._lanes if lane.items]
        if not self._items:
            self._flow = None


def _advance(lanes: Sequence[_Lane], order: Sequence[int], logits_SV: Tensor) -> Move:
    """Let every lane choose; one move of all items, in the order of their logits.

    A lane's items are in that order, too, so where there is one lane there is nothing to sort.
    """
    if len(lanes) == 1:
        return _choose(lanes[0], logits_SV)
    width = len(logits_SV) // len(order)
    places = {item: place for place, item in enumerate(order)}
    events: list[Event] = []
    rows: dict[int, list[int]] = {}
    ids: dict[int, list[int]] = {}
    for lane in lanes:
        mine = [places[item] * width + row for item in lane.items for row in range(width)]
        move = _choose(lane, logits_SV[torch.tensor(mine, device=logits_SV.device)])
        events += move.events
        each = len(move.ids) // max(1, len(move.kept))
        for number, item in enumerate(lane.items):
            part = slice(number * each, (number + 1) * each)
            rows[places[item]], ids[places[item]] = move.rows[part], move.ids[part]
    kept = sorted(rows)
    return Move(
        events,
        kept,
        rows=[row for place in kept for row in rows[place]],
        ids=[id for place in kept for id in ids[place]],
    )


def _choose(lane: _Lane, logits_SV: Tensor) -> Move:
    """Let a lane choose, and forget its items that end."""
    move = lane.search.advance(logits_SV)
    lane.items = [lane.items[place] for place in move.kept]
    return move
