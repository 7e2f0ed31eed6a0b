"""Random inputs: never zeros, never twice the same, and as unkind as a trained model's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bench.shapes import Shape
from mplug_kernels.variants import HEAD_WIDTH

MEAN, OUTLIER, OUTLIERS, PEAKY = 3.0, 30.0, 4, 8.0
"""A mean that all rows share, some channels' excess and their number, and the growth of logits."""


@dataclass
class Inputs:
    """What one call takes; each tensor is drawn when it is first asked for."""

    shape: Shape
    kind: str
    device: torch.device
    generator: torch.Generator

    @cached_property
    def image_index(self) -> Tensor:
        """int32 (S), on the CPU."""
        index = torch.arange(self.shape.images).repeat_interleave(self.shape.beams)
        if self.shape.ragged:
            index = torch.randint(self.shape.images, index.shape, generator=self._host)
        return index.int()

    @cached_property
    def kv_lens(self) -> Tensor:
        """int32 (I), on the CPU; of ragged shapes the first image is whole, the last has no row at all."""
        lengths = torch.full((self.shape.images,), self.shape.keys)
        if self.shape.ragged:
            lengths = torch.randint(1, self.shape.keys + 1, lengths.shape, generator=self._host)
            lengths[0], lengths[-1] = self.shape.keys, 0
        return lengths.int()

    @cached_property
    def query(self) -> Tensor:
        """Queries for keys, (S, L, H, K)."""
        return self._queries(self.shape.heads, HEAD_WIDTH, 1.0)

    @cached_property
    def folded(self) -> Tensor:
        """Queries for raw tokens; scores vary as those of `query` do; (S, L, H, D)."""
        return self._queries(self.shape.heads, self.shape.width, (HEAD_WIDTH / self.shape.width) ** 0.5)

    @cached_property
    def key(self) -> Tensor:
        """(I, N, H, K)."""
        return self._heads()

    @cached_property
    def value(self) -> Tensor:
        """(I, N, H, K)."""
        return self._heads()

    @cached_property
    def memory(self) -> Tensor:
        """Raw tokens, (I, N, D)."""
        return self._memory()

    @cached_property
    def key_weight(self) -> Tensor:
        """The key projection, (D out, D in)."""
        return self._random(self.shape.width, self.shape.width, scale=self.shape.width**-0.5)

    @cached_property
    def value_weight(self) -> Tensor:
        """The value projection, (D out, D in)."""
        return self._random(self.shape.width, self.shape.width, scale=self.shape.width**-0.5)

    @cached_property
    def bias(self) -> Tensor:
        """Of either projection, (D)."""
        return self._random(self.shape.width)

    @cached_property
    def _host(self) -> torch.Generator:
        seed = int(torch.randint(2**31, (1,), generator=self.generator, device=self.generator.device))
        return torch.Generator().manual_seed(seed)

    def _queries(self, heads: int, width: int, scale: float) -> Tensor:
        sequences = self.shape.images * self.shape.beams
        scale *= PEAKY if self.kind == "peaky" else 1.0
        return self._random(sequences, self.shape.tokens, heads, width, scale=scale)

    def _heads(self) -> Tensor:
        return self._memory().view(self.shape.images, self.shape.keys, self.shape.heads, HEAD_WIDTH)

    def _memory(self) -> Tensor:
        x_IND = self._random(self.shape.images, self.shape.keys, self.shape.width)
        if self.kind == "mean":
            x_IND += MEAN * self._random(self.shape.width)
        elif self.kind == "outliers":
            x_IND[..., :: max(1, self.shape.width // OUTLIERS)] *= OUTLIER
        return x_IND

    def _random(self, *shape: int, scale: float = 1.0) -> Tensor:
        x = torch.randn(shape, generator=self.generator, device=self.device)
        return (x * scale).to(self.shape.torch_dtype)


def draw(shape: Shape, kind: str, device: torch.device, seed: int) -> Inputs:
    """Inputs of a seed."""
    return Inputs(shape, kind, device, torch.Generator(device).manual_seed(seed))
