"""Runs a pipeline's task with a model on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mplug.captioning import Caption, Captioner
from mplug.errors import MplugError
from mplug.freezing import freeze
from mplug.generation import GenerationConfig, RankedAnswer
from mplug.heat_maps import Explain
from mplug.images import decode_image
from mplug.itm_scoring import ItmScorer
from mplug.loading import load
from mplug.local_explain import add_heat_maps
from mplug.pipelines import Generated, Input, Outcome, Ranked
from mplug.preprocess import to_pixels
from mplug.reranking import RerankModel
from mplug.vqa import Answer, VqaModel


class LocalRunner:
    """A model on this machine, as a `mplug.pipelines.Runner`.

    Args:
        task: `caption`, `vqa` or `rerank`.
        source: as for `mplug.load`.
        device: likewise.
        dtype: likewise.
        image_size: likewise.
        generation: changes to the checkpoint's own settings.

    Raises:
        CheckpointError: nothing loadable there.
        MplugError: an unknown or impossible setting, or an image size that the model cannot take.
    """

    def __init__(
        self,
        task: str,
        source: str | Path,
        *,
        device: str,
        dtype: str,
        image_size: int | None,
        generation: Mapping[str, Any],
    ) -> None:
        known = cast(Literal["caption", "vqa", "rerank"], task)
        self._model: Captioner | VqaModel | RerankModel = freeze(
            load(source, task=known, device=device, dtype=dtype, image_size=image_size)
        )
        self._config = GenerationConfig()  # of a reranker, which generates nothing
        if not isinstance(self._model, RerankModel):
            self._config = self._model.generation_config(**generation)

    @property
    def model_name(self) -> str:
        """The configuration's name."""
        return self._model.name

    def run(self, inputs: Sequence[Input], *, explain: Explain | None = None) -> list[Outcome]:
        """One outcome for each item, in order; all that are good run together. Errors as in `add_heat_maps`."""
        return self._explained(inputs, self._each(inputs, self._run), explain)

    def rank(
        self,
        inputs: Sequence[Input],
        answers: Sequence[str],
        k: int = 128,
        *,
        explain: Explain | None = None,
    ) -> list[Outcome]:
        """Order a list of answers for each question; errors as in `VqaModel.rank` and `add_heat_maps`."""
        model = self._model
        if not isinstance(model, VqaModel):
            raise MplugError("answers are ranked by a model for visual-question-answering")
        model.answer_ids(answers)  # a bad answer is the call's mistake, whatever becomes of its pictures

        def run(images_B3RR: Tensor, questions: Sequence[str]) -> list[Outcome]:
            with torch.inference_mode():
                found = model.rank(images_B3RR, questions, answers, k)
            return [_ranking(item, answers) for item in found]

        return self._explained(inputs, self._each(inputs, run), explain)

    def close(self) -> None:
        """Nothing to let go of."""

    def _explained(
        self, inputs: Sequence[Input], outcomes: list[Outcome], explain: Explain | None
    ) -> list[Outcome]:
        return outcomes if explain is None else add_heat_maps(self._model, inputs, outcomes, explain)

    def _each(
        self, inputs: Sequence[Input], run: Callable[[Tensor, Sequence[str]], list[Outcome]]
    ) -> list[Outcome]:
        size = self._model.preprocess.image_size
        pixels: dict[int, NDArray[np.uint8]] = {}
        outcomes: dict[int, Outcome] = {}
        for index, item in enumerate(inputs):
            try:
                self._check(item.text)
                pixels[index] = to_pixels(decode_image(item.image), size)
            except MplugError as error:
                outcomes[index] = Outcome(error=error)
        if pixels:
            images_B3RR = torch.from_numpy(np.stack(list(pixels.values()))).to(self._model.device)
            texts = [inputs[index].text for index in pixels]
            outcomes.update(zip(pixels, run(images_B3RR, texts), strict=True))
        return [outcomes[index] for index in range(len(inputs))]

    @torch.inference_mode()
    def _run(self, images_B3RR: Tensor, texts: Sequence[str]) -> list[Outcome]:
        match self._model:
            case Captioner():
                found = self._model.caption(images_B3RR, self._config, prompts=texts)
                return list(map(_texts, found))
            case VqaModel():
                answers = self._model.answer(images_B3RR, texts, self._config)
                return list(map(_texts, answers))
            case _:
                return list(map(_match, match(self._model, images_B3RR, texts)))

    def _check(self, text: str) -> None:
        if isinstance(self._model, Captioner):
            prompt = len(self._model.prompt_ids(text))
            self._model.decoder_facts.check_length(prompt, self._config.max_length)
        elif not text.strip():
            raise MplugError("the text is empty; give a question, or what the picture is said to show")


def match(model: RerankModel, images_B3RR: Tensor, texts: Sequence[str]) -> list[float]:
    """Probability that each of B pictures matches its text."""
    image_BND = model.encode_image(images_B3RR)
    scorer = ItmScorer(model)
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows_of.setdefault(text, []).append(row)
    scores = [0.0] * len(texts)
    for text, rows in rows_of.items():
        ids_1L = torch.from_numpy(model.tokenizer.encode(text).ids)[None].to(model.device)
        for row, score in zip(rows, scorer.score(ids_1L, image_BND[rows]).tolist(), strict=True):
            scores[row] = score
    return scores


def _texts(found: Sequence[Caption | Answer]) -> Outcome:
    made = [Generated(each.text, each.hypothesis.score, each.hypothesis.ids) for each in found]
    return _finite(Outcome(tuple(made)), [each.score for each in made])


def _ranking(found: Sequence[RankedAnswer], answers: Sequence[str]) -> Outcome:
    ranked = [Ranked(each.index, answers[each.index], each.probability) for each in found]
    return _finite(Outcome(ranked=tuple(ranked)), [each.probability for each in ranked])


def _match(probability: float) -> Outcome:
    return _finite(Outcome(match_probability=probability), [probability])


def _finite(outcome: Outcome, numbers: Sequence[float]) -> Outcome:
    if all(map(math.isfinite, numbers)):
        return outcome
    return Outcome(
        error=FloatingPointError("the model gave NaN or infinity for this item; are its weights whole?")
    )
