"""AdamW over the parts of a retrieval model, each with its own learning rate, and the schedule they share."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mplug.checkpoints.quantize import quantize_rows, widen_rows
from mplug.retrieval import RetrievalModel
from mplug.train.config import OptimizerConfig

HEADS = ("image_encoder.adapter.", "image_proj.", "text_proj.", "logit_scale")
WORDS = "text_encoder.embeddings.word.weight"


def freeze(model: RetrievalModel, frozen_blocks: int) -> None:
    """Lets only the dense convolutions of the tower's last blocks, and everything behind the tower, learn.

    Depthwise filters and batch norms keep ImageNet's values throughout: they are a hundredth of the weights,
    most of a backward pass's time on a CPU, and what int8 rows would hurt most (see `round_frozen`).

    Args:
        model: With an EfficientNet tower.
        frozen_blocks: The first blocks, which learn nothing at all.
    """
    tower = model.image_encoder.backbone.tower
    tower.requires_grad_(False)
    for name, module in tower.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1 and _learns(name, frozen_blocks):
            module.requires_grad_(True)


def _learns(name: str, frozen_blocks: int) -> bool:
    block, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return name == "conv_head" or (block == "blocks" and int(number) >= frozen_blocks)


def round_frozen(model: nn.Module) -> None:
    """Rounds the frozen weights to the int8 rows they will be shipped as, before anything is trained on them.

    Rows round to themselves the second time, so that what stands still loses nothing in the export, and
    what learns does so behind a tower that is the shipped one.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.dim() > 1:
                parameter.copy_(widen_rows(*quantize_rows(parameter)))


def build_optimizer(model: RetrievalModel, config: OptimizerConfig) -> torch.optim.AdamW:
    """One group for each part and for whether weight decay applies (not to biases, norms, embeddings)."""
    rates = {
        "trunk": config.trunk_lr,
        "head": config.head_lr,
        "text": config.text_lr,
        "words": config.embedding_lr,
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.dim() > 1 and "embeddings" not in name
            groups.setdefault((_part(name), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": params, "lr": rates[part], "peak_lr": rates[part],
             "weight_decay": config.weight_decay if decays else 0.0}
            for (part, decays), params in groups.items()
        ],
        betas=config.betas,
    )  # fmt: skip


def _part(name: str) -> str:
    if name == WORDS:
        return "words"
    if name.startswith(HEADS):
        return "head"
    return "trunk" if name.startswith("image_encoder.") else "text"


def set_learning_rates(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, num_steps: int
) -> None:
    """Linear warm-up, then cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    factor = warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, num_steps))))
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


@contextmanager
def slower_rows(words: Tensor, rows: Sequence[int], factor: float) -> Iterator[None]:
    """Within this block a change of these rows counts only by `factor`.

    Rows that come from a published table must not move as fast as those that start from nothing, yet both
    live in one parameter.
    """
    index = torch.as_tensor(rows)
    before = words.detach()[index].clone()
    yield
    with torch.no_grad():
        words[index] = before + (words[index] - before) * factor
