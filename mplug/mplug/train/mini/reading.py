"""What a step sees: pictures as tokens from the cache, their captions, and questions about them.

Everything is drawn from (seed, number of the batch), so that a resumed run sees what it would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mplug.errors import MplugError
from mplug.train.data import CaptionedImage, Split, read_captions
from mplug.train.experiments.models import WholeModel
from mplug.train.features import View, list_views
from mplug.train.mini.config import WholeStageConfig
from mplug.train.mini.tokens import TokenCache, open_tokens
from mplug.train.vqa_data import VqaRow, read_questions

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class StageData:
    """All that a stage reads."""

    train: list[CaptionedImage]
    dev: list[CaptionedImage]
    train_questions: list[VqaRow]
    """As often as an epoch shows them."""
    dev_questions: list[VqaRow]
    tokens: TokenCache


def open_data(folder: Path, config: WholeStageConfig, model: WholeModel) -> StageData:
    """Reads captions and questions, and opens the cache of image_tokens, making what it lacks."""
    images = read_captions(folder, config.data)
    usable = [image for image in images if image.split in (Split.TRAIN, Split.DEV)]
    questions = [q for q in read_questions(folder, config.data) if q.split in (Split.TRAIN, Split.DEV)]
    repeats = dict(config.question_repeats)
    views = list_views(usable, config.data)
    known = {view.path for view in views}
    # Pictures that are only asked about are seen as they are: crops would change the answers.
    views += [
        View(path, 0, flip=False) for path in dict.fromkeys(q.path for q in questions) if path not in known
    ]
    return StageData(
        train=[image for image in usable if image.split == Split.TRAIN],
        dev=[image for image in usable if image.split == Split.DEV],
        train_questions=[
            q for q in questions if q.split == Split.TRAIN for _ in range(repeats.get(_set_name(q.path), 1))
        ],
        dev_questions=[q for q in questions if q.split == Split.DEV],
        tokens=open_tokens(folder, views, model.image_encoder.eval(), config.data.min_crop),
    )


def written_texts(data: StageData) -> Iterator[str]:
    """All captions and answers of the training pictures, each as often as it is read in an epoch."""
    for image in data.train:
        yield from (*image.captions, *image.captions_zh)
    for question in data.train_questions:
        yield from question.answers


def some_pairs(data: StageData, count: int = 96) -> tuple[Tensor, list[str]]:
    """image_tokens (B, N, D) of so many training pictures, always the same, and a text of each."""
    chance = random.Random("some pairs")
    images = chance.sample(data.train, min(count, len(data.train)))
    texts = [chance.choice([*image.captions, *image.captions_zh]) for image in images]
    return data.tokens.read([(image.path, 0) for image in images]), texts


def _set_name(path: str) -> str:
    return Path(path).parts[1]


class Shuffled(Generic[T]):
    """Batches out of a list in a new order each epoch; what is left over comes in another epoch.

    Args:
        items: to choose from.
        size: of a batch.
        seed: of the order.
        order: makes an epoch's order from its random numbers; None = all items in any order.

    Raises:
        MplugError: there are fewer items than a batch holds.
    """

    def __init__(
        self,
        items: Sequence[T],
        size: int,
        seed: str,
        order: Callable[[random.Random], list[T]] | None = None,
    ) -> None:
        self._items = items
        self._size = size
        self._seed = seed
        self._order = order or self._any_order
        self._epoch = lru_cache(maxsize=1)(self._new_epoch)
        count = len(self._epoch(0))
        if count < size:
            raise MplugError(
                f"a batch of {size} cannot be had of {count} training items ({seed}): make it smaller"
            )
        self._per_epoch = count // size

    def batch(self, number: int) -> list[T]:
        """The items of a batch, counted from 0 over all epochs."""
        epoch, position = divmod(number, self._per_epoch)
        return self._epoch(epoch)[position * self._size : (position + 1) * self._size]

    def _new_epoch(self, epoch: int) -> list[T]:
        return self._order(random.Random(f"{self._seed} epoch {epoch}"))

    def _any_order(self, chance: random.Random) -> list[T]:
        return chance.sample(list(self._items), len(self._items))


def draw_views(tokens: TokenCache, paths: Sequence[str], chance: random.Random) -> Tensor:
    """image_tokens (B, N, D) of one view of each picture."""
    return tokens.read([(path, chance.randrange(tokens.num_views(path))) for path in paths])


def neighbour_order(embeds_PE: Tensor, size: int, chance: random.Random) -> list[list[int]]:
    """All pictures once, in groups that look alike: a random picture and its nearest that are in no group yet.

    Args:
        embeds_PE: L2-normalised.
        size: of a group; what is left over at the end is left out.
        chance: draws the groups' first pictures.

    Returns:
        Row numbers.
    """
    free = torch.ones(len(embeds_PE), dtype=torch.bool)
    groups = []
    for first in chance.sample(range(len(embeds_PE)), len(embeds_PE)):
        if not free[first] or int(free.sum()) < size:
            continue
        similar_P = (embeds_PE @ embeds_PE[first]).masked_fill(~free, -torch.inf)
        similar_P[first] = torch.inf
        group = similar_P.topk(size).indices
        free[group] = False
        groups.append(group.tolist())
    return groups
