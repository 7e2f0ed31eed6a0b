"""A GPT-3 or a PLUG on several devices: each holds a part of every matrix, by Megatron's scheme (Shoeybi et al. 2019).

Attention is parted by whole heads, feed-forward blocks by inner units, the table of words by rows; what a block gives
is summed over the devices once. torch's DTensor does it (`parallelize_module`). Queries, keys and values are three
matrices here whatever the checkpoint's layout, so that rows are heads in both.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from mplug.cached_decoder import StepwiseDecoder
from mplug.errors import MplugError
from mplug.gpt3 import Gpt3Config, Gpt3Decoder, Gpt3Generator
from mplug.layers import Attention
from mplug.packed_linear import FrozenLinear
from mplug.plug import PlugConfig
from mplug.plug.model import PlugModel
from mplug.quantized_linear import Quantized

M = TypeVar("M", Gpt3Decoder, Gpt3Generator, PlugModel)

SPLIT_OUTPUTS, SPLIT_INPUTS = ("query", "key", "value", "expand"), ("output", "contract")


def parallelize(model: M, mesh: DeviceMesh) -> M:
    """Part a model among the processes of a mesh, in place; every process calls this with the same weights.

    From here on every process runs the same calls with the same inputs, and gets the same outputs.

    Args:
        model: not frozen, not quantized; for inference.
        mesh: of one dimension.

    Returns:
        The model, in evaluation mode.

    Raises:
        MplugError: so many processes cannot part it, or its matrices are frozen or quantized.
    """
    check_size(model.config, mesh.size())
    if any(isinstance(module, FrozenLinear | Quantized) for module in model.modules()):
        raise MplugError("the model is frozen or quantized; part it among processes as it was loaded")
    parallelize_module(model, mesh, styles(model))
    for module in model.modules():
        if isinstance(module, Attention):
            module.num_heads //= mesh.size()
        elif isinstance(module, StepwiseDecoder):
            module.sizes = dataclasses.replace(module.sizes, heads=module.sizes.heads // mesh.size())
            module.drop_packed()
    return model.eval()


def styles(model: nn.Module) -> dict[str, ParallelStyle]:
    """How each module is parted, by its name; the others are whole on every device."""
    tables = {id(module.words) for module in model.modules() if isinstance(module, StepwiseDecoder)}
    found: dict[str, ParallelStyle] = {}
    for name, module in model.named_modules():
        leaf = name.rpartition(".")[2]
        if id(module) in tables:
            found[name] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
        elif type(module) is nn.Linear and leaf in SPLIT_OUTPUTS:
            found[name] = ColwiseParallel()
        elif type(module) is nn.Linear and leaf in SPLIT_INPUTS:
            found[name] = RowwiseParallel()
    return found


def check_size(config: Gpt3Config | PlugConfig, processes: int) -> None:
    """Refuse a number of processes that a model's sizes cannot be divided by.

    Raises:
        MplugError: as said.
    """
    for name in ("heads", "ffn", "vocab_size"):
        size = getattr(config, name)
        if size % processes:
            raise MplugError(f"there are {processes} processes, which do not divide {name} ({size})")
