"""Layers with the norm in front: what they compute, and the same step by step."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.cached_decoder import CachedDecoder, DecoderSizes
from mplug.decoder_state import DecoderState
from mplug.layers import Approximation
from mplug.prenorm import PackedPreNorm, PreNormCrossLayer, PreNormLayer

WIDTH, HEADS, MEMORY, VOCAB = 16, 4, 12, 20


class Decoder(CachedDecoder[PackedPreNorm]):
    """As small as one can be."""

    def __init__(self, approximate: Approximation) -> None:
        sizes = DecoderSizes(
            vocab_size=VOCAB,
            positions=30,
            bos_id=1,
            eos_id=2,
            memory_width=MEMORY,
            cached_layers=2,
            heads=HEADS,
            head_width=WIDTH // HEADS,
        )
        super().__init__(sizes)
        self.table = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(
            PreNormCrossLayer(WIDTH, HEADS, 24, memory_width=MEMORY, eps=1e-5, approximate=approximate)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.bias = nn.Parameter(torch.randn(VOCAB))

    def forward(self, ids_BL: Tensor, memory_BND: Tensor, memory_mask: Tensor) -> Tensor:
        x_BLD = self.table(ids_BL)
        causal = torch.ones(ids_BL.shape[1], ids_BL.shape[1], dtype=torch.bool).tril()
        for layer in self.layers:
            x_BLD = layer(x_BLD, memory_BND, mask=causal, memory_mask=memory_mask[:, None, None])
        return F.linear(self.norm(x_BLD), self.table.weight, self.bias)

    def _make_packed(self) -> PackedPreNorm:
        layers = [cast(PreNormCrossLayer, layer) for layer in self.layers]
        return PackedPreNorm(layers, self.norm, self.table, self.bias)

    def _read_tokens(
        self, ids_SL: Tensor, positions_SL: Tensor, state: DecoderState, mask: Tensor | None
    ) -> Tensor:
        return self._pack().read(self.table(ids_SL), state, mask)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@torch.no_grad()
def test_steps_give_the_numbers_of_the_whole_text(approximate: Approximation) -> None:
    torch.manual_seed(0)
    decoder = Decoder(approximate).eval()
    ids_BL, memory_BND = torch.randint(3, VOCAB, (2, 6)), torch.randn(2, 5, MEMORY)
    memory_mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    whole_BLV = decoder(ids_BL, memory_BND, memory_mask)

    state = decoder.start(memory_BND, memory_mask_BN=memory_mask)
    logits = [decoder.step(ids_BL[:, :2], state)]
    logits += [decoder.step(ids_BL[:, place : place + 1], state) for place in range(2, 6)]

    for place, found in enumerate(logits, start=1):
        assert torch.allclose(found, whole_BLV[:, place], atol=1e-5)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@torch.no_grad()
def test_a_layer_written_out(approximate: Approximation) -> None:
    torch.manual_seed(0)
    layer = PreNormLayer(WIDTH, HEADS, 24, eps=1e-5, approximate=approximate).eval()
    for norm in (layer.attention_norm, layer.feed_forward_norm):
        nn.init.normal_(norm.weight)
    x_BLD = torch.randn(2, 5, WIDTH)
    attended_BLD = x_BLD + layer.attention(layer.attention_norm(x_BLD))
    block = layer.feed_forward
    inner = F.gelu(block.expand(layer.feed_forward_norm(attended_BLD)), approximate=approximate)
    assert torch.allclose(layer(x_BLD), attended_BLD + block.contract(inner), atol=1e-6)


@torch.no_grad()
def test_the_two_gelus_differ() -> None:
    torch.manual_seed(0)
    layers = [PreNormLayer(WIDTH, HEADS, 24, eps=1e-5, approximate=kind) for kind in ("none", "tanh")]
    layers[1].load_state_dict(layers[0].state_dict())
    exact, approximate = (layer(torch.ones(1, 1, WIDTH)) for layer in layers)
    assert 0 < float((exact - approximate).abs().max()) < 1e-2


def test_dropout_is_for_training() -> None:
    torch.manual_seed(0)
    layer, x_BLD = PreNormLayer(WIDTH, HEADS, 24, eps=1e-5, dropout=0.5), torch.randn(1, 3, WIDTH)
    assert not torch.equal(layer(x_BLD), layer(x_BLD))
    layer.eval()
    assert torch.equal(layer(x_BLD), layer(x_BLD))
