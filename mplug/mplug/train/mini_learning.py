"""What of mplug-mini's retrieval half learns, how fast and in which precision, and what stands still."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mplug.checkpoints.quantize import quantize_rows, widen_rows
from mplug.retrieval import RetrievalModel
from mplug.train.config import MiniOptimizerConfig
from mplug.train.experiment import ParameterGroup

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


def depthwise_in_float32(model: RetrievalModel, frozen_blocks: int) -> None:
    """Takes the depthwise convolutions that gradients pass out of autocast.

    In bfloat16 their backward pass is up to fourteen times slower on a CPU (5x5, stride 2).
    """
    for module in model.image_encoder.backbone.tower.blocks[frozen_blocks:].modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = _without_autocast(module.forward)  # type: ignore[method-assign, assignment]  # of this one


def _without_autocast(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return forward(features.float())

    return run


def learning_groups(model: nn.Module, config: MiniOptimizerConfig) -> list[ParameterGroup]:
    """The parts that have a learning rate of their own, of the parameters that `freeze` left to learn."""
    rates = {
        "trunk": config.trunk_lr,
        "head": config.head_lr,
        "text": config.text_lr,
        "words": config.embedding_lr,
    }
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        ParameterGroup(part, [(name, p) for name, p in learning if _part(name) == part], lr)
        for part, lr in rates.items()
    ]


def _part(name: str) -> str:
    if name == WORDS:
        return "words"
    if name.startswith(HEADS):
        return "head"
    return "trunk" if name.startswith("image_encoder.") else "text"


class SlowerRows:
    """Rows of one parameter that move slower than the others.

    Rows that come from a published table must not move as fast as those that start from nothing, yet both
    live in one parameter.

    Args:
        words: (V, D), the parameter.
        rows: those whose changes count only by `factor`.
        factor: below 1.
    """

    def __init__(self, words: Tensor, rows: Sequence[int], factor: float) -> None:
        self._words = words
        self._rows = torch.as_tensor(rows)
        self._factor = factor
        self._before: Tensor | None = None

    def remember(self) -> None:
        """Takes up where the rows are before a step; once is enough."""
        if self._before is None:
            self._before = self._words.detach()[self._rows].clone()

    @torch.no_grad()
    def hold_back(self) -> None:
        """Takes back part of what the step has changed since."""
        assert self._before is not None, "hold_back follows remember"
        self._words[self._rows] = self._before + (self._words[self._rows] - self._before) * self._factor
        self._before = None
