"""A random model on one process or on several, as a command that writes what it computed.

torchrun parallel_texts.py FAMILY OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from golden.gpt3_cases import tiny_generator
from golden.plug_cases import tiny_plug
from mplug.generation import generate
from mplug.tensor_parallel import parallelize
from mplug.text_generator import Prompt

WORDS = [[7, 8, 9, 10], [11, 12]]


def make(family: str) -> Any:
    if family == "plug":
        return tiny_plug(seed=2)
    return tiny_generator("plain" if family == "gpt3-plain" else "distributed", seed=2)


def compute(model: Any) -> dict[str, Any]:
    """Logits of teacher forcing, and greedy ids of two texts of unequal length."""
    is_plug = not hasattr(model.decoder, "config")
    ids_BL = torch.tensor([[101, 12, 13], [101, 15, 16]])
    prompts = [Prompt((101,), (101, *words, 102)) if is_plug else Prompt((5, *words)) for words in WORDS]
    with torch.no_grad():
        logits: Tensor = (
            model(torch.tensor([[101, 9, 10, 102]] * 2), ids_BL) if is_plug else model.decoder(ids_BL)
        )
    config = model.generation_config(method="greedy", max_length=9)
    texts = generate(
        model.decoder,
        lambda items: model.start([prompts[item] for item in items]),
        [prompt.first for prompt in prompts],
        config,
    )
    return {
        "logits": logits,
        "ids": [text.ids for (text,) in texts],
        "scores": [text.score for (text,) in texts],
    }


def held(model: Any) -> int:
    """Bytes of this process's parts."""
    return sum(getattr(each, "_local_tensor", each).nbytes for each in model.parameters())


def main() -> None:
    torch.set_num_threads(1)
    family, output = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = parallelize(make(family), mesh)
    told = {**compute(model), "bytes": held(model)}
    torch.save(told, output / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
