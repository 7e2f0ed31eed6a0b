"""Pictures and texts to vectors, in one forward pass a batch.

Legend: B items of a batch, R image side, L text tokens, E joint embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mplug.contrastive import ContrastiveModel
from mplug_services.runners.runner import Alive, Deliver
from mplug_services.work import EmbedImage, EmbedText, NonFiniteError, WorkItem, WorkKind

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]


class EmbedRunner:
    """Embeds with one of the two encoders.

    Args:
        model: the model.
        kind: `IMAGE` or `TEXT`.
    """

    def __init__(self, model: ContrastiveModel, kind: WorkKind) -> None:
        self.kind = kind
        self._model = model

    def run(self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive) -> Iterator[None]:
        """One quantum; see `Runner`."""
        for place, outcome in enumerate(embed_batch(self._model, items)):
            deliver(place, outcome)
        yield from ()

    def warm_up(self) -> list[list[WorkItem]]:
        """One item, and a batch."""
        item: WorkItem
        if self.kind is WorkKind.IMAGE:
            side = self._model.preprocess.image_size
            item = EmbedImage(pixels=np.zeros((3, side, side), dtype=np.uint8))
        else:
            item = EmbedText(ids=self._model.tokenizer.encode("warm up").ids)
        return [[item], [item] * 4]


def embed_batch(model: ContrastiveModel, items: Sequence[WorkItem]) -> list[Vectors | Exception]:
    """One forward pass, with the retreats when it fails: a vector float32 (E,) or an error for each item.

    Out of device memory: two halves, once. Any other error: item by item, so that only the culprit fails.
    """
    try:
        return _checked(_forward(model, items))
    except torch.cuda.OutOfMemoryError as error:
        return _embed_halves(model, items, error)
    except Exception as error:
        if len(items) > 1:
            return [_embed_alone(model, item) for item in items]
        logger.error("a forward pass failed", exc_info=True)
        return [error]


def _embed_halves(
    model: ContrastiveModel, items: Sequence[WorkItem], error: Exception
) -> list[Vectors | Exception]:
    if len(items) == 1:
        return [error]
    logger.warning("a batch of %d did not fit into the device's memory; halving it", len(items))
    torch.cuda.empty_cache()
    middle = len(items) // 2
    outcomes: list[Vectors | Exception] = []
    for half in (items[:middle], items[middle:]):
        try:
            outcomes += _checked(_forward(model, half))
        except Exception as again:
            outcomes += [again] * len(half)
    return outcomes


def _embed_alone(model: ContrastiveModel, item: WorkItem) -> Vectors | Exception:
    try:
        return _checked(_forward(model, [item]))[0]
    except Exception as error:
        logger.error("a forward pass of one item failed", exc_info=True)
        return error


def _forward(model: ContrastiveModel, items: Sequence[WorkItem]) -> Vectors:
    """Items of one kind -> float32 (B, E)."""
    if items[0].kind is WorkKind.IMAGE:
        pixels = np.stack([item.pixels for item in items if isinstance(item, EmbedImage)])
        vectors = model.embed_images(torch.from_numpy(pixels).to(model.device))
    else:
        ids, mask = _pad([item for item in items if isinstance(item, EmbedText)], model.tokenizer.pad_id)
        vectors = model.embed_texts(ids.to(model.device), mask.to(model.device))
    return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)


def _pad(texts: Sequence[EmbedText], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids int64 (B, L) and mask bool (B, L), True = attend."""
    length = max(len(text.ids) for text in texts)
    ids = np.full((len(texts), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(texts), length), dtype=np.bool_)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = text.ids
        mask[row, : len(text.ids)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _checked(vectors: Vectors) -> list[Vectors | Exception]:
    return [
        # A copy, so that an item's result does not keep the whole batch in memory.
        row.copy()
        if np.isfinite(row).all()
        else NonFiniteError("the model gave NaN or infinity for this item")
        for row in vectors
    ]
