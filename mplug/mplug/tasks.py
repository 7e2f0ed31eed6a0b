"""The tasks: which model does each, which modules that needs, and what they weigh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mplug.captioning import CaptionModel
from mplug.config import MplugConfig
from mplug.reranking import RerankModel
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.vqa import VqaModel

TASKS: Mapping[str, type[RetrievalModel] | type[RerankModel] | type[CaptionModel] | type[VqaModel]] = {
    "retrieval": RetrievalModel,
    "rerank": RerankModel,
    "caption": CaptionModel,
    "vqa": VqaModel,
}
"""Each task's model: it holds the modules that the task needs and no others."""
MODELSCOPE_TASKS = {
    "image-text-retrieval": "retrieval",
    "image-captioning": "caption",
    "visual-question-answering": "vqa",
}
"""ModelScope's names for them; its retrieval folders rerank as well."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class TaskSize:
    """What a task's model holds."""

    modules: Mapping[str, int]
    """Parameters by module, in the order in which a picture and a text meet them."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.modules.values())

    def memory(self, dtype: str) -> int:
        """Bytes of the weights alone, in `float32`, `bfloat16` or `float16`."""
        return self.parameters * DTYPES[dtype].itemsize


def task_size(config: MplugConfig, task: str) -> TaskSize:
    """Weigh a task's model without making it.

    Raises:
        ConfigError: the configuration lacks a part that the task needs, or cannot be built.
    """
    tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], max_length=config.max_text_tokens)
    with torch.device("meta"):
        return model_size(TASKS[task](config, tokenizer))


def model_size(model: nn.Module) -> TaskSize:
    """Weigh a model."""
    modules: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        module = name.split(".")[0]
        modules[module] = modules.get(module, 0) + parameter.numel()
    return TaskSize(dict(sorted(modules.items(), key=lambda item: _order(item[0]))))


def _order(module: str) -> int:
    order = ("image_encoder", "text_encoder", "fusion_encoder", "text_decoder")
    return order.index(module) if module in order else len(order)
