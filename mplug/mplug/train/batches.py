"""What one step sees. Everything is drawn from (seed, step), so a resumed run sees what it would have seen."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mplug.train.config import DataConfig
from mplug.train.data import CaptionedImage
from mplug.train.features import FeatureCache
from mplug.train.losses import identity_numbers


@dataclass(frozen=True, slots=True)
class Batch:
    """B pictures, each with an English and a Chinese caption."""

    features: Tensor
    """float32 (B, C, h, w): the frozen blocks' maps."""
    captions: list[str]
    captions_zh: list[str]
    """The English caption stands in where a picture has no Chinese one."""
    identities: Tensor
    """int64 (B,): equal numbers show the same thing."""


class Sampler:
    """Shuffles the training pictures anew each epoch and draws a view and two captions for each."""

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        cache: FeatureCache,
        data: DataConfig,
        batch_size: int,
        seed: int,
    ) -> None:
        repeats = dict(data.set_repeats)
        self.images = [image for image in images for _ in range(repeats.get(image.set_name, 1))]
        self._cache = cache
        self._batch_size = batch_size
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the pictures left over come in another epoch."""
        return len(self.images) // self._batch_size

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = list(range(len(self.images)))
        random.Random(f"{self._seed} epoch {epoch}").shuffle(order)
        rows = order[position * self._batch_size : (position + 1) * self._batch_size]
        images = [self.images[row] for row in rows]
        chance = random.Random(f"{self._seed} step {step}")
        views = [(image.path, chance.randrange(self._cache.num_views(image.path))) for image in images]
        return Batch(
            features=self._cache.read(views),
            captions=[chance.choice(image.captions) for image in images],
            captions_zh=[chance.choice(image.captions_zh or image.captions) for image in images],
            identities=identity_numbers([image.identity for image in images]),
        )
