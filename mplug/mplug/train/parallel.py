"""One run on several processes, which torchrun starts: each computes its share of a step's parts.

With ``sharding="none"`` each process holds the whole model, and gradients are averaged. With ``full`` FSDP2 shares out
weights, gradients and optimizer states; a step gathers what belongs to no block (embeddings, heads) for all its length,
and each block of a stack only while it computes. A run of one process goes through here untouched.
"""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mplug.errors import MplugError
from mplug.train.experiment import Experiment

_PATIENCE = timedelta(hours=6)  # the others wait while the first process evaluates or fills a cache
SHARDINGS = ("none", "full")


@contextmanager
def processes() -> Iterator[None]:
    """Joins the other processes that torchrun started, if it did, until the end of the block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield
        dist.barrier()  # a process that leaves while another still talks to it takes it down
    finally:
        gc.collect()  # modules that were shared out hold on to the group in cycles
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the one numbered 0 writes and evaluates."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_device() -> torch.device:
    """Where this process trains: its GPU where there is one, else the processor."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process does this block before the others do: what it leaves on disk they find."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and world() > 1:
        dist.barrier()


def own_parts(count: int) -> range:
    """Which of a step's parts this process computes.

    Raises:
        MplugError: the parts cannot be shared out evenly.
    """
    if count % world():
        raise MplugError(
            f"accumulate={count} cannot be shared out over {world()} processes: give a multiple of their number."
        )
    return range(rank(), count, world())


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes behind one another; every process gives equally many."""
    if world() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def summed(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The sum of each value over the processes; all give the same names."""
    if world() == 1 or not values:
        return dict(values)
    total = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float32, device=device)
    dist.all_reduce(total)
    return dict(zip(sorted(values), total.tolist(), strict=True))


def from_first(value: Any) -> Any:
    """What the first process gives, in all of them."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def spread(model: nn.Module) -> None:
    """Gives all processes the first one's weights and buffers."""
    if world() > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


class Losses(nn.Module):
    """An experiment's losses as a module's forward, so that FSDP2 gathers weights around it."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        self.model = experiment.model
        self._losses = experiment.losses

    def forward(self, step: int, part: int) -> dict[str, Tensor]:
        """`Experiment.losses`."""
        return dict(self._losses(step, part))


def shard(losses: Losses, sharding: str) -> None:
    """Shares out the model's parameters, but for scalars, if `sharding` says so and there are processes.

    Blocks (`blocks.model_blocks`) are gathered when they are called as modules. Who reads their weights in another way,
    such as a decoder that packs them, does so within `whole`.

    Raises:
        MplugError: another sharding.
    """
    if sharding not in SHARDINGS:
        raise MplugError(f"sharding={sharding!r}: there are {', '.join(SHARDINGS)}.")
    if sharding == "full" and world() > 1:
        from mplug.train.blocks import model_blocks

        for block in model_blocks(losses.model):
            fully_shard(block)
        fully_shard(losses, ignored_params={p for p in losses.parameters() if p.dim() == 0})


def share_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Averages over the processes what FSDP2 has not averaged already; what none has used stays without."""
    if world() == 1:
        return
    own = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    used = torch.tensor([float(p.grad is not None) for p in own], device=own[0].device if own else None)
    dist.all_reduce(used)
    for parameter, count in zip(own, used.tolist(), strict=True):
        if count:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(gradient)
            parameter.grad = gradient / world()


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Within this block all parameters are whole tensors, for all that is not a step; changes are lost.

    Nothing is gathered in it, so that one process may run the model alone.
    """
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and isinstance(parameter, DTensor)
    ]
    distinct = {id(parameter): parameter for _, _, parameter in places}  # each once: some are shared
    whole_of = {
        key: nn.Parameter(whole_tensor(parameter), parameter.requires_grad)
        for key, parameter in distinct.items()
    }
    for module, name, parameter in places:
        module._parameters[name] = whole_of[id(parameter)]
    try:
        with _without_gathering(model):
            yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter


@contextmanager
def _without_gathering(model: nn.Module) -> Iterator[None]:
    """Takes away the hooks of blocks that are shared out: nobody else's are on them."""
    hooks = [
        each
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for each in (module._forward_pre_hooks, module._forward_hooks)
    ]
    kept = [dict(each) for each in hooks]
    for each in hooks:
        each.clear()
    try:
        yield
    finally:
        for each, before in zip(hooks, kept, strict=True):
            each.update(before)


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor that a sharded one is a part of; every process takes part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(value: Any) -> Any:
    """An optimizer's state with whole tensors."""
    if isinstance(value, dict):
        return {key: whole_state(each) for key, each in value.items()}
    return whole_tensor(value) if isinstance(value, Tensor) else value


def load_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads whole tensors into a model that may be shared out."""
    held = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    model.load_state_dict({name: _like(held.get(name), tensor) for name, tensor in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a state of whole tensors into an optimizer whose parameters may be shared out."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        number: {
            name: _like(parameters[number], value) if getattr(value, "ndim", 0) else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def _like(holder: Tensor | None, tensor: Tensor) -> Tensor:
    if isinstance(holder, DTensor):
        return distribute_tensor(tensor.to(holder.device), holder.device_mesh, holder.placements)
    return tensor
