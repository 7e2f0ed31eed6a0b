"""Texts longer than a window, as the reference's own generation makes them (`DistributedPlug.generate`).

PLUG's pipeline does not search with beams, and does not stop at the first end; here is all that it does:

1.  Tokens are drawn one at a time, from the `top_k` likeliest or from a nucleus; drawing from one is greedy decoding.
2.  A token behind the vocabulary, which the table's padding allows, becomes [UNK]. Several [UNK] in a row are shown as
    one, and read as many.
3.  [SEP] ends a text that has more than 0.8 * `max_length` tokens, and is the last one; the reference's ids lack it.
    Any other [SEP] is skipped: it is neither read nor written, it counts as a step, and the next token is drawn from
    where it was.
4.  After every 128 steps what was written since the last time, and a [SEP] behind it, overwrite the source from its
    [SEP] on; the decoder begins anew with [CLS], and reads none of it again.
5.  The source keeps its last 512 tokens. The reference has a line for it that cannot run: it would join tensors of one
    and of two dimensions. With several [SEP] in a source it fails as well; here the last one counts.
6.  `max_length` counts steps, skipped [SEP] included.

The reference takes one text at a time and keeps no keys and values. Here a batch is taken, and each text of it is what
it would be alone, since its random numbers are its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mplug.errors import MplugError
from mplug.generation.config import GenerationConfig
from mplug.generation.constraints import constrained_log_probs
from mplug.generation.engine import pad_right, search_steps
from mplug.generation.events import Event, Finished, Hypothesis, Token
from mplug.generation.sampling import draw
from mplug.generation.search import Move
from mplug.plug.config import BOS_ID, EOS_ID, UNK_ID
from mplug.plug.model import PlugModel

WINDOW = 128
"""Steps between two looks at the source."""
LONGEST_SOURCE = 512
"""Tokens of the source that are kept."""
ENOUGH = 0.8
"""Of `max_length`: with fewer tokens no text ends."""


def stream_windows(
    model: PlugModel,
    sources: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    seeds: Sequence[int] | None = None,
) -> Iterator[Event]:
    """Write a text for each of several sources, token by token.

    Args:
        model: in evaluation mode.
        sources: token ids, each with a [SEP].
        config: of method `greedy` or `sample`, one result; `max_length` as above, `min_length` 0.
        seeds: of `sample`, one for each source; None = `config.seed` for every one.

    Yields:
        Each text's tokens in order, texts interleaved, and its `Finished` after its last token; the ids there begin
        with [CLS], and end with [SEP] where that ended the text. Log-probabilities are of the tokens that are shown,
        the score is of all that were written.

    Raises:
        MplugError: settings that windows cannot have, a source without [SEP], or another number of seeds. Raised by the
            call, before any work.
    """
    seeds = [config.seed] * len(sources) if seeds is None else seeds
    _check(model, sources, config, seeds)
    texts = [
        # random.Random takes a string through SHA-512: the same numbers on every machine.
        _Text(number, list(source), random.Random(f"{seed}/0"))
        for number, (source, seed) in enumerate(zip(sources, seeds, strict=True))
    ]
    return _stream(model, [[text] for text in texts] if config.deterministic else [texts], config)


@dataclass(slots=True)
class _Text:
    """One text."""

    number: int
    source: list[int]
    """What the encoder reads."""
    draws: random.Random
    written: list[int] = field(default_factory=list)
    window: list[int] = field(default_factory=list)
    """What was written since the source was last looked at."""
    shown: list[int] = field(default_factory=list)
    steps: int = 0
    log_prob: float = 0.0
    """Of all that was written."""
    log_probs: list[float] = field(default_factory=list)
    """Of each token that is shown."""
    is_over: bool = False

    @property
    def pauses(self) -> bool:
        """Whether it does not go on from its last token."""
        return self.is_over or self.steps % WINDOW == 0

    def take(self, token: int, log_prob: float, config: GenerationConfig) -> list[Event]:
        """Make a step by a token of the vocabulary."""
        events: list[Event] = []
        is_enough = len(self.written) > int(config.max_length * ENOUGH)
        if math.isnan(log_prob):
            self.log_prob, self.is_over = math.nan, True
        elif token == EOS_ID and is_enough:
            self.is_over, events = True, self._write(token, log_prob)
        else:
            self.steps += 1
            self.is_over = self.steps == config.max_length
            if token != EOS_ID:
                events = self._write(token, log_prob)
        if self.is_over:
            score = self.log_prob / config.penalty(max(1, len(self.written)))
            text = Hypothesis((BOS_ID, *self.shown), score, tuple(self.log_probs))
            events.append(Finished(self.number, (text,)))
        return events

    def slide(self, room: int) -> None:
        """Write the window into the source, of which so many tokens are kept."""
        end = len(self.source) - 1 - self.source[::-1].index(EOS_ID)
        new = [*self.window, EOS_ID]
        behind = self.source[end + len(new) :] if end + len(new) < room else []
        self.source = [*self.source[:end], *new, *behind][-room:]
        self.window = []

    def _write(self, token: int, log_prob: float) -> list[Event]:
        self.written.append(token)
        self.window.append(token)
        self.log_prob += log_prob
        if token == UNK_ID and self.shown[-1:] == [UNK_ID]:
            return []
        self.shown.append(token)
        self.log_probs.append(log_prob)
        return [Token(self.number, token, log_prob)]


class _WindowSearch:
    """Chooses tokens until every text pauses; see `mplug.generation.search.Search`."""

    def __init__(self, texts: Sequence[_Text], config: GenerationConfig, vocab_size: int) -> None:
        self._texts = list(texts)
        self._config = config
        self._vocab_size = vocab_size

    def advance(self, logits_SV: Tensor) -> Move:
        """Extend every text by the next token that is no skipped [SEP]."""
        written = [text.written for text in self._texts]
        generated = [len(ids) for ids in written]
        log_probs_SV = constrained_log_probs(logits_SV, written, generated, self._config, EOS_ID)
        events: list[Event] = []
        for text, token, row_1V in zip(
            self._texts, self._choose(log_probs_SV, self._texts), torch.split(log_probs_SV, 1), strict=True
        ):
            events += self._extend(text, token, row_1V)
        kept = [place for place, text in enumerate(self._texts) if not text.pauses]
        self.keep(kept)
        return Move(events, kept, rows=[0] * len(kept), ids=[text.window[-1] for text in self._texts])

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these texts alone."""
        self._texts = [self._texts[place] for place in places]

    def _extend(self, text: _Text, token: int, row_1V: Tensor) -> list[Event]:
        while True:
            known = token if token < self._vocab_size else UNK_ID
            events = text.take(known, float(row_1V[0, token]), self._config)
            if token != EOS_ID or text.pauses:
                return events
            token = self._choose(row_1V, [text])[0]

    def _choose(self, log_probs_SV: Tensor, texts: Sequence[_Text]) -> list[int]:
        if self._config.method == "greedy":
            chosen: list[int] = log_probs_SV.argmax(-1).tolist()
            return chosen
        drawn: list[int] = draw(log_probs_SV, [text.draws.random() for text in texts], self._config).tolist()
        return drawn


def _stream(model: PlugModel, batches: Sequence[list[_Text]], config: GenerationConfig) -> Iterator[Event]:
    room = min(LONGEST_SOURCE, model.config.positions)
    for texts in batches:
        while texts:
            source_BN, _ = pad_right([text.source for text in texts])  # with 0, which is [PAD]
            state = model.start_decoding(source_BN.to(model.device))
            search = _WindowSearch(texts, config, model.config.original_vocab_size)
            prompts = {text.number: [BOS_ID] for text in texts}
            for events in search_steps(model.decoder, state, prompts, search, 1):
                yield from events
            texts = [text for text in texts if not text.is_over]
            for text in texts:
                text.slide(room)


def _check(
    model: PlugModel, sources: Sequence[Sequence[int]], config: GenerationConfig, seeds: Sequence[int]
) -> None:
    if config.method == "beam" or config.num_results != 1 or config.min_length != 0:
        raise MplugError(
            f"method is {config.method!r}, num_results {config.num_results}, min_length {config.min_length}; windows "
            "take 'greedy' or 'sample', one result, and a min_length of 0"
        )
    if len(seeds) != len(sources):
        raise MplugError(
            f"there are {len(seeds)} seeds for {len(sources)} sources; give one for each, or none"
        )
    longest = min(WINDOW, config.max_length)
    if longest > model.decoder.max_positions:
        raise MplugError(
            f"a window is {longest} tokens long, the decoder has {model.decoder.max_positions} positions: lower "
            "max_length, which is a pipeline's out_length"
        )
    for number, source in enumerate(sources):
        if EOS_ID not in source:
            raise MplugError(
                f"source {number} has no token {EOS_ID}, behind which the text is written; add it"
            )
