"""Heat maps of what a model on this machine wrote or judged, for pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mplug.captioning import CaptionModel
from mplug.errors import MplugError
from mplug.heat_maps import Explain, HeatMap, Word, words_in
from mplug.images import decode_image
from mplug.model_maps import explained_layers, match_map, word_maps
from mplug.overlay import draw_overlays
from mplug.pipelines import Input, Outcome
from mplug.preprocess import to_pixels
from mplug.reranking import RerankModel
from mplug.vqa import VqaModel


def add_heat_maps(
    model: object, inputs: Sequence[Input], outcomes: Sequence[Outcome], explain: Explain
) -> list[Outcome]:
    """Explain the outcomes that are no errors: each word of the best text or answer, or the match.

    Args:
        model: that they come from.
        inputs: what it was given.
        outcomes: what it made of them, in the same order.
        explain: what is wanted.

    Raises:
        MplugError: the model cannot be explained, or has no such layer.
    """
    layers = explained_layers(model)
    if not isinstance(model, CaptionModel | VqaModel | RerankModel):
        raise MplugError(f"a {type(model).__name__} is not explained; mPLUG's own models are")
    if explain.layer is not None and not 0 <= explain.layer < layers:
        raise MplugError(f"{explain.layer} is no layer of {model.name}; it has those from 0 to {layers - 1}")
    return [
        outcome
        if outcome.error is not None
        else replace(outcome, heat_maps=_heat_maps(model, item, outcome, explain))
        for item, outcome in zip(inputs, outcomes, strict=True)
    ]


def _heat_maps(
    model: CaptionModel | VqaModel | RerankModel, item: Input, outcome: Outcome, explain: Explain
) -> tuple[HeatMap, ...]:
    pixels = to_pixels(decode_image(item.image), model.preprocess.image_size)
    with torch.inference_mode():
        image_1ND = model.encode_image(torch.from_numpy(pixels)[None].to(model.device))
        if isinstance(model, RerankModel):
            ids = model.tokenizer.encode(item.text).ids.tolist()
            words, maps = [Word("", ())], [match_map(model, image_1ND, ids, layer=explain.layer)]
        else:
            words, maps = _word_maps(model, image_1ND, item, outcome, explain)
    return tuple(
        HeatMap(word.text, word.tokens, cells_HW, overlay)
        for word, cells_HW, overlay in zip(words, maps, draw_overlays(item.image, maps), strict=True)
    )


def _word_maps(
    model: CaptionModel | VqaModel, image_1ND: Tensor, item: Input, outcome: Outcome, explain: Explain
) -> tuple[list[Word], list[NDArray[np.float32]]]:
    tokenizer = model.tokenizer
    if outcome.ranked:
        ids = [model.text_decoder.config.bos_id, *tokenizer.encode(outcome.ranked[0].text).ids[1:].tolist()]
    else:
        ids = list(outcome.texts[0].token_ids)
    question = tokenizer.encode(item.text).ids.tolist() if isinstance(model, VqaModel) else None
    words = words_in(ids, tokenizer)
    return words, list(word_maps(model, image_1ND, ids, words, question=question, layer=explain.layer))
