"""AdamW over an experiment's parameter groups, and the schedule they share."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from mplug.errors import MplugError
from mplug.train.config import OptimizerConfig
from mplug.train.experiment import ParameterGroup
from mplug.train.parallel import whole_tensor

_NEVER_DECAYED = ("embedding", "pos_embed", "cls_token")


def build_optimizer(groups: Sequence[ParameterGroup], config: OptimizerConfig) -> torch.optim.AdamW:
    """Each group in two: what weight decay applies to, and biases, norms and embeddings, which it does not.

    Raises:
        MplugError: nothing to train, or a parameter that is in two groups.
    """
    _check(groups)
    parts: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for group in groups:
        for name, parameter in group.parameters:
            # Sharded and whole tensors cannot pass one fused update.
            key = (group.name, _decays(name, parameter), isinstance(parameter, DTensor))
            parts.setdefault(key, []).append(parameter)
    rates = {group.name: group.lr for group in groups}
    return torch.optim.AdamW(
        [
            {"params": parameters, "name": name, "lr": rates[name], "peak_lr": rates[name],
             "weight_decay": config.weight_decay if decays else 0.0}
            for (name, decays, _), parameters in parts.items()
        ],
        betas=config.betas,
    )  # fmt: skip


def _check(groups: Sequence[ParameterGroup]) -> None:
    group_of: dict[int, str] = {}
    for group in groups:
        for name, parameter in group.parameters:
            other = group_of.setdefault(id(parameter), group.name)
            if other != group.name:
                raise MplugError(f"{name} is in two parameter groups, {other} and {group.name}.")
    if not group_of:
        raise MplugError("nothing to train: no parameter group holds a parameter.")


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() > 1 and not any(part in name for part in _NEVER_DECAYED)


def freeze_the_rest(model: nn.Module, groups: Sequence[ParameterGroup]) -> list[nn.Parameter]:
    """Stops gradients to parameters that are in no group; returns those that are, in the model's order."""
    trained = {id(parameter) for group in groups for _, parameter in group.parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def rate_factor(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Share of its peak that a learning rate has in a step: linear warm-up, then a cosine to its final share."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, num_steps))))
    return warm * (config.final_lr_share + (1 - config.final_lr_share) * cosine)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, num_steps: int
) -> dict[str, float]:
    """Sets every group's learning rate for a step, counted from 0; returns them by the groups' names."""
    factor = rate_factor(config, step, num_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Shortens the gradients to a common norm; returns the norm they had.

    Args:
        parameters: whole ones, sharded ones, or both.
        max_norm: 0: leave them as they are.
    """
    sharded = [p for p in parameters if isinstance(p, DTensor) and p.grad is not None]
    limit = max_norm or math.inf
    if not sharded:
        return clip_grad_norm_(parameters, limit).item()
    whole = [p for p in parameters if not isinstance(p, DTensor) and p.grad is not None]
    norm = torch.hypot(_norm(sharded), _norm(whole))
    for part in (sharded, whole):
        clip_grads_with_norm_(part, limit, norm)
    return norm.item()


def _norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    return whole_tensor(get_total_norm([p.grad for p in parameters if p.grad is not None]))
