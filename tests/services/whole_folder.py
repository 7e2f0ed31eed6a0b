"""A folder of our own that holds a tiny model of every task, which all share its modules."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from golden.mplug_cases import tiny, tiny_whole_config
from mplug.checkpoints import native
from mplug.vqa import VqaModel
from services.rerank_servers import make_rerank_model
from services.serving import build_model

TASKS = ("retrieval", "rerank", "caption", "vqa")


def save_whole(folder: Path) -> Path:
    """The reranker, whose probabilities are far apart, with a decoder and the projections of retrieval."""
    written = tiny(VqaModel, tiny_whole_config(name="whole"))
    native.save(written, folder)
    tensors = {**written.state_dict(), **build_model().state_dict(), **make_rerank_model().state_dict()}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / native.WEIGHTS_FILE)
    return folder
