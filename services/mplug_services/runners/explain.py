"""Explanations: the picture in one quantum, then one for each word or decision, so that searches overtake them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mplug.captioning import CaptionModel
from mplug.model_maps import match_map, word_maps
from mplug.reranking import RerankModel
from mplug.vqa import VqaModel
from mplug_services.explain_work import ExplainMatch, ExplainWords
from mplug_services.runners.runner import Alive, Deliver
from mplug_services.work import WorkItem, WorkKind

logger = logging.getLogger(__name__)


class ExplainRunner:
    """Gives the maps of what its models have written or judged.

    Args:
        models: by task, those that can be explained (`mplug.model_maps.explained_layers`).
    """

    kind = WorkKind.EXPLAIN

    def __init__(self, models: Mapping[str, object]) -> None:
        self._models = models

    def run(self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive) -> Iterator[None]:
        """Quanta of items, one after the other; see `Runner`."""
        for place, item in enumerate(items):
            try:
                if isinstance(item, ExplainWords):
                    yield from self._words(place, item, deliver, alive)
                elif isinstance(item, ExplainMatch):
                    deliver(place, self._match(item))
                    yield
            except Exception as error:
                logger.error("an explanation failed", exc_info=True)
                deliver(place, error)

    def warm_up(self) -> list[list[WorkItem]]:
        """Nothing: explanations are rare, and nobody waits for the first as for a search."""
        return []

    def _words(self, place: int, item: ExplainWords, deliver: Deliver, alive: Alive) -> Iterator[None]:
        model = self._models[item.task]
        assert isinstance(model, CaptionModel | VqaModel), item.task
        image_1ND = model.encode_image(torch.from_numpy(item.pixels)[None].to(model.device))
        yield
        question = None if item.question is None else item.question.tolist()
        steps = word_maps(model, image_1ND, item.ids, item.words, question=question, layer=item.layer)
        maps: list[NDArray[np.float32]] = []
        while len(maps) < len(item.words) and alive(place):
            maps.append(next(steps))
            if len(maps) == len(item.words):
                deliver(place, maps)
            yield

    def _match(self, item: ExplainMatch) -> object:
        model = self._models["rerank"]
        assert isinstance(model, RerankModel)
        image_1ND = torch.from_numpy(item.tokens)[None].to(model.device, model.dtype)
        return match_map(model, image_1ND, item.ids.tolist(), layer=item.layer)
