"""Weights in one file or in one for each tensor-parallel rank, as Megatron writes them; read a portion at a time.

A portion of the tensors is mapped into memory, read, and let go before the next: what has been looked at of a file
counts as memory in use until then. The largest tensors come first, when the least is in memory, so that loading takes
little more than the weights themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mplug.checkpoints.files import read_tensors
from mplug.checkpoints.safe_files import read_stored
from mplug.errors import CheckpointError, MplugError

RANK_FILE = "mp_rank_{:02d}_model_states.pt"
_RANK_FILE = re.compile(r"mp_rank_(\d\d)_model_states\.pt")

PORTIONS = 20
"""Of all bytes; a portion is at least one tensor."""


def rank_files(folder: Path) -> list[Path]:
    """The files of all ranks, in their order.

    Raises:
        CheckpointError: there is none, one is missing, or their number is no power of two.
    """
    found = sorted(path for path in folder.glob("mp_rank_*") if _RANK_FILE.fullmatch(path.name))
    if not found:
        raise CheckpointError(f"{folder} holds no {RANK_FILE.format(0)}; these files hold the weights")
    names = [path.name for path in found]
    wanted = [RANK_FILE.format(rank) for rank in range(len(found))]
    if names != wanted:
        lacking = next(name for name in wanted if name not in names)
        raise CheckpointError(f"{folder} lacks {lacking}, and has {names[-1]}; get the files of all ranks")
    if len(found) & (len(found) - 1):
        raise CheckpointError(
            f"{folder} holds {len(found)} files of ranks; it must be a power of two: is one missing?"
        )
    return found


def check_ranks(ranks: int, folder: Path, divided: Mapping[str, int]) -> None:
    """Refuse a number of files that weights cannot be parted into.

    Args:
        ranks: how many files are to be written.
        folder: where; files of the same names are going to be replaced, others would be read with them.
        divided: sizes that are parted, by name.

    Raises:
        MplugError: the number is no power of two, does not divide a size, or is less than that of the files there.
    """
    if ranks < 1 or ranks & (ranks - 1):
        raise MplugError(f"ranks is {ranks}; it must be a power of two")
    for name, size in divided.items():
        if size % ranks:
            raise MplugError(f"ranks is {ranks}, which does not divide {name} ({size})")
    there = [path for path in folder.glob("mp_rank_*") if _RANK_FILE.fullmatch(path.name)]
    if len(there) > ranks:
        raise MplugError(
            f"{folder} holds {len(there)} files of ranks; beside {ranks} new ones they would be read as the same "
            "weights: take another folder, or remove them"
        )


@dataclass(frozen=True, slots=True)
class Shards:
    """What several files hold of the same names; one file is a special case."""

    paths: tuple[Path, ...]
    shapes: tuple[Mapping[str, Tensor], ...]
    """By file: its tensors on the meta device."""

    @classmethod
    def open(cls, paths: Sequence[Path]) -> Shards:
        """Read names, shapes and types.

        Raises:
            CheckpointError: a file is missing or broken, or two hold tensors of different names.
        """
        shapes = tuple(map(_shapes, paths))
        for path, held in zip(paths, shapes, strict=True):
            odd = sorted(held.keys() ^ shapes[0].keys())
            if odd:
                raise CheckpointError(
                    f"{path.name} and {paths[0].name} in {path.parent} hold different tensors, such as {odd[0]}; "
                    "they are not of one checkpoint"
                )
        return cls(tuple(paths), shapes)

    def read(self, names: Sequence[str], *, room: int | None = None) -> Iterator[tuple[str, list[Tensor]]]:
        """Each tensor's parts, in the order of the files, largest tensor first.

        They are to be copied: what is given lies in a mapped file that goes with the portion.

        Args:
            names: which tensors.
            room: bytes of a portion; None = a share of all bytes (`PORTIONS`).
        """
        for portion in self._portions(names, room):
            held = [_numbers(path, portion) for path in self.paths]
            for name in portion:
                yield name, [tensors.pop(name) for tensors in held]

    def _portions(self, names: Sequence[str], room: int | None) -> Iterator[list[str]]:
        sizes = {name: sum(held[name].nbytes for held in self.shapes) for name in names}
        room = sum(sizes.values()) // PORTIONS if room is None else room
        portion: list[str] = []
        filled = 0
        for name in sorted(names, key=lambda name: sizes[name], reverse=True):
            if portion and filled + sizes[name] > room:
                yield portion
                portion, filled = [], 0
            portion.append(name)
            filled += sizes[name]
        if portion:
            yield portion


def _shapes(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_stored(path, shapes_only=True)
    return {name: tensor.to("meta") for name, tensor in read_tensors(path, mapped=True).items()}


def _numbers(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    return read_stored(path, names) if path.suffix == ".safetensors" else read_tensors(path, mapped=True)
