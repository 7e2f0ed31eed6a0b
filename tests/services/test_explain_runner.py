"""The runner of explanations: a quantum for each word, no more than is wanted, bfloat16, and who is not explained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from golden.mplug_cases import some_pixels, tiny
from mplug.captioning import CaptionModel
from mplug.heat_maps import Explain, words_in
from mplug.model_maps import explained_layers, word_maps
from mplug.reranking import RerankModel
from mplug.vqa import VqaModel
from mplug_api.v1.caption_service_pb2 import CaptionRequest
from mplug_api.v1.explanation_pb2 import ExplainOptions
from mplug_services.errors import ServiceError
from mplug_services.explain_work import ExplainMatch, ExplainWords
from mplug_services.runners.explain import ExplainRunner
from mplug_services.runners.models import describe
from mplug_services.wire_explanation import read_explain
from services.rerank_servers import make_rerank_model
from services.serving import build_model

IDS = (101, 9, 11, 12, 102)


def item(model: CaptionModel | VqaModel, task: str = "caption", layer: int | None = None) -> ExplainWords:
    question = np.array([101, 9, 10, 102]) if task == "vqa" else None
    words = tuple(words_in(IDS, model.tokenizer))
    pixels = some_pixels(1)[0].numpy()
    return ExplainWords(pixels=pixels, task=task, question=question, ids=IDS, words=words, layer=layer)


def test_each_word_is_a_quantum_of_its_own() -> None:
    model, delivered = tiny(CaptionModel), dict[int, object]()
    runner = ExplainRunner({"caption": model})
    with torch.inference_mode():
        steps = runner.run([item(model)], delivered.__setitem__, lambda _: True)
        quanta = [bool(delivered) for _ in steps]
    assert quanta == [False, False, False, True], "the picture, and three words"
    maps = delivered[0]
    assert isinstance(maps, list)
    assert [each.shape for each in maps] == [(2, 2)] * 3


@pytest.mark.parametrize("left_at", [1, 2, 3])
def test_who_has_left_gets_no_further_word(left_at: int) -> None:
    model, delivered, asked = tiny(CaptionModel), dict[int, object](), 0

    def alive(_: int) -> bool:
        nonlocal asked
        asked += 1
        return asked < left_at

    with torch.inference_mode():
        quanta = sum(
            1 for _ in ExplainRunner({"caption": model}).run([item(model)], delivered.__setitem__, alive)
        )
    assert (quanta, delivered) == (left_at, {})


def test_one_that_fails_harms_no_neighbour() -> None:
    model, delivered = tiny(VqaModel), dict[int, object]()
    bad = item(model, "vqa", layer=9)
    with torch.inference_mode():
        runner = ExplainRunner({"vqa": model})
        for _ in runner.run([bad, item(model, "vqa")], delivered.__setitem__, lambda _: True):
            pass
    assert isinstance(delivered[0], ValueError)
    assert isinstance(delivered[1], list)


@pytest.mark.parametrize(("kind", "task"), [(CaptionModel, "caption"), (VqaModel, "vqa")])
def test_words_in_bfloat16_are_nearly_those_in_float32(
    kind: type[CaptionModel] | type[VqaModel], task: str
) -> None:
    maps = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny(kind).to(dtype)
        delivered = dict[int, object]()
        with torch.inference_mode():
            for _ in ExplainRunner({task: model}).run(
                [item(model, task)], delivered.__setitem__, lambda _: True
            ):
                pass
        maps.append(np.stack(delivered[0]))  # type: ignore[call-overload]  # a list of maps
    assert maps[1].dtype == np.float32
    assert maps[1].max() == 1
    np.testing.assert_allclose(maps[1], maps[0], atol=0.1)


def test_a_match_in_bfloat16_is_nearly_the_one_in_float32() -> None:
    maps: list[Any] = []  # Any: arrays
    for dtype in (torch.float32, torch.bfloat16):
        model = make_rerank_model().to(dtype)
        with torch.inference_mode():
            tokens = model.encode_image(some_pixels(1))[0].float().numpy()
            match = ExplainMatch(ids=np.array([101, 9, 10, 102]), tokens=tokens, layer=None)
            delivered = dict[int, object]()
            for _ in ExplainRunner({"rerank": model}).run([match], delivered.__setitem__, lambda _: True):
                pass
        maps.append(delivered[0])
    np.testing.assert_allclose(maps[1], maps[0], atol=0.1)


def test_which_models_can_be_explained() -> None:
    rerank = make_rerank_model()
    assert isinstance(rerank, RerankModel)
    assert explained_layers(rerank) == 4
    assert explained_layers(tiny(CaptionModel)) == len(tiny(CaptionModel).text_decoder.layers)
    assert explained_layers(build_model()) == 0


def test_maps_of_words_are_the_same_apart_and_together() -> None:
    model = tiny(CaptionModel)
    image = model.encode_image(some_pixels(1))
    words = words_in(IDS, model.tokenizer)
    together = list(word_maps(model, image, IDS, words))
    joined = replace(words[0], tokens=(1, 2))
    apart = [next(word_maps(model, image, IDS, [word])) for word in words]
    np.testing.assert_array_equal(together, apart)
    assert not np.array_equal(next(word_maps(model, image, IDS, [joined])), apart[0])


def test_a_model_that_cannot_be_explained_is_a_failed_precondition() -> None:
    served = describe("caption", tiny(CaptionModel))
    request = CaptionRequest(explain=ExplainOptions())
    assert read_explain(request, 1, "images", served, 16) == Explain(None)
    with pytest.raises(ServiceError, match="has no layer whose looks can be read") as failed:
        read_explain(request, 1, "images", replace(served, explained_layers=0), 16)
    assert failed.value.failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert read_explain(CaptionRequest(), 99, "images", replace(served, explained_layers=0), 16) is None
