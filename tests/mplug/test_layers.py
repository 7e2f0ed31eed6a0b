"""Layers against the formulas, with the reference's additive masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mplug.config import TextEncoderConfig
from mplug.layers import Attention, BertLayer
from mplug.text_encoder import TextEncoder


def additive_attention(layer: Attention, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    """BERT's own way: scores + (1 - mask) * -10000, heads one by one."""
    q, k, v = layer.query(x), layer.key(memory), layer.value(memory)
    width = q.shape[-1] // layer.num_heads
    heads = []
    for head in range(layer.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        scores = scores + (1 - mask[:, None].float()) * -10000.0
        heads.append(scores.softmax(-1) @ v[..., part])
    out: Tensor = layer.output(torch.cat(heads, -1))
    return out


@pytest.mark.parametrize("memory_width", [None, 20])
@torch.inference_mode()
def test_attention_equals_additive_masks(memory_width: int | None) -> None:
    torch.manual_seed(0)
    layer = Attention(24, 3, memory_width=memory_width)
    x = torch.randn(2, 5, 24)
    memory = x if memory_width is None else torch.randn(2, 7, memory_width)
    mask = torch.ones(2, memory.shape[1], dtype=torch.bool)
    mask[1, 3:] = False
    given_memory = None if memory_width is None else memory
    ours = layer(x, memory_BND=given_memory, mask=mask[:, None, None])
    assert torch.allclose(ours, additive_attention(layer, x, memory, mask), atol=1e-6)


@torch.inference_mode()
def test_layer_is_post_norm() -> None:
    torch.manual_seed(0)
    layer = BertLayer(24, 3, 40, eps=1e-12)
    nn.init.zeros_(layer.feed_forward.contract.weight)
    nn.init.zeros_(layer.feed_forward.contract.bias)
    nn.init.zeros_(layer.attention.output.weight)
    nn.init.zeros_(layer.attention.output.bias)
    x = torch.randn(2, 5, 24)
    # With silent blocks only residuals and norms remain, and a second norm changes nothing.
    assert torch.allclose(layer(x), nn.functional.layer_norm(x, (24,), eps=1e-12), atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    config = TextEncoderConfig(
        vocab_size=130, hidden=24, layers=2, heads=3, ffn=32, positions=16, dropout=0.5
    )
    encoder = TextEncoder(config)
    ids = torch.tensor([[101, 5, 6, 102]])
    mask = ids != 0
    encoder.eval()
    assert torch.equal(encoder(ids, mask), encoder(ids, mask))
    encoder.train()
    assert not torch.equal(encoder(ids, mask), encoder(ids, mask))


def test_too_long_texts_name_the_limit() -> None:
    encoder = TextEncoder(
        TextEncoderConfig(vocab_size=130, hidden=24, layers=1, heads=3, ffn=32, positions=4)
    )
    ids = torch.ones(1, 5, dtype=torch.long)
    with pytest.raises(ValueError, match="5 tokens long; this encoder has 4 positions"):
        encoder(ids, ids.bool())
