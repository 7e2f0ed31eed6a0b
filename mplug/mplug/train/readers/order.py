"""Seeded orders. Where a draw leads depends on the seed and its number only, so a stream can begin anywhere."""

import hashlib
import random
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_ROUNDS = 6


class Permutation:
    """A shuffled ``range(size)`` that holds nothing: each place is computed when it is asked for.

    A balanced Feistel network over the next even number of bits, walked until it lands inside (Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002, section 5). A list of as many numbers would take 8 bytes for each.

    Args:
        size: how many numbers.
        seed: which order.
    """

    def __init__(self, size: int, seed: str) -> None:
        self._size = size
        self._key = hashlib.blake2b(seed.encode(), digest_size=16).digest()
        self._bits = max(1, ((size - 1).bit_length() + 1) // 2)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self._size:
            raise IndexError(f"place {place} of {self._size}")
        place = self._encrypt(place)
        while place >= self._size:
            place = self._encrypt(place)
        return place

    def _encrypt(self, number: int) -> int:
        mask = (1 << self._bits) - 1
        left, right = number >> self._bits, number & mask
        for turn in range(_ROUNDS):
            data = turn.to_bytes(1, "little") + right.to_bytes(8, "little")
            noise = hashlib.blake2b(data, digest_size=8, key=self._key).digest()
            left, right = right, left ^ (int.from_bytes(noise, "little") & mask)
        return left << self._bits | right


class BlockOrder:
    """The order of one epoch over rows that lie in blocks, each cheap to read as a whole.

    The blocks are permuted, then the rows within every `window` of blocks: whoever walks along needs only the blocks
    of one window at a time. With one block, this is a permutation of all rows.

    Args:
        starts: first row of each block, ascending from 0.
        size: number of rows.
        window: blocks whose rows are mixed.
        seed: which order.
    """

    def __init__(self, starts: NDArray[np.int64], size: int, window: int, seed: str) -> None:
        sizes = np.diff(starts, append=size)
        blocks = Permutation(len(starts), f"{seed} blocks")
        permuted = np.array([blocks[place] for place in range(len(starts))], dtype=np.int64)
        self._first_rows = starts[permuted]
        self._ends = np.cumsum(sizes[permuted])
        self._begins = self._ends - sizes[permuted]
        self._window = window
        self._seed = seed
        self._mixed: tuple[int, int, Permutation] | None = None

    def __getitem__(self, place: int) -> int:
        begin, permutation = self._window_at(place)
        mixed = begin + permutation[place - begin]
        block = int(np.searchsorted(self._ends, mixed, "right"))
        return int(self._first_rows[block] + mixed - self._begins[block])

    def _window_at(self, place: int) -> tuple[int, Permutation]:
        if self._mixed is None or not self._mixed[0] <= place < self._mixed[1]:
            number = int(np.searchsorted(self._ends, place, "right")) // self._window
            begin = int(self._begins[number * self._window])
            end = int(self._ends[min((number + 1) * self._window, len(self._ends)) - 1])
            self._mixed = (begin, end, Permutation(end - begin, f"{self._seed} window {number}"))
        return self._mixed[0], self._mixed[2]


def shuffle_within(items: Iterable[T], capacity: int, chance: random.Random) -> Iterator[T]:
    """Mixes a sequence that can only be read along, holding `capacity` items of it."""
    held: list[T] = []
    for item in items:
        if len(held) < capacity:
            held.append(item)
            continue
        place = chance.randrange(capacity)
        yield held[place]
        held[place] = item
    chance.shuffle(held)
    yield from held
