"""Every picture of a group against every text of it: what pairs share is computed once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.layers import Attention, BertLayer, CrossLayer
from mplug.train.experiments.models import WholeModel


def pair_logits(model: WholeModel, image_BND: Tensor, text_TLD: Tensor, mask_TL: Tensor) -> Tensor:
    """How much more each picture is thought to match each text than not, as log-odds; differentiable.

    The same as `fusion_encoder` and `itm_head` on all pairs. A picture's keys and values are made once for all texts,
    the first self-attention of a text once for all pictures, and of a connected layer at the end only what the head
    reads: three times faster than pair by pair, in groups of eight.

    Args:
        model: its fusion encoder begins with an asymmetric layer.
        image_BND: image_tokens.
        text_TLD: text states.
        mask_TL: bool, True = a real token.

    Returns:
        float32 (B, T).
    """
    images, texts = len(image_BND), len(text_TLD)
    layers = list(model.fusion_encoder.layers)
    asymmetric = [layer for layer in layers[:-1] if isinstance(layer, CrossLayer)]
    last = layers[-1]
    if len(asymmetric) < len(layers) - 1 or not isinstance(last, BertLayer) or len(layers) < 2:
        cls_BTD = _pair_by_pair(model, image_BND, text_TLD, mask_TL)
    else:
        first_TLD = _attend_to_itself(asymmetric[0], text_TLD, mask_TL)
        fused_PLD = first_TLD.expand(images, -1, -1, -1).flatten(0, 1)
        mask_PL = mask_TL.repeat(images, 1)
        for number, layer in enumerate(asymmetric):
            if number:
                fused_PLD = _attend_to_itself(layer, fused_PLD, mask_PL)
            fused_PLD = _cross(layer, fused_PLD, image_BND)
        cls_BTD = _head_of(last, image_BND, fused_PLD.view(images, texts, *fused_PLD.shape[1:]), mask_TL)
    logits_BT2 = model.itm_head(cls_BTD).float()
    difference_BT: Tensor = logits_BT2[..., 1] - logits_BT2[..., 0]
    return difference_BT


def _pair_by_pair(model: WholeModel, image_BND: Tensor, text_TLD: Tensor, mask_TL: Tensor) -> Tensor:
    images, texts = len(image_BND), len(text_TLD)
    _, fused_PLD = model.fusion_encoder(
        image_BND.repeat_interleave(texts, 0),
        text_TLD.repeat(images, 1, 1),
        text_mask_BL=mask_TL.repeat(images, 1),
    )
    cls_PD: Tensor = fused_PLD[:, 0]
    return cls_PD.view(images, texts, -1)


def _attend_to_itself(layer: CrossLayer, text_TLD: Tensor, mask_TL: Tensor) -> Tensor:
    attended = layer.dropout(layer.attention(text_TLD, mask=mask_TL[:, None, None]))
    normed: Tensor = layer.attention_norm(text_TLD + attended)
    return normed


def _cross(layer: CrossLayer, text_PLD: Tensor, image_BND: Tensor) -> Tensor:
    rows = text_PLD.view(len(image_BND), -1, text_PLD.shape[-1])
    crossed = layer.dropout(layer.cross_attention(rows, memory_BND=image_BND))
    rows = layer.cross_attention_norm(rows + crossed)
    rows = layer.feed_forward_norm(rows + layer.dropout(layer.feed_forward(rows)))
    output_PLD: Tensor = rows.view_as(text_PLD)
    return output_PLD


def _head_of(layer: BertLayer, image_BND: Tensor, text_BTLD: Tensor, mask_TL: Tensor) -> Tensor:
    """[CLS] behind a connected layer, (B, T, D)."""
    cls_BTD = text_BTLD[:, :, 0]
    attended = layer.dropout(_attend_to_both(layer.attention, image_BND, text_BTLD, mask_TL))
    cls_BTD = layer.attention_norm(cls_BTD + attended)
    output: Tensor = layer.feed_forward_norm(cls_BTD + layer.dropout(layer.feed_forward(cls_BTD)))
    return output


def _attend_to_both(attention: Attention, image_BND: Tensor, text_BTLD: Tensor, mask_TL: Tensor) -> Tensor:
    def heads(states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], attention.num_heads, -1)

    count = image_BND.shape[1]
    query_BTHK = heads(attention.query(text_BTLD[:, :, 0]))
    to_image = torch.einsum("bthk,bnhk->bthn", query_BTHK, heads(attention.key(image_BND)))
    to_text = torch.einsum("bthk,btlhk->bthl", query_BTHK, heads(attention.key(text_BTLD)))
    to_text = to_text.masked_fill(~mask_TL[:, None], -torch.inf)
    scores = torch.cat([to_image, to_text], dim=-1).float() * query_BTHK.shape[-1] ** -0.5
    shares = F.dropout(scores.softmax(-1), attention.dropout, attention.training).to(text_BTLD.dtype)
    found = torch.einsum("bthn,bnhk->bthk", shares[..., :count], heads(attention.value(image_BND)))
    found = found + torch.einsum("bthl,btlhk->bthk", shares[..., count:], heads(attention.value(text_BTLD)))
    output: Tensor = attention.output(found.flatten(2))
    return output
