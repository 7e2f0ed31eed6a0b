"""Batches of texts of like length, each a function of the seed and its number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mplug.gpt3.losses import loss_mask
from mplug.train.text.families import TextExample

POOL = 32
"""Batches whose rows are sorted by length together: little padding, and enough chance in who meets whom."""


@dataclass(frozen=True, slots=True, eq=False)
class TextBatch:
    """B rows."""

    source_BN: Tensor
    """int64, padding behind; N = 0 where nothing is encoded."""
    ids_BL: Tensor
    """int64, padding behind."""
    counts_BL: Tensor
    """bool (B, L - 1): the labels that are learnt."""


def collate(examples: Sequence[TextExample], pad_id: int) -> TextBatch:
    """Stack rows."""
    ids_BL = _padded([each.ids for each in examples], pad_id)
    given_B = torch.tensor([each.given for each in examples])
    lengths_B = torch.tensor([len(each.ids) for each in examples])
    counts_BL = loss_mask(ids_BL.shape[1] - 1, given_B, lengths_B)
    return TextBatch(_padded([each.source for each in examples], pad_id), ids_BL, counts_BL)


def bucketed_order(
    lengths: Sequence[int], repeats: Sequence[float], batch_size: int, chance: random.Random
) -> list[int]:
    """An epoch's rows in the order of its batches: neighbours are of like length, batches come in any order.

    Args:
        lengths: of each row.
        repeats: how often each row comes; of a fraction, a share of the rows is drawn anew each epoch.
        batch_size: rows of a batch.
        chance: draws everything.

    Returns:
        Row numbers, whole batches only; their number depends on `repeats` and `batch_size` alone.
    """
    rows = _repeated(repeats, chance)
    chance.shuffle(rows)
    batches: list[list[int]] = []
    for start in range(0, len(rows), POOL * batch_size):
        pool = sorted(rows[start : start + POOL * batch_size], key=lambda row: lengths[row])
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    whole = [batch for batch in batches if len(batch) == batch_size]
    chance.shuffle(whole)
    return [row for batch in whole for row in batch]


def _repeated(repeats: Sequence[float], chance: random.Random) -> list[int]:
    rows = [row for row, count in enumerate(repeats) for _ in range(int(count))]
    rests = [(row, count % 1) for row, count in enumerate(repeats) if count % 1]
    # The share that is due is drawn by weight without replacement (Efraimidis and Spirakis 2006), always as many.
    keyed = sorted(rests, key=lambda each: chance.random() ** (1 / each[1]), reverse=True)
    return rows + [row for row, _ in keyed[: round(sum(rest for _, rest in rests))]]


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], dtype=torch.int64)
