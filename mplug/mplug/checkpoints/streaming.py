"""Filling a model from files a tensor at a time, and its tensors for writing, by one table of names for both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mplug.checkpoints.report import LoadReport, load_strictly
from mplug.checkpoints.shards import PORTIONS, Shards
from mplug.errors import CheckpointError
from mplug.quantization import QUANTIZED, lay_out
from mplug.quantized_linear import COMPUTED, Matrix, Quantized


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of a reference's checkpoint, and ours that are in it."""

    name: str
    """The reference's."""
    ours: tuple[str, ...]
    """One; or several of equal shape, whose rows lie one behind another in the reference's."""
    split: int | None = None
    """Dimension along which tensor-parallel ranks part it, each of ours by itself; None = every rank has all of it."""

    def take(
        self,
        parts: Sequence[Tensor],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Ours, by name, of their own memory.

        Args:
            parts: what each rank has.
            device: where ours are to be; None = where the parts are.
            dtype: what they are to be; None = what the parts are. With neither, one part is given as it is, uncopied.
        """
        used = parts[:1] if self.split is None else parts
        if used[0].dim() <= (self.split or 0):
            return dict.fromkeys(self.ours, used[0])  # of another model; it is refused by its shape
        blocks = [part.tensor_split(len(self.ours)) for part in used]
        return {
            name: joined([block[number] for block in blocks], self.split or 0, device, dtype)
            for number, name in enumerate(self.ours)
        }

    def give(self, tensors: Mapping[str, Tensor], rank: int = 0, ranks: int = 1) -> Tensor:
        """What a rank has, of its own memory, on the CPU.

        Args:
            tensors: ours, by name.
            rank: which one.
            ranks: how many there are; they divide the tensors.
        """
        held = [tensors[name].detach() for name in self.ours]
        if self.split is not None:
            held = [tensor.chunk(ranks, self.split)[rank] for tensor in held]
        return torch.cat([tensor.cpu() for tensor in held])


def joined(
    pieces: Sequence[Tensor], dim: int, device: torch.device | str | None, dtype: torch.dtype | None
) -> Tensor:
    """Concatenate and convert, with nothing in memory between; None = as the first piece is.

    A single piece that is to stay as it is is given back.
    """
    if len(pieces) == 1 and device is None and dtype is None:
        return pieces[0]
    lengths = [piece.shape[dim] for piece in pieces]
    shape = [*pieces[0].shape[:dim], sum(lengths), *pieces[0].shape[dim + 1 :]]
    whole = torch.empty(shape, dtype=dtype or pieces[0].dtype, device=device or pieces[0].device)
    for slot, piece in zip(torch.split(whole, lengths, dim), pieces, strict=True):
        slot.copy_(piece)
    return whole


def both(theirs: str, ours: str, *, split: int | None = None) -> list[Source]:
    """Weight and bias of a layer, parted alike."""
    return [Source(f"{theirs}.{kind}", (f"{ours}.{kind}",), split) for kind in ("weight", "bias")]


def fill(
    model: nn.Module,
    shards: Shards,
    sources: Sequence[Source],
    *,
    where: Path,
    is_unused: Callable[[str], bool],
    bare: Callable[[str], str] = str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadReport:
    """Give a model on the meta device its parameters; what is in memory besides them is a portion of the files.

    Args:
        model: has no buffers. Where `device` is meta, it is compared with the files and stays as it is.
        shards: the files.
        sources: of every parameter, under one of its names.
        where: the checkpoint, for messages.
        is_unused: whether there is a reason for a bare name that is no source's.
        bare: a name in the files to one of `sources`.
        device: of the parameters.
        dtype: of the parameters; int8 and int4 are what `mplug.quantization` makes, each matrix as soon as it is read.

    Raises:
        CheckpointError: a parameter is missing or has another shape, or ranks have parts of different shapes.
    """
    keys = {bare(key): key for key in shards.shapes[0]}
    known = {keys[source.name]: source for source in sources if source.name in keys}
    names = _names(model)
    shapes = {
        alias: tensor
        for key, source in known.items()
        for name, tensor in source.take(_alike(key, shards, where)).items()
        for alias in names.get(name, [name])
    }
    theirs = {name: source.name for source in sources for name in source.ours}
    rest = {name: key for name, key in keys.items() if key not in known}
    report = load_strictly(
        model,
        shapes,
        where=where,
        unused=tuple(key for name, key in rest.items() if is_unused(name)),
        unknown=tuple(key for name, key in rest.items() if not is_unused(name)),
        original_name=lambda ours: theirs.get(ours, ours),
    )
    if torch.device(device).type != "meta":
        _read_into(model, shards, known, names, device, dtype)
    return report


def _read_into(
    model: nn.Module,
    shards: Shards,
    known: Mapping[str, Source],
    names: Mapping[str, Sequence[str]],
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    room = None
    if dtype in QUANTIZED:
        lay_out(model, dtype, device)
        room = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) // PORTIONS
    for key, parts in shards.read(list(known), room=room):
        source = known[key]
        if dtype in QUANTIZED and _is_quantized(model, source.ours[0]):
            for name, tensor in source.take(parts).items():
                _matrix(model, name).take(tensor.to(device))
            continue
        kept = COMPUTED if dtype in QUANTIZED else dtype
        for name, tensor in source.take(parts, device, kept).items():
            _set(model, names[name], nn.Parameter(tensor))


def _is_quantized(model: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf == "weight" and isinstance(model.get_submodule(owner), Quantized)


def _matrix(model: nn.Module, name: str) -> Matrix:
    layer = model.get_submodule(name.removesuffix(".weight"))
    assert isinstance(layer, Quantized)
    return layer.matrix


def _names(model: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, by each of them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    same: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        same.setdefault(id(parameter), []).append(name)
    return {name: same[id(parameter)] for name, parameter in parameters.items()}


def _alike(key: str, shards: Shards, where: Path) -> list[Tensor]:
    parts = [held[key] for held in shards.shapes]
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) > 1:
        raise CheckpointError(
            f"{where}: ranks have parts of {key} of shapes {sorted(shapes)}; they must be alike"
        )
    return parts


def _set(model: nn.Module, names: Sequence[str], parameter: nn.Parameter) -> None:
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)
