"""Heat maps of whole models: `mplug.explain` for a picture's tokens and a text, as pipelines and servers have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mplug.captioning import CaptionModel
from mplug.explain import explain_match, explain_words
from mplug.heat_maps import Word
from mplug.reranking import RerankModel
from mplug.vqa import VqaModel


def explained_layers(model: object) -> int:
    """How many layers have a look at the picture that can be explained; 0: the model cannot be explained."""
    if isinstance(model, RerankModel):
        return len(model.fusion_encoder.layers)
    if isinstance(model, CaptionModel | VqaModel):
        return len(model.text_decoder.layers)
    return 0


def word_maps(
    model: CaptionModel | VqaModel,
    image_1ND: Tensor,
    ids: Sequence[int],
    words: Sequence[Word],
    *,
    question: Sequence[int] | None = None,
    layer: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Which cells of the picture speak for each word of a text; every word is a pass of its own.

    Args:
        model: whose text it is; in evaluation mode.
        image_1ND: image_tokens of the picture (1, N, D).
        ids: the text, from its starting token on.
        words: of the text, from `words_in`; the pieces of each are explained together.
        question: token ids, special ones included, where the text is an answer.
        layer: as for `explain_words`.

    Yields:
        (H, W) for each word, as of `explain_words`.

    Raises:
        ValueError: as `explain_words`.
    """
    ids_1L = torch.tensor([list(ids)], device=model.device)
    memory_1MD = _memory(model, image_1ND, question)
    for word in words:
        maps_WHW = explain_words(
            model.text_decoder,
            memory_1MD,
            ids_1L,
            image_tokens=image_1ND.shape[1],
            words=[word.tokens],
            layer=layer,
        )
        yield maps_WHW[0].cpu().numpy()


def match_map(
    model: RerankModel, image_1ND: Tensor, ids: Sequence[int], *, layer: int | None = None
) -> NDArray[np.float32]:
    """Which cells of the picture speak for a match with a text, (H, W); arguments and errors as in `explain_match`.

    Args:
        model: in evaluation mode.
        image_1ND: image_tokens of the picture (1, N, D).
        ids: the text, special tokens included.
        layer: of the fusion encoder.
    """
    ids_1L = torch.tensor([list(ids)], device=model.device)
    cells_HW: NDArray[np.float32] = explain_match(model, image_1ND, ids_1L, layer=layer).cpu().numpy()
    return cells_HW


@torch.no_grad()
def _memory(model: CaptionModel | VqaModel, image_1ND: Tensor, question: Sequence[int] | None) -> Tensor:
    """What the decoder attended to: the picture, and behind it an answer's question."""
    if isinstance(model, CaptionModel):
        return image_1ND
    assert question is not None, "answers have a question"
    ids_1L = torch.tensor([list(question)], device=model.device)
    memory_1MD, _ = model.decoder_memory(image_1ND, ids_1L, torch.ones_like(ids_1L, dtype=torch.bool))
    return memory_1MD
