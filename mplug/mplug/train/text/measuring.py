"""What an evaluation of a text generator finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from mplug.evaluation.text_scores import perplexity, score_texts
from mplug.text.chinese import is_ideograph
from mplug.text_writing import write
from mplug.train.experiments.batches import to_device
from mplug.train.text.batches import collate
from mplug.train.text.families import AnyFamily, TextExample, token_losses
from mplug.train.text.rows import TextRow

Score = Callable[[Sequence[str]], Mapping[str, float]]
"""Texts, in the order of their prompts, to metrics by name."""


@dataclass(frozen=True, slots=True)
class PerplexityMeasure:
    """`perplexity` of the targets' tokens, the ending one included, and its logarithm, `loss`."""

    rows: Sequence[TextRow]
    batch_size: int

    def __call__(self, family: AnyFamily) -> Mapping[str, float]:
        """See `Measure`."""
        found = perplexity(log_probabilities(family, self.rows, self.batch_size))
        return {"perplexity": found, "loss": float(torch.tensor(found).log())}


@dataclass(frozen=True, slots=True)
class WritingMeasure:
    """What is written from prompts, greedily, as a metric that is handed in sees it; no longer than there is room."""

    prompts: Sequence[str]
    score: Score
    max_length: int
    batch_size: int

    def __call__(self, family: AnyFamily) -> Mapping[str, float]:
        """See `Measure`."""
        texts: list[str] = []
        for start in range(0, len(self.prompts), self.batch_size):
            some = self.prompts[start : start + self.batch_size]
            written = write(
                family.generator, some, method="greedy", min_length=0, max_length=self._room(family, some)
            )
            texts += [best.text for best, *_ in written]
        return self.score(texts)

    def _room(self, family: AnyFamily, prompts: Sequence[str]) -> int:
        longest = max(len(family.generator.read(prompt).first) for prompt in prompts)
        positions: int = family.generator.decoder.max_positions
        return min(self.max_length, positions - longest)


def log_probabilities(
    family: AnyFamily, rows: Sequence[TextRow], batch_size: int
) -> Iterator[Sequence[float]]:
    """Logarithm of each learnt token's probability, a text at a time, those of like length together.

    Args:
        family: of the model, in evaluation mode.
        rows: in any order.
        batch_size: rows at once.
    """
    examples = sorted(
        (family.example(row) for row in rows), key=lambda each: len(each.source) + len(each.ids)
    )
    for start in range(0, len(examples), batch_size):
        yield from _of_batch(family, examples[start : start + batch_size])


def target_score(rows: Sequence[TextRow]) -> Score:
    """ROUGE and BLEU against the rows' targets; Chinese where any of them is."""
    references = [[row.target] for row in rows]
    chinese = any(is_ideograph(character) for row in rows for character in row.target)
    return lambda texts: score_texts(texts, references, "zh" if chinese else "en").metrics()


def _of_batch(family: AnyFamily, examples: Sequence[TextExample]) -> Iterator[Sequence[float]]:
    batch = to_device(collate(examples, family.pad_id), family.generator.device)
    with torch.no_grad():
        losses_P = token_losses(family, batch.source_BN, batch.ids_BL, batch.counts_BL)
    lengths = batch.counts_BL.sum(1).tolist()
    return (part.neg().clamp(max=0).tolist() for part in torch.split(losses_P, lengths))
