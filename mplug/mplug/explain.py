"""Where a decision looked: gradient-weighted cross-attention (Grad-CAM on attention, as ALBEF and mPLUG save it).

The map of a layer is its attention to the cells of the picture, times the positive part of the gradient that the
explained number has with respect to that attention, averaged over heads and added up over the text's rows. What is
explained is the logit of "matches" of a `RerankModel`, or the log-probability of a word of a `TextDecoder`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from mplug.fusion_encoder import FusionEncoder
from mplug.layers import Attention, CrossLayer
from mplug.reranking import RerankModel
from mplug.text_decoder import TextDecoder

M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", FusionEncoder, TextDecoder)


def explain_match(
    model: RerankModel,
    image_1ND: Tensor,
    ids_1L: Tensor,
    *,
    word: int | None = None,
    layer: int | None = None,
) -> Tensor:
    """Which cells of the picture speak for "matches".

    Args:
        model: in evaluation mode; not changed.
        image_1ND: image_tokens of one picture (1, N, D).
        ids_1L: int64 (1, L), the text without padding.
        word: place of a token in the text whose look alone is wanted; None = the whole text.
        layer: of the fusion encoder, asymmetric or connected; None = the middle one (ALBEF: the third of six). In the
            last, only [CLS] has a say.

    Returns:
        float32 (cells_h, cells_w), in [0, 1], 1 at the strongest cell; all 0 where nothing speaks for it.

    Raises:
        ValueError: not one pair, tokens that are no square of cells, or no such word or layer.
    """
    _check_one(image_1ND, ids_1L)
    _check_place("word", word, ids_1L.shape[1])

    def run(fusion: FusionEncoder) -> list[Tensor]:
        mask_1L = torch.ones_like(ids_1L, dtype=torch.bool)
        text_1LD = model.encode_text(ids_1L.clone(), mask_1L)
        _, fused_1LD = fusion(image_1ND.clone(), text_1LD, text_mask_BL=mask_1L)
        return [model.itm_head(fused_1LD[:, 0])[0, 1]]

    (look_QM,) = _looks(model.fusion_encoder, run, layer)
    tokens, length = image_1ND.shape[1], ids_1L.shape[1]
    # A connected layer has the picture's rows too, and the text's columns.
    look_LN = look_QM[-length:, :tokens]
    return _to_map(look_LN.sum(0) if word is None else look_LN[word])


def explain_words(
    decoder: TextDecoder,
    memory_1MD: Tensor,
    ids_1L: Tensor,
    *,
    image_tokens: int | None = None,
    words: Sequence[int | Sequence[int]] | None = None,
    layer: int | None = None,
) -> Tensor:
    """Which cells of the picture speak for each word of a generated text.

    Args:
        decoder: in evaluation mode; not changed.
        memory_1MD: what it attended to (1, M, memory_width), the picture first, no padding.
        ids_1L: int64 (1, L), [CLS], then what was generated.
        image_tokens: rows of the memory that are the picture; None = all of them, as in captions.
        words: places in `ids_1L`, from 1 on, or several of them for the pieces of one word, whose log-probabilities
            are added up; None = every token, in order.
        layer: of the decoder; None = the middle one.

    Returns:
        float32 (words, cells_h, cells_w), each map in [0, 1] as in `explain_match`.

    Raises:
        ValueError: not one pair, tokens that are no square of cells, or no such word or layer.
    """
    _check_one(memory_1MD, ids_1L)
    given = range(1, ids_1L.shape[1]) if words is None else words
    groups = [[each] if isinstance(each, int) else list(each) for each in given]
    for place in (place for group in groups for place in group):
        _check_place("word", place, ids_1L.shape[1], least=1)
    tokens = image_tokens or memory_1MD.shape[1]

    def run(watched: TextDecoder) -> list[Tensor]:
        logits_LV = watched(ids_1L[:, :-1].clone(), memory_1MD.clone())[0]
        log_probability_LV = logits_LV.float().log_softmax(-1)
        of_token_L = log_probability_LV.gather(1, ids_1L[0, 1:, None].clone())[:, 0]
        return [of_token_L[[place - 1 for place in group]].sum() for group in groups]

    looks = _looks(decoder, run, layer)
    return torch.stack([_to_map(look_LM[:, :tokens].sum(0)) for look_LM in looks])


class _WatchedAttention(nn.Module):
    """An attention module with its weights in the open, so that gradients can be had with respect to them."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.weights_BHLN: Tensor | None = None

    def forward(
        self, x_BLD: Tensor, *, memory_BND: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """As `Attention.forward`, without dropout."""
        attention, heads = self.attention, self.attention.num_heads
        memory = x_BLD if memory_BND is None else memory_BND
        q_BHLK, k_BHNK, v_BHNK = (
            projected.view(*projected.shape[:2], heads, -1).transpose(1, 2)
            for projected in (attention.query(x_BLD), attention.key(memory), attention.value(memory))
        )
        scores_BHLN = q_BHLK @ k_BHNK.transpose(2, 3) / math.sqrt(q_BHLK.shape[-1])
        if mask is not None:
            scores_BHLN = scores_BHLN.masked_fill(~mask, -torch.inf)
        # A leaf: what lies before it is of no interest to the gradient.
        self.weights_BHLN = scores_BHLN.softmax(-1).detach().requires_grad_()
        output_BLD: Tensor = attention.output((self.weights_BHLN @ v_BHNK).transpose(1, 2).flatten(2))
        return output_BLD


def _looks(stack: S, run: Callable[[S], list[Tensor]], layer: int | None) -> list[Tensor]:
    """For each number that `run` returns: attention times positive gradient, (rows, columns), mean of heads."""
    number = (len(stack.layers) - 1) // 2 if layer is None else layer
    _check_place("layer", number, len(stack.layers))
    # Callers serve in inference mode, where no gradient can be had; `run` copies the tensors that came from there.
    with torch.inference_mode(False), torch.enable_grad():
        watched, attention = _watch(stack, number)
        explained = run(watched)
        weights = attention.weights_BHLN
        assert weights is not None, "the layer has run"
        gradients = [torch.autograd.grad(value, weights, retain_graph=True)[0] for value in explained]
        return [(weights * gradient.clamp(min=0))[0].mean(0).detach().float() for gradient in gradients]


def _watch(stack: S, number: int) -> tuple[S, _WatchedAttention]:
    """A stack with the same parameters, in which one layer's attention to the picture is watched."""
    layer = _shallow(stack.layers[number])
    name = "cross_attention" if isinstance(layer, CrossLayer) else "attention"
    attention = layer.get_submodule(name)
    assert isinstance(attention, Attention)
    watched = _WatchedAttention(attention)
    setattr(layer, name, watched)
    twin = _shallow(stack)
    twin.layers = nn.ModuleList(layer if i == number else other for i, other in enumerate(stack.layers))
    return twin, watched


def _shallow(module: M) -> M:
    # Its own list of children; the children and all parameters are shared, so the original stays as it is.
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _to_map(look_N: Tensor) -> Tensor:
    side = math.isqrt(max(len(look_N) - 1, 0))
    # One token, or a few, stand for the whole picture; towers with registers have at most four of them besides.
    if side == 0 or not 1 <= len(look_N) - side * side <= 5:
        raise ValueError(f"{len(look_N)} image_tokens are no token for the picture and a square of cells")
    cells_HW = look_N[-side * side :].view(side, side)
    most = cells_HW.max()
    return cells_HW / most if most > 0 else torch.zeros_like(cells_HW)


def _check_one(memory: Tensor, ids: Tensor) -> None:
    if len(memory) != 1 or ids.ndim != 2 or len(ids) != 1:
        raise ValueError(
            f"one picture and one text are explained at a time, not {len(memory)} and {len(ids)}"
        )


def _check_place(what: str, place: int | None, count: int, *, least: int = 0) -> None:
    if place is not None and not least <= place < count:
        raise ValueError(f"{what} is {place}; there are those from {least} to {count - 1}")
