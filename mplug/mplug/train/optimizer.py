"""AdamW over the parts of a retrieval model, each with its own learning rate, and the schedule they share."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mplug.retrieval import RetrievalModel
from mplug.train.config import OptimizerConfig

HEADS = ("image_encoder.adapter.", "image_proj.", "text_proj.", "logit_scale")
WORDS = "text_encoder.embeddings.word.weight"


def freeze(model: RetrievalModel, frozen_blocks: int) -> None:
    """Lets only the tower's blocks from `frozen_blocks` on, its last convolution, and everything else learn."""
    tower = model.image_encoder.backbone.tower
    tower.requires_grad_(False)
    for name, module in tower.named_modules():
        block, _, number = name.partition(".")
        if name in ("conv_head", "bn2") or (
            block == "blocks" and number.isdigit() and int(number) >= frozen_blocks
        ):
            module.requires_grad_(True)


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
            {"params": params, "lr": rates[part], "peak_lr": rates[part], "part": part,
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
    """Linear warm-up, then cosine to zero; the towers begin their own warm-up when the heads' first steps end."""
    for group in optimizer.param_groups:
        start = 0 if group["part"] == "head" else config.head_only_steps
        group["lr"] = group["peak_lr"] * _schedule(step - start, num_steps - start, config.warmup_steps)


def _schedule(step: int, num_steps: int, warmup: int) -> float:
    if step < 0:
        return 0.0
    progress = min(1.0, step / max(1, num_steps))
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * progress))


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
