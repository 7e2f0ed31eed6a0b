"""128 tokens of a large GPT's layers, one sequence: how much of the memory bandwidth decoding reaches.

Each step reads every weight once, so its floor is the weights' bytes over the bandwidth. Layers as GPT-3's 13B model
has them (width 5120, 40 heads, four times wider inside); embeddings and the vocabulary's matrix are left out. In int8
every output channel has a scale of its own, and weights become bfloat16 on their way into the product, which
`torch.compile` fuses.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MEMORY_SHARE = 0.7
"""Of what is free, for weights: fewer layers are made where it does not suffice."""

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class StackShape:
    """Sizes of the layers."""

    width: int = 5120
    heads: int = 40
    layers: int = 40
    tokens: int = 128

    def layer_bytes(self, itemsize: int) -> int:
        """Weights of one layer."""
        return 12 * self.width**2 * itemsize


TINY = StackShape(width=64, heads=4, layers=2, tokens=8)


class Stack:
    """Layers, their cache, and one step of decoding, as a CUDA graph where there is CUDA."""

    def __init__(self, shape: StackShape, layers: int, device: torch.device, *, int8: bool) -> None:
        self.shape, self.device, self.int8 = shape, device, int8
        width = shape.width
        sizes = ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))
        self._layers = [[self._linear(*size) for size in sizes] for _ in range(layers)]
        heads, head_width = shape.heads, width // shape.heads
        cache_shape = (layers, 2, 1, heads, shape.tokens, head_width)
        self._cache = torch.zeros(cache_shape, dtype=torch.bfloat16, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._slots = torch.arange(shape.tokens, device=device)
        self._x = torch.randn(1, width, device=device).bfloat16()

    def step(self) -> Tensor:
        """The next token's row, (1, width)."""
        x_1D, width = self._x, self.shape.width
        mask = (self._slots <= self._position)[None]
        for layer, (query_key_value, output, expand, contract) in enumerate(self._layers):
            rows = query_key_value(F.layer_norm(x_1D, (width,)))
            q, k, v = rows.view(3, 1, self.shape.heads, 1, -1)
            for number, new in enumerate((k, v)):
                self._cache[layer, number].index_copy_(2, self._position, new)
            keys, values = self._cache[layer]
            attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            x_1D = x_1D + output(attended.reshape(1, width))
            x_1D = x_1D + contract(F.gelu(expand(F.layer_norm(x_1D, (width,))), approximate="tanh"))
        self._position += 1
        return x_1D

    def decode(self) -> float:
        """Seconds of all tokens."""
        run: Callable[[], object] = self.step
        if self.device.type == "cuda":
            self._warm_up()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.step()
            run = graph.replay
        return statistics.median(self._timed(run) for _ in range(3))

    def _warm_up(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.step()
        stream.synchronize()

    def _timed(self, run: Callable[[], object]) -> float:
        self._position.zero_()
        _synchronise(self.device)
        start = time.perf_counter()
        for _ in range(self.shape.tokens):
            run()
        _synchronise(self.device)
        return time.perf_counter() - start

    def _linear(self, outputs: int, inputs: int) -> Linear:
        weight = torch.randn(outputs, inputs, dtype=torch.bfloat16, device=self.device) * inputs**-0.5
        if not self.int8:
            return lambda x: F.linear(x, weight)
        scale = weight.abs().amax(1).float() / 127
        stored = (weight / scale[:, None]).round().to(torch.int8)
        product = _int8_product(self.device)
        return lambda x: product(x, stored, scale.bfloat16())


def layers_that_fit(shape: StackShape, device: torch.device, itemsize: int) -> int:
    """All of them, or what the device has room for."""
    if device.type != "cuda":
        return shape.layers
    free = torch.cuda.mem_get_info(device)[0] * MEMORY_SHARE
    return max(1, min(shape.layers, int(free / shape.layer_bytes(itemsize))))


def measure(
    device: torch.device, *, int8: bool, tiny: bool, bytes_per_second: float | None
) -> dict[str, object]:
    """Seconds, scaled to all layers where fewer fitted, and the share of the bandwidth."""
    shape, itemsize = TINY if tiny else StackShape(), 1 if int8 else 2
    layers = layers_that_fit(shape, device, itemsize)
    seconds = Stack(shape, layers, device, int8=int8).decode() * shape.layers / layers
    moved = shape.layers * shape.layer_bytes(itemsize) * shape.tokens
    share = moved / seconds / bytes_per_second if bytes_per_second else None
    kind = "int8" if int8 else "bf16"
    share_text = "" if share is None else f", {share:.0%} of the bandwidth"
    return {
        "seconds": seconds,
        "tokens": shape.tokens,
        "layers_run": layers,
        "layers": shape.layers,
        "weight_bytes_per_token": shape.layers * shape.layer_bytes(itemsize),
        "bytes_per_second": moved / seconds,
        "bandwidth_share": share,
        "summary": f"{kind}: {shape.tokens / seconds:.1f} tokens/s, {layers} of {shape.layers} layers run{share_text}",
    }


def _int8_product(device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return _COMPILED if device.type == "cuda" else _multiply_int8


def _multiply_int8(x: Tensor, stored: Tensor, scale: Tensor) -> Tensor:
    # Of one row; written so that nothing but the int8 weights is read where it is compiled.
    return ((x * stored).sum(-1) * scale)[None]


_COMPILED = torch.compile(_multiply_int8, dynamic=False)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
