"""A model of a published size with random weights, made and run in one type, as a command that tells what it took.

python planned_texts.py NAME DTYPE PROMPT WRITTEN
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil
import torch
from torch import nn

from mplug import freeze
from mplug.checkpoints.skeleton import skeleton
from mplug.gpt3 import SIZES, Gpt3Decoder
from mplug.memory_plan import WEIGHT_TYPES
from mplug.quantization import QUANTIZED, lay_out
from mplug.quantized_linear import COMPUTED, Quantized
from planned_runs import peak_memory


def random_decoder(name: str, dtype: str) -> Gpt3Decoder:
    """All rows of a matrix are equal, so that nothing is there in float32 but one of them."""
    kind, numbers = WEIGHT_TYPES[dtype], 0.02 * torch.randn(1 << 16)
    with skeleton():
        decoder = Gpt3Decoder(SIZES[name])
    shapes = {key: tensor.shape for key, tensor in decoder.state_dict().items()}
    if kind in QUANTIZED:
        lay_out(decoder, kind, "cpu")
        kind = COMPUTED
    for key, shape in shapes.items():
        owner, _, leaf = key.rpartition(".")
        module, drawn = decoder.get_submodule(owner), numbers[: shape[-1]].expand(shape)
        if isinstance(module, Quantized) and leaf == "weight":
            module.matrix.take(drawn)
        else:
            held = torch.empty(shape, dtype=kind).copy_(drawn)
            setattr(module, leaf, nn.Parameter(held, requires_grad=False))
    return decoder.eval()


def main() -> None:
    torch.set_num_threads(1)
    name, dtype, prompt, written = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    decoder = freeze(random_decoder(name, dtype))
    state = decoder.start(1)
    ids = torch.randint(5, 1000, (1, prompt))
    seconds: list[float] = []
    for _ in range(written):
        began = time.perf_counter()
        ids = decoder.step(ids, state).argmax(-1, keepdim=True)
        seconds.append(time.perf_counter() - began)
    told = {"grown": peak_memory() - before, "seconds": min(seconds[1:])}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
