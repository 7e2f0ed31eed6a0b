"""What a model needs to be run, from its configuration alone: nothing is loaded, the modules are made without numbers.

    weights    bytes of all tensors, as `load` and then `freeze` hold them
    copies     a processor holds the output matrix twice (decisions/0008), unless it is quantized; a GPU, for decoding,
               the matrices of queries, keys and values, and of a memory's keys and values, side by side
    cache      keys and values of every token read and written, in slots that double (`DecoderState`), and those of the
               memory that is attended to
    workspace  an upper bound: what growing or reordering the cache holds twice; the activations of the longest pass,
               four times the stream and twice the feed-forward block; logits, once as they come and three times in
               float32; where int8 rows are widened, inputs and products in float32 and a block of the matrix

Parted among N tensor-parallel devices, each holds 1/N of the matrices (tables of positions and types, norms, and biases
behind sums are whole), of their copies, and of the cache; the workspace is counted whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

import torch
from torch import nn

from mplug.checkpoints.skeleton import skeleton
from mplug.decoder_state import GROWTH
from mplug.errors import MplugError
from mplug.quantization import QUANTIZED, QUANTIZED_NAMES, lay_out
from mplug.quantized_linear import COMPUTED, WIDENED_AT_A_TIME

Place = Literal["cpu", "cuda"]
WEIGHT_TYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    **QUANTIZED_NAMES,
}
MOST_DEVICES = 64
_FLOAT32 = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What the memory beside the weights depends on."""

    width: int
    """D."""
    ffn: int
    """Inner width of the feed-forward blocks."""
    heads: int
    vocab: int = 0
    """Rows of the output matrix; 0 = nothing is written."""
    layers: int = 0
    """Self-attentions of the decoder, whose keys and values are kept."""
    cross_layers: int = 0
    """Attentions of the decoder to a memory."""
    memory: int = 0
    """Tokens of a memory that is always as long, such as a picture's; 0 = it is the prompt."""


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model by name."""

    build: Callable[[], nn.Module]
    shape: Shape
    quantizes: bool = True
    """Whether int8 and int4 can be had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What a model is run on at once."""

    batch: int = 1
    """Texts."""
    sequences: int = 1
    """Beams or samples of each."""
    prompt: int = 128
    """Tokens of each prompt, source or text."""
    written: int = 128
    """Most tokens that are written behind it."""

    def __post_init__(self) -> None:
        for name in ("batch", "sequences", "prompt", "written"):
            if getattr(self, name) < 1:
                raise MplugError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Bytes on each device."""

    weights: int
    copies: int
    cache: int
    workspace: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.copies + self.cache + self.workspace


def plan(model: PlannedModel, dtype: str, use: Use, *, place: Place = "cpu", devices: int = 1) -> MemoryPlan:
    """Plan a run.

    Args:
        model: of `mplug.planned_models`, or one's own.
        dtype: of `WEIGHT_TYPES`.
        use: what it is run on at once.
        place: a processor or GPUs.
        devices: tensor-parallel ones.

    Raises:
        MplugError: an unknown type or place; int8 or int4 of a model that does not have them, or on several devices;
            int4 on a GPU; or a number of devices that does not divide the model.
    """
    _check(model, dtype, place, devices)
    kind, shape = WEIGHT_TYPES[dtype], model.shape
    itemsize = (COMPUTED if kind in QUANTIZED else kind).itemsize
    whole, parted = _weights(_built(model, kind), itemsize)
    cache = cache_bytes(shape, itemsize, use)
    return MemoryPlan(
        weights=whole + -(-parted // devices),
        copies=0 if kind in QUANTIZED else -(-_copies(shape, place) * itemsize // devices),
        cache=-(-cache // devices),
        workspace=_workspace(shape, itemsize, use, widens=kind == torch.int8) + -(-cache // devices),
    )


def devices_needed(
    model: PlannedModel, dtype: str, use: Use, memory: int, *, place: Place = "cpu"
) -> int | None:
    """Least number of tensor-parallel devices of so many bytes that a run fits on; None = none does.

    Raises:
        MplugError: as `plan`.
    """
    devices = 1
    while devices <= MOST_DEVICES and (devices == 1 or _can_part(model.shape, dtype, devices)):
        if plan(model, dtype, use, place=place, devices=devices).total <= memory:
            return devices
        devices *= 2
    return None


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's tensors, each counted once."""
    return sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))


def cache_slots(prompt: int, written: int) -> int:
    """Slots of a decoder's cache when it has read a prompt and all written tokens but the last."""
    slots = -(-prompt // GROWTH) * GROWTH
    while slots < prompt + written - 1:
        slots *= 2
    return slots


def cache_bytes(shape: Shape, itemsize: int, use: Use) -> int:
    """Keys and values at the end of a run."""
    read = 1 if shape.cross_layers else use.prompt
    own = cache_slots(read, use.written) * shape.layers * use.batch * use.sequences
    memory = (shape.memory or use.prompt) * shape.cross_layers * use.batch
    return 2 * shape.width * itemsize * (own + memory)


def _check(model: PlannedModel, dtype: str, place: str, devices: int) -> None:
    if dtype not in WEIGHT_TYPES:
        raise MplugError(f"dtype is {dtype!r}; known are {', '.join(WEIGHT_TYPES)}")
    if place not in get_args(Place):
        raise MplugError(f"place is {place!r}; known are {', '.join(get_args(Place))}")
    if WEIGHT_TYPES[dtype] in QUANTIZED and not model.quantizes:
        raise MplugError(f"dtype is {dtype!r}; only text models can be quantized")
    if dtype == "int4" and place == "cuda":
        raise MplugError("int4 matrices are for CPUs; take int8 or bfloat16 on a GPU")
    if devices != 1 and not _can_part(model.shape, dtype, devices):
        raise MplugError(
            f"a model of {model.shape.heads} heads in {dtype} cannot be parted among {devices} devices"
        )


def _can_part(shape: Shape, dtype: str, devices: int) -> bool:
    sizes = (shape.heads, shape.ffn, shape.vocab)
    return WEIGHT_TYPES[dtype] not in QUANTIZED and all(size % devices == 0 for size in sizes)


def _built(model: PlannedModel, kind: torch.dtype) -> nn.Module:
    with skeleton():
        built = model.build()
    if kind in QUANTIZED:
        lay_out(built, kind, "cpu")
    return built


def _weights(model: nn.Module, itemsize: int) -> tuple[int, int]:
    """Bytes that every device holds whole, and those that are parted; floats are as wide as told."""
    whole = parted = 0
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        # Scales are bfloat16 already, whatever the rest was made as.
        size = tensor.numel() * itemsize if tensor.dtype == torch.float32 else tensor.nbytes
        is_matrix = tensor.dim() > 1 and "position" not in name and "token_type" not in name
        whole, parted = (whole, parted + size) if is_matrix else (whole + size, parted)
    return whole, parted


def _copies(shape: Shape, place: Place) -> int:
    """Numbers that are held a second time, in types of floating point."""
    if place == "cpu":
        return shape.vocab * shape.width
    return (3 * shape.layers + 2 * shape.cross_layers) * shape.width**2


def _workspace(shape: Shape, itemsize: int, use: Use, *, widens: bool) -> int:
    rows = use.batch * max(use.prompt, shape.memory, use.sequences)
    activations = rows * (4 * shape.width + 2 * shape.ffn) * itemsize
    logits = use.batch * use.sequences * shape.vocab * (itemsize + 3 * _FLOAT32)
    if not widens:
        return activations + logits
    widened = rows * (shape.width + shape.ffn) * _FLOAT32 + 2 * WIDENED_AT_A_TIME * _FLOAT32
    return activations + logits + widened
