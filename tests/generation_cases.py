"""Decoders to generate with, and generation written down naively, to compare the engine with."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden.mplug_cases import GoldenCase, read_case
from mplug.captioning import CaptionModel
from mplug.checkpoints import modelscope
from mplug.config import TextDecoderConfig
from mplug.decoder_state import DecoderState
from mplug.generation import GenerationConfig, Hypothesis
from mplug.text_decoder import TextDecoder

GOLDEN_DECODERS = ("caption_large", "vqa_base", "vqa_distill", "vqa_large", "vqa_stride6")
EOS = 2


@dataclass(frozen=True)
class Memories:
    """Opens a text decoder's states over some of its memories."""

    decoder: TextDecoder
    memory: Tensor
    mask: Tensor | None = None

    def __call__(self, items: Sequence[int]) -> DecoderState:
        rows = list(items)
        mask = None if self.mask is None else self.mask[rows]
        return self.decoder.start(self.memory[rows], memory_mask_BN=mask)


@dataclass(frozen=True)
class GoldenDecoder:
    """The decoder of a golden case, and what the reference let it attend to."""

    case: GoldenCase
    decoder: TextDecoder
    memory: Tensor
    memory_mask: Tensor | None

    @property
    def start(self) -> Memories:
        return Memories(self.decoder, self.memory, self.memory_mask)


def golden_decoder(name: str, folder: Path) -> GoldenDecoder:
    case = read_case(name)
    decoder = modelscope.load(case.write_modelscope(folder), CaptionModel).text_decoder
    memory = case.io.get("decoder_memory", case.io["image_embeds"])
    mask = case.io.get("decoder_memory_mask")
    return GoldenDecoder(case, decoder, memory, None if mask is None else mask.bool())


def random_decoder(seed: int, **changes: Any) -> TextDecoder:
    """A small decoder whose every parameter is random, large enough that its distributions are not flat."""
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden": 32, "layers": 2, "heads": 4, "ffn": 48}
    rest: dict[str, Any] = {"positions": 40, "memory_width": 24, "bos_id": 1, "eos_id": EOS}
    decoder = TextDecoder(TextDecoderConfig(**{**sizes, **rest, **changes})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return decoder


def random_memories(
    decoder: TextDecoder, count: int, generator: torch.Generator, *, masked: bool = False
) -> Memories:
    memory = torch.randn(count, 7, decoder.config.memory_width, generator=generator)
    mask = torch.rand(count, 7, generator=generator) < 0.7
    mask[:, 0] = True
    return Memories(decoder, memory, mask if masked else None)


@dataclass
class TableState:
    """Which text of which item every sequence is."""

    items: list[int]
    texts: list[list[int]]

    def repeat(self, n: int) -> None:
        self.items = [item for item in self.items for _ in range(n)]
        self.texts = [list(text) for text in self.texts for _ in range(n)]

    def select(self, rows_S: Tensor) -> None:
        rows = rows_S.tolist()
        assert [self.items[row] for row in rows] == self.items, "beams stay with their item"
        self.texts = [list(self.texts[row]) for row in rows]

    def keep_images(self, rows_B: Tensor) -> None:
        each = len(self.items) // len(dict.fromkeys(self.items))
        rows = [row * each + offset for row in rows_B.tolist() for offset in range(each)]
        self.items = [self.items[row] for row in rows]
        self.texts = [self.texts[row] for row in rows]

    def join(self, other: TableState) -> None:
        self.items += other.items
        self.texts += other.texts


@dataclass
class TableDecoder:
    """A language model by tables: what comes next depends on the item and on the last two tokens."""

    vocab_size: int
    seed: int
    eos_id: int = EOS
    max_positions: int = 64
    eos_bonus: float = 0.0
    """Added to the ending token's logit."""
    steps: int = field(default=0, init=False)

    def start(self, items: Sequence[int]) -> TableState:
        return TableState(list(items), [[] for _ in items])

    def step(self, ids_SL: Tensor, state: TableState, *, lengths_S: Tensor | None = None) -> Tensor:
        self.steps += 1
        lengths = [ids_SL.shape[1]] * len(state.texts) if lengths_S is None else lengths_S.tolist()
        for text, ids, length in zip(state.texts, ids_SL.tolist(), lengths, strict=True):
            text += ids[:length]
        return torch.stack(
            [self.logits(item, text) for item, text in zip(state.items, state.texts, strict=True)]
        )

    def logits(self, item: int, text: Sequence[int]) -> Tensor:
        key = random.Random(f"{self.seed}/{item}/{list(text[-2:])}").getrandbits(32)
        logits = 2 * torch.randn(self.vocab_size, generator=torch.Generator().manual_seed(key))
        logits[self.eos_id] += self.eos_bonus
        return logits


NextLogits = Callable[[Sequence[int]], Tensor]
"""From a whole text to the logits (V,) of its next token."""


def text_logits(memories: Memories, item: int) -> NextLogits:
    """Without any cache, in float64."""
    decoder = copy.deepcopy(memories.decoder).double()
    memory = memories.memory[item : item + 1].double()
    mask = None if memories.mask is None else memories.mask[item : item + 1]

    @torch.no_grad()
    def logits(text: Sequence[int]) -> Tensor:
        logits_BLV: Tensor = decoder(torch.tensor([text]), memory, memory_mask_BN=mask)
        return logits_BLV[0, -1]

    return logits


def check_texts(found: Sequence[Hypothesis], wanted: Sequence[Hypothesis], tolerance: float = 1e-4) -> None:
    assert [one.ids for one in found] == [one.ids for one in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=tolerance, rel=1e-6)
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=tolerance, rel=1e-6)


@dataclass
class Naive:
    """Texts by the letter of what each setting means: one item, float64, the whole text at every step."""

    logits: NextLogits
    prompt: Sequence[int]
    config: GenerationConfig
    eos_id: int = EOS
    margin: float = float("inf")
    """The narrowest decision so far: how far the chosen was from another choice."""

    def generate(self, seed: int = 0) -> list[Hypothesis]:
        if self.config.method == "beam":
            return self.beam_search()
        return [self.sequence(random.Random(f"{seed}/{number}")) for number in range(self.config.num_results)]

    def scored(self, text: Sequence[int], score: float) -> Hypothesis:
        prompt = len(self.prompt)
        tokens = range(prompt, len(text))
        return Hypothesis(
            tuple(text), score, tuple(self.value(text[:at], at - prompt, text[at]) for at in tokens)
        )

    def value(self, text: Sequence[int], generated: int, token: int) -> float:
        """What a search sums."""
        return float(self.log_probs(text, generated)[token])

    def log_probs(self, text: Sequence[int], generated: int) -> Tensor:
        logits = self.logits(text).double().clone()
        for token in set(text):
            factor = self.config.repetition_penalty
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        log_probs = logits.softmax(0).log()
        if generated < self.config.min_length:
            log_probs[self.eos_id] = -1e20
        size = self.config.no_repeat_ngram_size
        if size:
            seen = {tuple(text[at : at + size]) for at in range(len(text) - size + 1)}
            for token in range(len(logits)):
                if (*text[len(text) - size + 1 :], token) in seen:
                    log_probs[token] = -1e20
        return log_probs

    def beam_search(self) -> list[Hypothesis]:
        beams = self.config.beam_size
        texts = [list(self.prompt)] * beams
        sums = [0.0] + [-torch.inf] * (beams - 1)
        found: list[Hypothesis] = []
        for step in range(self.config.max_length):
            penalty = ((5 + step + 1) / 6) ** self.config.length_penalty
            table = torch.stack([self.log_probs(text, step) for text in texts])
            scores = ((table + torch.tensor(sums, dtype=torch.float64)[:, None]) / penalty).flatten()
            best = scores.sort(descending=True)
            self.decided(best.values[: beams + 1].tolist())
            picks = [divmod(place, table.shape[1]) for place in best.indices[:beams].tolist()]
            kept = best.values[:beams].tolist()
            sums = [score * penalty for score in kept]
            texts = [[*texts[beam], token] for beam, token in picks]
            over = picks[0][1] == self.eos_id or step + 1 == self.config.max_length
            found += [
                self.scored(text, score)
                for text, score in zip(texts, kept, strict=True)
                if over or text[-1] == self.eos_id
            ]
            if over:
                break
        found.sort(key=lambda one: -one.score)
        self.decided([one.score for one in found])
        return found[: self.config.num_results]

    def sequence(self, draws: random.Random) -> Hypothesis:
        text, total = list(self.prompt), 0.0
        count = 0
        while count < self.config.max_length and (count == 0 or text[-1] != self.eos_id):
            log_probs = self.log_probs(text, count)
            token = self.pick(log_probs, draws)
            text, total, count = [*text, token], total + float(log_probs[token]), count + 1
        return self.scored(text, total / ((5 + count) / 6) ** self.config.length_penalty)

    def pick(self, log_probs: Tensor, draws: random.Random) -> int:
        if self.config.method == "greedy":
            self.decided(log_probs.sort(descending=True).values[:2].tolist())
            return int(log_probs.argmax())
        probs = (log_probs / self.config.temperature).softmax(0)
        probs = self.only(probs, self.config.top_k or len(probs))
        ordered = probs.sort(descending=True).values
        sums = ordered.cumsum(0)
        self.margin = min(self.margin, float((sums - self.config.top_p).abs().min()))
        probs = (
            self.only(probs, 1 + int((sums < self.config.top_p).sum())) if self.config.top_p < 1 else probs
        )
        target, total = draws.random(), 0.0
        for token, probability in enumerate(probs.tolist()):
            total += probability
            self.margin = min(self.margin, abs(total - target))
            if target < total:
                return token
        raise AssertionError("probabilities do not sum to 1")

    def only(self, probs: Tensor, count: int) -> Tensor:
        ordered = probs.sort(descending=True)
        self.decided(ordered.values[count - 1 : count + 1].tolist())
        kept = torch.zeros_like(probs)
        kept[ordered.indices[:count]] = ordered.values[:count]
        return kept / kept.sum()

    def decided(self, ordered: Sequence[float]) -> None:
        for higher, lower in itertools.pairwise(ordered):
            if higher != lower or higher > -1e19:
                self.margin = min(self.margin, higher - lower)
