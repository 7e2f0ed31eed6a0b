"""Our names and the reference's, for either layout.

Both of its classes keep queries, keys and values in one matrix. `GPT3Model` has all queries first, then all keys, then
all values; `DistributedGPT3` has the rows of each head together, its query, key and value. Here they are three
matrices, the same for both. Tensor-parallel ranks part the distributed one's tensors by whole heads, rows or columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mplug.checkpoints.streaming import Source, both, joined
from mplug.gpt3.config import Gpt3Config


def sources(config: Gpt3Config) -> list[Source]:
    """Of every parameter, in the order of the reference's modules."""
    plain = config.layout == "plain"
    tables = "language_model" if plain else "language_model.embedding"
    stack = "language_model.transformer" if plain else "language_model.encoder"
    found = [
        Source(f"{tables}.word_embeddings.weight", ("embeddings.word.weight",), split=0),
        Source(f"{tables}.position_embeddings.weight", ("embeddings.position.weight",)),
    ]
    for number in range(config.layers):
        found += _layer_sources(config, f"{stack}.layers.{number}", f"layers.{number}")
    return found + both(f"{stack}.final_layernorm", "norm")


def _layer_sources(config: Gpt3Config, theirs: str, ours: str) -> list[Source]:
    attention = f"{theirs}.attention" if config.layout == "plain" else f"{theirs}.self_attention"
    return [
        *both(f"{theirs}.input_layernorm", f"{ours}.attention_norm"),
        *_fused(config, f"{attention}.query_key_value", f"{ours}.attention"),
        *_summed(f"{attention}.dense", f"{ours}.attention.output"),
        *both(f"{theirs}.post_attention_layernorm", f"{ours}.feed_forward_norm"),
        *both(f"{theirs}.mlp.dense_h_to_4h", f"{ours}.feed_forward.expand", split=0),
        *_summed(f"{theirs}.mlp.dense_4h_to_h", f"{ours}.feed_forward.contract"),
    ]


def _fused(config: Gpt3Config, theirs: str, ours: str) -> list[Source]:
    found: list[Source] = []
    for kind in ("weight", "bias"):
        names = tuple(f"{ours}.{part}.{kind}" for part in ("query", "key", "value"))
        if config.layout == "plain":
            found.append(Source(f"{theirs}.{kind}", names, split=0))
        else:
            found.append(HeadRows(f"{theirs}.{kind}", names, split=0, width=config.hidden // config.heads))
    return found


def _summed(theirs: str, ours: str) -> list[Source]:
    """A layer whose inputs are parted among ranks: the bias is added once, to the sum of what they give."""
    return [Source(f"{theirs}.weight", (f"{ours}.weight",), 1), Source(f"{theirs}.bias", (f"{ours}.bias",))]


@dataclass(frozen=True, slots=True)
class HeadRows(Source):
    """Queries, keys and values of which the rows of each head lie together."""

    width: int = 0
    """Of a head, K."""

    def take(
        self,
        parts: Sequence[Tensor],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """See `Source`."""
        if any(part.shape[0] % (3 * self.width) for part in parts):
            return Source.take(self, parts, device, dtype)  # of another model; it is refused by its shape
        heads = [part.view(-1, 3, self.width, *part.shape[1:]) for part in parts]
        return {
            name: joined([part[:, third] for part in heads], 0, device, dtype).flatten(0, 1)
            for third, name in enumerate(self.ours)
        }

    def give(self, tensors: Mapping[str, Tensor], rank: int = 0, ranks: int = 1) -> Tensor:
        """See `Source`."""
        part = Source.give(self, tensors, rank, ranks)
        return part.view(3, -1, self.width, *part.shape[1:]).transpose(0, 1).reshape(part.shape)
