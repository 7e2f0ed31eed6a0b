"""The weights of the reference's tiny models, drawn anew instead of stored.

They are random numbers: a generator was seeded, and each parameter, in the order of the reference model's
`named_parameters()`, became `shift + scale * randn(shape)`. Stored, they are 23 MB, many times all else that is golden;
what it takes to draw them again, `<family>/<case>.weights.json`, is 2 to 49 kB a case:

* `seed`, and `draws` in their order: name, shape, scale, shift, sum. A scale of 0 is a number drawn and not used.
* `changes` made afterwards, so that generation ends within a few tokens: "times" a number, "plus" a number at a place.
* `tied`: names that are another's tensor.
* `fixed`, what was not drawn: name, rule, shape, value, sum; the rules are in `fixed_tensor`.
* `sha256` of everything, see `fingerprint`.

The reference ran with the very bytes whose SHA-256 is kept. The normal numbers of another processor may differ from
them in the last bits, as torch has code of its own for vector instructions; there, the sum of each tensor has to agree.

`<family>/ckpt_tp2.json` describes in the same way the files of two tensor-parallel ranks that the reference reads.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

GOLDEN = Path(__file__).parent
SUM_TOLERANCE = 1e-5
"""Of the sum of a tensor's numbers, relative to its Euclidean norm. Without vector instructions, torch.randn differs
from what the reference drew by up to 5e-6 in these sums and by 2e-6 in a number; another seed, by about 1 in a sum."""


class Draw(NamedTuple):
    """A tensor from the generator, `shift + scale * randn(shape)`."""

    name: str
    shape: list[int]
    scale: float
    shift: float
    sum: float
    """Of the finished tensor, after `changes`, in float64."""


class Fixed(NamedTuple):
    """A tensor that is the same whatever the seed."""

    name: str
    rule: str
    shape: list[int]
    value: Any
    sum: float


@dataclass(frozen=True)
class Manifest:
    """What `<case>.weights.json` holds. Any: JSON."""

    seed: int
    sha256: str
    draws: list[Draw]
    changes: list[list[Any]]
    tied: dict[str, str]
    fixed: list[Fixed]


def read_manifest(family: str, case: str) -> Manifest:
    stored = json.loads((GOLDEN / family / f"{case}.weights.json").read_text())
    return Manifest(
        seed=stored["seed"],
        sha256=stored["sha256"],
        draws=[Draw(*row) for row in stored["draws"]],
        changes=stored["changes"],
        tied=stored["tied"],
        fixed=[Fixed(*row) for row in stored["fixed"]],
    )


def drawn_weights(family: str, case: str) -> dict[str, Tensor]:
    """The state dict that the reference ran a case with; each call gives tensors of its own.

    Raises:
        AssertionError: they are not the reference's, neither by their bytes nor by their sums.
    """
    return {name: tensor.clone() for name, tensor in _checked(family, case).items()}


@cache
def _checked(family: str, case: str) -> dict[str, Tensor]:
    manifest = read_manifest(family, case)
    weights = draw(manifest)
    check(manifest, weights, f"{family}/{case}")
    return weights


def draw(manifest: Manifest) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(manifest.seed)
    weights = {
        row.name: row.shift + row.scale * torch.randn(row.shape, generator=generator, dtype=torch.float32)
        for row in manifest.draws
    }
    for name, change, *value in manifest.changes:
        if change == "times":
            weights[name] *= value[0]
        else:
            place, number = value
            weights[name][place] += number
    weights.update({row.name: fixed_tensor(row) for row in manifest.fixed})
    weights.update({alias: weights[name] for alias, name in manifest.tied.items()})
    return weights


def fixed_tensor(row: Fixed) -> Tensor:
    """By `rule`: "count" and "fill" (int64), "sinusoid" (positions and a period), "bytes" (float32, base64)."""
    if row.rule == "count":
        return torch.arange(row.value, row.value + math.prod(row.shape)).view(row.shape)
    if row.rule == "fill":
        return torch.full(row.shape, row.value)
    if row.rule == "sinusoid":
        return _sinusoid(row.shape[1], row.shape[2], row.value)[None]
    return torch.frombuffer(bytearray(base64.b64decode(row.value)), dtype=torch.float32).view(row.shape)


def _sinusoid(positions: int, width: int, period: float) -> Tensor:
    """Float32 (positions, width): sines at even places, cosines at odd ones."""
    frequency = torch.exp(torch.arange(0, width, 2).float() * -(math.log(period) / width))
    angle = torch.arange(positions)[:, None].float() * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of name, dtype, shape and bytes of each tensor, by name."""
    digest = sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def check(manifest: Manifest, weights: Mapping[str, Tensor], what: str = "weights") -> None:
    """Raise unless the weights are the reference's, byte for byte or else by the sum of each tensor."""
    if fingerprint(weights) == manifest.sha256:
        return
    rows: Iterable[Draw | Fixed] = [*manifest.draws, *manifest.fixed]
    wrong = [row.name for row in rows if not sums_to(weights[row.name], row.sum)]
    if wrong:
        raise AssertionError(
            f"{what}: {len(wrong)} of {len(weights)} tensors are not those that the reference ran with, the first is "
            f"{wrong[0]!r}. Either the manifest was changed, or torch.randn on this machine draws other numbers."
        )


def sums_to(tensor: Tensor, total: float) -> bool:
    numbers = tensor.detach().double()
    return float((numbers.sum() - total).abs()) <= SUM_TOLERANCE * float(torch.linalg.vector_norm(numbers))


def check_rank(family: str, rank: int, state: Mapping[str, Any]) -> None:
    """Compare a state of one of two tensor-parallel ranks, nested as in the file, with the one that the reference has.

    Raises:
        AssertionError: another key, or a tensor that is not the same by its dtype, shape and bytes (or its sum).
    """
    stored = json.loads((GOLDEN / family / "ckpt_tp2.json").read_text())["ranks"][rank]
    _compare(stored, state, f"{family}/ckpt_tp2, rank {rank}")


def _compare(stored: Any, found: Any, where: str) -> None:
    if isinstance(stored, dict):
        assert isinstance(found, Mapping), f"{where}: {type(found).__name__} instead of a dict"
        assert list(stored) == list(found), (
            f"{where}: other keys, {sorted(set(stored) ^ set(found))}, or another order"
        )
        for key, value in stored.items():
            _compare(value, found[key], f"{where}: {key}")
        return
    dtype, shape, total, digest = stored
    assert [str(found.dtype), list(found.shape)] == [dtype, shape], (
        f"{where}: {found.dtype} {list(found.shape)}"
    )
    same = sha256(_bytes(found)).hexdigest() == digest
    assert same or sums_to(found, total), f"{where}: other numbers than in the reference's file"


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()
