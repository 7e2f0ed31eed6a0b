"""WebDataset shards: tar archives in which consecutive members of one name are one example.

Read with the standard library, not with the `webdataset` package: its streams cannot be entered at a position (its
issues 177 and 271), and it would bring a second way to shuffle, split and decode. Here an archive's headers are walked
without its pictures, so that a run that goes on reads no picture it has seen.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug.errors import MplugError
from mplug.train.readers.example import Example
from mplug.train.readers.order import shuffle_within
from mplug.train.readers.pictures import PictureInside
from mplug.train.readers.rows import Columns, Row, to_example
from mplug.train.readers.source import Keep, Source

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_SHUFFLED = 10_000
"""Examples that are mixed: only their places are held, some 300 bytes each."""


@dataclass(frozen=True, slots=True)
class ShardSample:
    """Where an example's members lie."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]
    """Offset and size by the ending of the name."""


class ShardSource(Source[ShardSample]):
    """Shards in a seeded order, their examples mixed in a buffer.

    Args:
        shards: .tar files.
        columns: how the columns of a ``.json`` member are read; a ``.txt`` member is the caption, ``.cls`` the label.
        keep: which examples; None: all.
        shuffled: capacity of the buffer.

    Raises:
        MplugError: a shard is missing or compressed.
    """

    def __init__(
        self, shards: Sequence[Path], columns: Columns, keep: Keep | None = None, shuffled: int = _SHUFFLED
    ) -> None:
        for shard in shards:
            if not shard.is_file():
                raise MplugError(f"No shard {shard}: name existing .tar files, e.g. 'data/{{000..009}}.tar'.")
        self._shards = shards
        self._columns = columns
        self._keep = keep
        self._shuffled = shuffled
        self._count: int | None = None

    def num_examples(self) -> int:
        """Examples in all shards; the first call walks through them."""
        if self._count is None:
            self._count = sum(1 for _ in self.references())
        return self._count

    def references(self) -> Iterator[ShardSample]:
        """The examples' places in the order of the shards."""
        for shard in self._shards:
            yield from self._walk(shard)

    def epoch(self, seed: str, number: int) -> Iterator[ShardSample]:
        """The examples' places in the order of an epoch."""
        shards = list(self._shards)
        chance = random.Random(f"{seed} epoch {number}")
        chance.shuffle(shards)
        walk = (sample for shard in shards for sample in self._walk(shard))
        return shuffle_within(walk, self._shuffled, chance)

    def read(self, reference: ShardSample) -> Example:
        """Reads an example's texts."""
        values = self._metadata(reference)
        ending = next((ending for ending in IMAGE_ENDINGS if ending in reference.members), None)
        picture = PictureInside(reference.shard, *reference.members[ending]) if ending else None
        name = f"{reference.key}.{ending}" if ending else ""
        row = Row(values, reference.shard, f"sample {reference.key!r}", "", picture, name)
        return to_example(row, self._columns)

    def cursor(self, seed: str) -> _ShardCursor:
        """Shuffled epochs; what lies before a position is walked over."""
        return _ShardCursor(self, seed)

    def where(self, keep: Keep) -> ShardSource:
        """The examples that a predicate keeps; the texts of the others are read too, every epoch."""
        before = self._keep
        both = keep if before is None else lambda example: before(example) and keep(example)
        return ShardSource(self._shards, self._columns, both, self._shuffled)

    def _walk(self, shard: Path) -> Iterator[ShardSample]:
        return (s for s in _samples(shard) if self._keep is None or self._keep(self.read(s)))

    def _metadata(self, sample: ShardSample) -> dict[str, Any]:
        values: dict[str, Any] = {"key": sample.key}
        for ending, column in (("txt", "captions"), ("cls", "label")):
            if ending in sample.members:
                values[column] = _text(sample, ending)
        if "json" in sample.members:
            try:
                columns = json.loads(_text(sample, "json"))
            except json.JSONDecodeError as error:
                raise MplugError(
                    f"{sample.shard}, sample {sample.key!r}: its .json is no JSON ({error})."
                ) from error
            if not isinstance(columns, dict):
                raise MplugError(
                    f"{sample.shard}, sample {sample.key!r}: its .json holds {type(columns).__name__}; give an object."
                )
            values |= columns
        return values


class _ShardCursor:
    def __init__(self, source: ShardSource, seed: str) -> None:
        self._source = source
        self._seed = seed
        self._begin(0, 0)

    def _begin(self, epoch: int, start: int) -> None:
        self._epoch, self._start = epoch, start
        self._walk = self._source.epoch(self._seed, epoch)
        self._next = start

    def at(self, position: int) -> ShardSample:
        assert position >= self._next, "positions ascend"
        while True:
            for sample in self._walk:
                self._next += 1
                if self._next > position:
                    return sample
            size = self._next - self._start
            if not size:
                raise MplugError("None of the shards' examples is kept: check splits and the sets asked for.")
            epoch = position // size
            self._begin(epoch, epoch * size)


def _samples(shard: Path) -> Iterator[ShardSample]:
    """Groups a shard's members, reading their headers alone."""
    key, members = "", dict[str, tuple[int, int]]()
    try:
        # "r:" takes uncompressed archives alone: in a compressed one no member can be reached directly.
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not member.isreg() or not stem or stem.startswith("__"):
                    continue
                this = f"{folder}/{stem}" if folder else stem
                if this != key and members:
                    yield ShardSample(shard, key, members)
                    members = {}
                key = this
                if ending.lower() in members:
                    raise MplugError(
                        f"{shard}, sample {key!r}: two .{ending} members; give each sample its own name."
                    )
                members[ending.lower()] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise MplugError(
            f"{shard} is no whole, uncompressed tar archive ({error}): unpack compressed ones, copy cut ones anew."
        ) from error
    if members:
        yield ShardSample(shard, key, members)


def _text(sample: ShardSample, ending: str) -> str:
    try:
        return PictureInside(sample.shard, *sample.members[ending]).read().decode()
    except UnicodeDecodeError as error:
        raise MplugError(f"{sample.shard}, sample {sample.key!r}: its .{ending} is not UTF-8.") from error
