"""Matching begins with what the joint space knows: a fresh fusion encoder ranks, if worse than the cosine it copies.

From random weights a small fusion encoder stays at chance for thousands of steps, since nothing of a picture is heard
until cross-attention has found words and cells that go together. The two projections of the contrastive half know
which do. So:

* an asymmetric layer takes the mean of the text in, attends to the picture by the dot product of the joint space and
  adds a little of what it finds there, as text; its feed-forward part says little at first;
* the connected layer's [CLS] attends to picture and text by the same dot product, in one softmax: the better the
  picture fits, the more of its attention goes there. Its values say which of the two a token is of, and the head
  reads that.

Lengths and offsets are measured on some pairs; afterwards everything learns as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mplug.layers import Attention, BertLayer, CrossLayer
from mplug.train.experiments.batches import tokenize
from mplug.train.experiments.models import WholeModel

SHARPNESS = 6.0
"""Between a cosine of 0 and one of 1, in each head's logits: little enough that no head is ever quite sure."""
HEARD = 0.05
"""Standard deviation of what is added of the picture, as a share of the text's."""
VOTE = 1.5
"""The same of what [CLS] is told of the match, before the head."""
HEAD_GAIN = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Pictures, and which tokens of the texts are real."""

    image_BND: Tensor
    mask_BL: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Joint:
    """Linear maps from text states and image_tokens to the joint space, turned so that every head has a share of it."""

    text: tuple[Tensor, Tensor]
    image: tuple[Tensor, Tensor]
    back_DD: Tensor
    """From there to text states."""


@torch.no_grad()
def start_matching(model: WholeModel, image_BND: Tensor, texts: Sequence[str]) -> None:
    """Set fusion encoder and matching head; one that does not end in its only connected layer stays as it is.

    Args:
        model: fresh but for its contrastive half.
        image_BND: image_tokens of a hundred pictures or so.
        texts: one of each.
    """
    *asymmetric, last = model.fusion_encoder.layers
    if not isinstance(last, BertLayer) or not all(isinstance(layer, CrossLayer) for layer in asymmetric):
        return
    model.eval()
    ids_BL, mask_BL = (each.to(image_BND.device) for each in tokenize(model.tokenizer, texts))
    text_BLD = model.encode_text(ids_BL, mask_BL)
    pairs, joint = _Pairs(image_BND, mask_BL), _joint(model)
    for layer in asymmetric:
        assert isinstance(layer, CrossLayer)
        text_BLD = _start_asymmetric(layer, joint, pairs, text_BLD)
    vote_D = _start_connected(last, joint, pairs, text_BLD)
    head = model.itm_head
    head.weight.copy_(torch.stack([-vote_D, vote_D]) * HEAD_GAIN / len(vote_D))
    head.bias.zero_()


def _joint(model: WholeModel) -> _Joint:
    text, image = model.text_proj, model.image_proj
    turn_DE = nn.init.orthogonal_(torch.empty_like(text.weight.T))
    return _Joint(
        text=(turn_DE @ text.weight, turn_DE @ text.bias),
        image=(turn_DE @ image.weight, turn_DE @ image.bias),
        back_DD=torch.linalg.pinv(text.weight) @ turn_DE.T,
    )


def _start_asymmetric(layer: CrossLayer, joint: _Joint, pairs: _Pairs, text_BLD: Tensor) -> Tensor:
    """Set a layer; returns what it makes of the texts."""
    own, mask = layer.attention, pairs.mask_BL
    own.query.weight.mul_(0.1)  # nearly the mean
    own.query.bias.zero_()
    for linear, gain in ((own.value, 1.0), (own.output, 0.7)):
        nn.init.eye_(linear.weight).mul_(gain)
        linear.bias.zero_()
    _pass_on(layer.attention_norm, text_BLD)
    text_BLD = layer.attention_norm(text_BLD + own(text_BLD, mask=mask[:, None, None]))

    cross = layer.cross_attention
    _set(cross.query, joint.text)
    _set(cross.key, joint.image)
    _set(cross.value, joint.image)
    scores_BHLN = _scores(cross, cross.query(text_BLD), pairs.image_BND)
    gain = float(scores_BHLN.std(-1).transpose(1, 2)[mask].mean()) ** -0.5
    for linear in (cross.query, cross.key):
        linear.weight.mul_(gain)
        linear.bias.mul_(gain)
    cross.output.weight.copy_(joint.back_DD)
    cross.output.bias.zero_()
    found_BLD = cross(text_BLD, memory_BND=pairs.image_BND)
    cross.output.weight.mul_(HEARD * float(text_BLD[mask].std() / found_BLD[mask].std()))
    _pass_on(layer.cross_attention_norm, text_BLD)
    _pass_on(layer.feed_forward_norm, text_BLD)
    for parameter in layer.feed_forward.contract.parameters():
        parameter.mul_(0.1)
    output_BLD: Tensor = layer(text_BLD, pairs.image_BND, mask=mask[:, None, None])
    return output_BLD


def _start_connected(layer: BertLayer, joint: _Joint, pairs: _Pairs, text_BLD: Tensor) -> Tensor:
    """Set the last layer; returns the direction (D,) in which its [CLS] tells of a match."""
    attention, heads = layer.attention, layer.attention.num_heads
    side = _side(pairs.image_BND, text_BLD[pairs.mask_BL])
    _set(attention.query, joint.text)
    _set(attention.key, joint.image)
    lengths = [
        torch.nn.functional.linear(states, *linear).norm(dim=-1).mean()
        for states, linear in ((text_BLD[:, 0], joint.text), (pairs.image_BND[:, 0], joint.image))
    ]
    width = text_BLD.shape[-1] // heads
    gain = float(SHARPNESS * heads * math.sqrt(width) / (lengths[0] * lengths[1])) ** 0.5
    for linear in (attention.query, attention.key):
        linear.weight.mul_(gain)
        linear.bias.mul_(gain)
    _balance(attention, side, pairs, text_BLD)

    vote_D = torch.randn(text_BLD.shape[-1], device=text_BLD.device)
    vote_D = (vote_D - vote_D.mean()) / vote_D.std()
    attention.value.weight.mul_(0.5)
    attention.output.weight.mul_(0.3)
    for row in range(0, len(vote_D), width):  # the first number of every head
        attention.value.weight[row], attention.value.bias[row] = side
        attention.output.weight[:, row] = vote_D * VOTE * text_BLD.std() / heads
    return vote_D


def _side(image_BND: Tensor, text_PD: Tensor) -> tuple[Tensor, Tensor]:
    """A linear map that is on average 1 for image_tokens and -1 for text states."""
    image_D, text_D = image_BND.flatten(0, 1).mean(0), text_PD.mean(0)
    between_D = image_D - text_D
    weight_D = 2 * between_D / between_D.square().sum()
    return weight_D, -(image_D + text_D) @ weight_D / 2


def _balance(attention: Attention, side: tuple[Tensor, Tensor], pairs: _Pairs, text_BLD: Tensor) -> None:
    """Let [CLS] be as likely to attend to the picture as to the text, halfway between pairs and strangers."""
    query_BD = attention.query(text_BLD[:, :1])
    own_BH, other_BH = (
        _scores(attention, query_BD, image_BND)[:, :, 0].logsumexp(-1)
        for image_BND in (pairs.image_BND, pairs.image_BND.roll(1, 0))
    )
    text_BHL = _scores(attention, query_BD, text_BLD)[:, :, 0]
    text_BH = text_BHL.masked_fill(~pairs.mask_BL[:, None], -torch.inf).logsumexp(-1)
    lead_H = (text_BH - (own_BH + other_BH) / 2).mean(0)
    mean_HK = query_BD[:, 0].mean(0).view(attention.num_heads, -1)
    # Keys of the picture gain half of the lead, those of the text lose as much.
    raised_HK = mean_HK * (lead_H / 2 * math.sqrt(mean_HK.shape[1]) / mean_HK.square().sum(1))[:, None]
    attention.key.weight.add_(raised_HK.flatten()[:, None] * side[0])
    attention.key.bias.add_(raised_HK.flatten() * side[1])


def _scores(attention: Attention, query_BLD: Tensor, keys_BND: Tensor) -> Tensor:
    """What the softmax over keys is of, (B, H, L, N)."""
    width = query_BLD.shape[-1] // attention.num_heads
    query_BLHK, key_BNHK = (
        each.view(*each.shape[:-1], attention.num_heads, width)
        for each in (query_BLD, attention.key(keys_BND))
    )
    scores_BHLN: Tensor = torch.einsum("blhk,bnhk->bhln", query_BLHK, key_BNHK) * width**-0.5
    return scores_BHLN


def _pass_on(norm: nn.LayerNorm, states_BLD: Tensor) -> None:
    """What is about as long as these states comes out as it was."""
    norm.weight.fill_(states_BLD.std(-1).mean())
    norm.bias.fill_(states_BLD.mean())


def _set(linear: nn.Linear, to: tuple[Tensor, Tensor]) -> None:
    linear.weight.copy_(to[0])
    linear.bias.copy_(to[1])
