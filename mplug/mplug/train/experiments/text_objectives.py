"""What pretraining makes of a text: words to restore (BERT's), and a prefix with its rest (PrefixLM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.errors import MplugError
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.train.experiments.settings import MaskConfig

NOT_MASKED = -100
"""Target of tokens that are not to be restored (torch's `ignore_index`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Texts with tokens to restore."""

    ids_BL: Tensor
    targets_BL: Tensor
    """int64: the token that was there, or `NOT_MASKED`."""


def mask_tokens(ids_BL: Tensor, mask_BL: Tensor, tokenizer: WordPieceTokenizer, config: MaskConfig) -> Masked:
    """Hide some of the pieces between [CLS] and [SEP]; drawn from torch's global generator.

    Args:
        ids_BL: int64, on the CPU.
        mask_BL: bool, True = a real token.
        tokenizer: names [MASK], and the pieces that may stand in.
        config: shares.

    Raises:
        MplugError: the vocabulary has no [MASK].
    """
    if "[MASK]" not in tokenizer.vocab:
        raise MplugError(
            "the vocabulary has no [MASK]; give masked words a weight of 0, or use BERT's vocab.txt"
        )
    mask_id = tokenizer.vocab.index("[MASK]")
    pieces_BL = mask_BL & (ids_BL != tokenizer.cls_id) & (ids_BL != tokenizer.sep_id)
    chosen_BL = pieces_BL & (torch.rand(ids_BL.shape) < config.probability)
    how_BL = torch.rand(ids_BL.shape)
    any_piece_BL = torch.randint(len(tokenizer.vocab), ids_BL.shape)
    becomes_BL = torch.where(how_BL < config.as_mask, torch.full_like(ids_BL, mask_id), ids_BL)
    random_BL = (how_BL >= config.as_mask) & (how_BL < config.as_mask + config.as_random)
    becomes_BL = torch.where(random_BL, any_piece_BL, becomes_BL)
    return Masked(
        ids_BL=torch.where(chosen_BL, becomes_BL, ids_BL),
        targets_BL=ids_BL.masked_fill(~chosen_BL, NOT_MASKED),
    )


def masked_loss(logits_PV: Tensor, targets_P: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens to restore; 0 where a batch happens to have none."""
    return F.cross_entropy(logits_PV.float(), targets_P, reduction="sum") / max(1, len(targets_P))


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Texts in two, each half [CLS] pieces [SEP] and then padding."""

    prefix_ids_BL: Tensor
    prefix_mask_BL: Tensor
    rest_ids_BL: Tensor
    rest_mask_BL: Tensor


def draw_prefixes(mask_BL: Tensor) -> Tensor:
    """How many pieces each text's prefix has: none to all but one, drawn from torch's global generator.

    Returns:
        int64 (B,).
    """
    most_B = (mask_BL.sum(1) - 3).clamp(min=0)
    return (torch.rand(len(mask_BL)) * (most_B + 1)).long().minimum(most_B)


def split_texts(ids_BL: Tensor, mask_BL: Tensor, prefix_B: Tensor, pad_id: int) -> Split:
    """Part texts behind so many pieces.

    Args:
        ids_BL: int64, [CLS] pieces [SEP] and then padding.
        mask_BL: bool, True = a real token.
        prefix_B: int64, pieces of the prefix; at most as many as there are.
        pad_id: token id of padding.
    """
    places_L = torch.arange(ids_BL.shape[1])
    length_B1, prefix_B1 = mask_BL.sum(1, keepdim=True), prefix_B[:, None]
    end_B1 = ids_BL.gather(1, length_B1 - 1)
    prefix_BL = torch.where(places_L == prefix_B1 + 1, end_B1, ids_BL)
    prefix_mask_BL = places_L < prefix_B1 + 2
    rest_BL = ids_BL.gather(1, (places_L + prefix_B1).clamp(max=ids_BL.shape[1] - 1))
    rest_BL = torch.cat([ids_BL[:, :1], rest_BL[:, 1:]], dim=1)
    rest_mask_BL = places_L < length_B1 - prefix_B1
    return Split(*_trimmed(prefix_BL, prefix_mask_BL, pad_id), *_trimmed(rest_BL, rest_mask_BL, pad_id))


def _trimmed(ids_BL: Tensor, mask_BL: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    longest = int(mask_BL.sum(1).max())
    return ids_BL.masked_fill(~mask_BL, pad_id)[:, :longest], mask_BL[:, :longest]
