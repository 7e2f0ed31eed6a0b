"""Batches out of rows, made ahead of use in threads, each a function of the seed and its number."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

from mplug.errors import MplugError
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug.train import parallel
from mplug.train.augment import AugmentConfig, augment
from mplug.train.experiments.batches import Pixels
from mplug.train.experiments.evaluators import EvaluationBatch
from mplug.train.experiments.user_data import Place
from mplug.train.loader import Loader
from mplug.train.readers.example import Example
from mplug.train.readers.mixture import Draw, Mixture

E = TypeVar("E")
B = TypeVar("B")

Prepare = Callable[[Example, Draw, random.Random], E]
"""Makes a training row ready; all its chance comes from the generator."""


class Feed(Generic[E, B]):
    """The batches of a run, as an experiment asks for them; those that follow are made meanwhile.

    Batches asked for in a run's own order are read ahead; any other order, such as that of a run that goes on, begins
    reading anew there and gives the same batches.

    Args:
        mixture: where rows come from.
        prepare: makes one ready, in a thread.
        collate: makes a batch of them; it gets fewer than `batch_size` where pictures are broken.
        batch_size: rows of a part of a step.
        accumulate: parts of a step, over all processes.
        seed: of the run.
        threads: that prepare.
    """

    def __init__(
        self,
        mixture: Mixture,
        prepare: Prepare[E],
        collate: Callable[[Sequence[E]], B],
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
        threads: int,
    ) -> None:
        self._mixture = mixture
        self._prepare = prepare
        self._collate = collate
        self._batch_size = batch_size
        self._accumulate = accumulate
        self._seed = seed
        self._threads = threads
        self._next = -1
        self._loader: Loader[E] | None = None
        self._batches: Iterator[list[E]] = iter(())

    def __call__(self, step: int, part: int) -> B:
        """The batch of a part of a step, both counted from 0.

        Raises:
            MplugError: a row is refused, too many pictures are broken, or all of this batch.
        """
        number = step * self._accumulate + part
        if number != self._next:
            self._enter(number)
        rows = next(self._batches)
        self._next = number + parallel.world()
        if not rows:
            raise MplugError(f"step {step + 1}: no picture of its batch could be read; see the log.")
        return self._collate(rows)

    def close(self) -> None:
        """Ends the threads; another call starts them again."""
        self._next = -1
        if self._loader is not None:
            self._loader.close()

    def _enter(self, number: int) -> None:
        self.close()
        self._loader = Loader(
            self._own_draws(number),
            self._ready,
            threads=self._threads,
            ahead=2 * max(self._batch_size, self._threads),
        )
        batches = self._loader.batches(self._batch_size)
        self._batches = ([loaded.value for loaded in batch] for batch in batches)

    def _own_draws(self, number: int) -> Iterator[Draw]:
        """The rows of this process's batches: it computes every `world`-th one."""
        world = parallel.world()
        for draw in self._mixture.draws(self._seed, number * self._batch_size):
            if (draw.number // self._batch_size - number) % world == 0:
                yield draw

    def _ready(self, example: Example, draw: Draw) -> E:
        return self._prepare(example, draw, random.Random(f"{self._seed} row {draw.number}"))


class EvaluationPictures:
    """Pictures to write about, read anew whenever they are asked for; broken ones are logged and left out.

    Args:
        places: of the rows whose pictures are wanted.
        keys: of each row, as the metric knows it.
        questions: of each row, where something is asked.
        image_size: side of the pictures in pixels.
        batch_size: pictures at once.
        threads: that decode.
    """

    def __init__(
        self,
        places: Sequence[Place],
        keys: Sequence[str],
        questions: Sequence[str] = (),
        *,
        image_size: int,
        batch_size: int,
        threads: int,
    ) -> None:
        self._draws = [
            Draw(number, number, place.source, place.reference, number) for number, place in enumerate(places)
        ]
        self._keys = keys
        self._questions = questions
        self._image_size = image_size
        self._batch_size = batch_size
        self._threads = threads

    def __call__(self) -> Iterator[EvaluationBatch]:
        """Batches in the order of the rows."""
        ahead = 2 * max(self._batch_size, self._threads)
        with Loader(self._draws, self._ready, threads=self._threads, ahead=ahead) as loader:
            for batch in loader.batches(self._batch_size):
                if batch:
                    rows = [loaded.draw.number for loaded in batch]
                    yield EvaluationBatch(
                        torch.stack([torch.from_numpy(loaded.value) for loaded in batch]),
                        [self._keys[row] for row in rows],
                        [self._questions[row] for row in rows] if self._questions else (),
                    )

    def _ready(self, example: Example, draw: Draw) -> Pixels:
        return evaluation_pixels(example, self._image_size)


def evaluation_pixels(example: Example, size: int) -> Pixels:
    """A row's picture as it is served.

    Raises:
        ImageError: it is broken.
        OSError: it cannot be read.
    """
    assert example.image is not None, "the task refuses rows without a picture"
    return to_pixels(decode_image(example.image.read()), size)


def training_pixels(example: Example, size: int, config: AugmentConfig, chance: random.Random) -> Pixels:
    """A row's picture, changed by chance.

    Raises:
        ImageError: it is broken.
        OSError: it cannot be read.
    """
    assert example.image is not None, "the task refuses rows without a picture"
    image = decode_image(example.image.read())
    return to_pixels(augment(image, size, config, chance, example.texts()), size)
