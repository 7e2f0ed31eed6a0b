"""Which form of cross-attention costs least: a cost model, pure given the machine's rates.

Counted for one memory and one layer, T new tokens, R = H * T rows (the query projection is common to all):

    projecting   4 N M D flop; reads the memory and two weights, writes keys and values
    attending    4 N D T flop; reads keys and values
    absorbing    4 N M R flop; reads the memory; folding and unfolding: 4 M D T flop, and the folded rows
                 written and read both before and after

A step takes the longer of its arithmetic and its memory traffic. `PLAIN` projects and attends at every step,
`CACHED` projects once, `ABSORBED` never. In arithmetic alone, absorbing beats projecting for texts shorter than about
D / (H - 1) tokens, and attending to what is cached always beats both; in traffic, absorbing beats the cache when N is
greater than 4 R and some.

`kernel_for` then says whether a compiled kernel computes the form, which only a committed result can bring about (see
`results`); `explain` says why it does not.
"""

from __future__ import annotations

import contextlib
import enum
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from mplug_kernels import library, ops, results
from mplug_kernels.rates import Rates
from mplug_kernels.results import Call, Decision
from mplug_kernels.variants import Variant

_forced: ContextVar[tuple[Variant, ...] | None] = ContextVar("forced", default=None)


class Form(enum.Enum):
    """A way to compute cross-attention; in the order of preference where costs are equal."""

    PLAIN = "plain"
    """Keys and values made anew at every step, and not kept: `cached.project`, then `cached.attend`."""
    CACHED = "cached"
    """Keys and values made once and kept for all steps."""
    ABSORBED = "absorbed"
    """The raw memory is attended to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One layer's cross-attention, over all its steps."""

    images: int
    """Memories B in one call."""
    sequences_per_image: int = 1
    """Sequences (beams, questions) that share one memory."""
    new_tokens: int
    """Tokens L of each sequence in one step."""
    visual_tokens: int
    """Rows N of one memory."""
    width: int
    """Width D of the stream."""
    memory_width: int
    """Width M of the memory's rows."""
    heads: int
    """Attention heads H."""
    steps: int = 1
    """Calls that will be made with the same memory."""
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    @property
    def tokens(self) -> int:
        """New tokens T of all sequences of one memory."""
        return self.sequences_per_image * self.new_tokens

    @property
    def memory_bytes(self) -> int:
        """Of one memory."""
        return self.visual_tokens * self.memory_width * self.dtype.itemsize

    @property
    def key_value_bytes(self) -> int:
        """Of one memory's keys and values."""
        return 2 * self.visual_tokens * self.width * self.dtype.itemsize

    @property
    def weight_bytes(self) -> int:
        """Of the key and value projections."""
        return 2 * self.width * self.memory_width * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a compiled kernel on a device; as a text, what runs there and why."""

    compiled: bool
    """It may run by default, where it was measured to be faster."""
    reason: str
    """Why, or why not."""

    def __str__(self) -> str:
        runs = "compiled, where it was measured to be faster" if self.compiled else "plain torch"
        return f"{runs}: {self.reason}"


def choose(problem: Problem, rates: Rates) -> Form:
    """The form that takes the least time; of equals the first of `Form`."""
    costs = seconds(problem, rates)
    return min(costs, key=lambda form: costs[form])


def seconds(problem: Problem, rates: Rates) -> dict[Form, float]:
    """Modelled seconds of all steps, by form, the query projection left out."""
    project, attend = _project_seconds(problem, rates), _attend_seconds(problem, rates)
    return {
        Form.PLAIN: problem.steps * (project + attend),
        Form.CACHED: project + problem.steps * attend,
        Form.ABSORBED: problem.steps * _absorb_seconds(problem, rates),
    }


@contextlib.contextmanager
def forcing(*variants: Variant) -> Iterator[None]:
    """Have these kernels' operators run wherever their form is computed, whatever is known of them; none: plain torch.

    For tests and measurements. On a CPU the operators are plain torch themselves.
    """
    token = _forced.set(variants)
    try:
        yield
    finally:
        _forced.reset(token)


def may_run(is_cuda: bool) -> bool:
    """Whether `kernel_for` could name a kernel at all for tensors there; to be asked first, as it costs nothing."""
    return (is_cuda and ops.LIBRARY.path is not None) or _forced.get() is not None


def kernel_for(call: Call, device: torch.device) -> Decision:
    """The compiled kernel for a call, if there is one that may run by default."""
    forced = _forced.get()
    if forced is not None:
        for variant in forced:
            if variant.absorbed is call.absorbed:
                splits = variant.splits(call.images, call.rows, call.keys, _processors(device))
                return Decision(variant, splits, "forced")
        return Decision(None, 1, "forced")
    if device.type != "cuda":
        return Decision(None, 1, f"compiled for CUDA, not for {device.type}")
    if ops.LIBRARY.path is None:
        return Decision(None, 1, ops.LIBRARY.reason)
    return _decide(call, torch.cuda.get_device_capability(device))


def explain(device: torch.device) -> dict[str, Standing]:
    """For every compiled kernel, by name, whether it may run by default on a device, and why."""
    if device.type != "cuda":
        return _all_plain(f"compiled for CUDA, not for {device.type}")
    if ops.LIBRARY.path is None:
        return _all_plain(ops.LIBRARY.reason)
    return explain_capability(torch.cuda.get_device_capability(device), library.hash_of(ops.LIBRARY.path))


def explain_capability(capability: tuple[int, int], source_hash: str | None) -> dict[str, Standing]:
    """The same for an architecture, by capability, and a library, by the hash of its sources."""
    said = {}
    for variant in Variant:
        run, reason = results.right(variant, capability, source_hash, results.committed())
        said[variant.value] = Standing(run is not None, reason)
    return said


def _all_plain(reason: str) -> dict[str, Standing]:
    return {variant.value: Standing(False, reason) for variant in Variant}


@functools.lru_cache(maxsize=1024)
def _decide(call: Call, capability: tuple[int, int]) -> Decision:
    assert ops.LIBRARY.path is not None
    return results.decide(call, capability, library.hash_of(ops.LIBRARY.path), results.committed())


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def _project_seconds(p: Problem, rates: Rates) -> float:
    flop = 4.0 * p.images * p.visual_tokens * p.memory_width * p.width
    moved = p.images * (p.memory_bytes + p.key_value_bytes) + p.weight_bytes
    return rates.longest(flop, rates.project_flops, moved, calls=2)


def _attend_seconds(p: Problem, rates: Rates) -> float:
    flop = 4.0 * p.images * p.visual_tokens * p.width * p.tokens
    return rates.longest(flop, rates.attend_flops, p.images * p.key_value_bytes, calls=1)


def _absorb_seconds(p: Problem, rates: Rates) -> float:
    rows = p.heads * p.tokens
    row_bytes = p.images * rows * p.memory_width * p.dtype.itemsize
    attend_flop = 4.0 * p.images * p.visual_tokens * p.memory_width * rows
    attend = rates.longest(
        attend_flop, rates.absorb_flops, p.images * p.memory_bytes + 2 * row_bytes, calls=1
    )
    fold_flop = 4.0 * p.images * p.memory_width * p.width * p.tokens
    # Each of the two is a matrix product and a change of layout.
    fold = rates.longest(fold_flop, rates.project_flops, p.weight_bytes + 2 * row_bytes, calls=4)
    return attend + fold
