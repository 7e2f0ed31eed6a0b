"""Runs a pipeline's task with a model on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mplug.captioning import CaptionModel
from mplug.errors import ConfigError, MplugError
from mplug.generation import GenerationConfig, Hypothesis, generate, rank_answers
from mplug.images import decode_image
from mplug.itm_scoring import ItmScorer
from mplug.loading import load
from mplug.pipelines import Generated, Input, Outcome, Ranked
from mplug.preprocess import to_pixels
from mplug.reranking import RerankModel
from mplug.text.tokenizer import pad
from mplug.text_decoder import DecoderState
from mplug.vqa import VqaModel


class LocalRunner:
    """A model on this machine, as a `mplug.pipelines.Runner`.

    Args:
        task: `caption`, `vqa` or `rerank`.
        source: as for `mplug.load`.
        device: likewise.
        dtype: likewise.
        generation: changes to the checkpoint's own settings.

    Raises:
        CheckpointError: nothing loadable there.
        MplugError: an unknown or impossible setting.
    """

    def __init__(
        self, task: str, source: str | Path, *, device: str, dtype: str, generation: Mapping[str, Any]
    ) -> None:
        known = cast(Literal["caption", "vqa", "rerank"], task)
        self._model: CaptionModel | VqaModel | RerankModel = load(
            source, task=known, device=device, dtype=dtype
        )
        self._config = generation_config(self._model, generation)

    @property
    def model_name(self) -> str:
        """The configuration's name."""
        return self._model.name

    def run(self, inputs: Sequence[Input]) -> list[Outcome]:
        """One outcome for each item, in order; all that are good run together."""
        return self._each(inputs, self._run)

    def rank(self, inputs: Sequence[Input], answers: Sequence[str], k: int = 128) -> list[Outcome]:
        """Order a list of answers for each question; errors of the list as in `answer_ids`."""
        model = self._model
        if not isinstance(model, VqaModel):
            raise MplugError("answers are ranked by a model for visual-question-answering")
        ids = answer_ids(model, answers)

        def run(images_B3RR: Tensor, questions: Sequence[str]) -> list[Outcome]:
            with torch.inference_mode():
                start = _Starts(model, images_B3RR, questions)
                found = rank_answers(model.text_decoder, start, ids, num_items=len(questions), k=k)
            return [
                Outcome(ranked=tuple(Ranked(one.index, answers[one.index], one.probability) for one in item))
                for item in found
            ]

        return self._each(inputs, run)

    def close(self) -> None:
        """Nothing to let go of."""

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
            case CaptionModel():
                found = self._model.caption(images_B3RR, self._config, prompts=texts)
                return [
                    Outcome(tuple(_generated(each.text, each.hypothesis) for each in item)) for item in found
                ]
            case VqaModel():
                answers = answer(self._model, images_B3RR, texts, self._config)
                decode = self._model.tokenizer.decode
                return [
                    Outcome(tuple(_generated(decode(each.ids), each) for each in item)) for item in answers
                ]
            case _:
                return [Outcome(match_probability=p) for p in match(self._model, images_B3RR, texts)]

    def _check(self, text: str) -> None:
        if isinstance(self._model, CaptionModel):
            tokens = self._model.tokenizer.encode(text)
            if tokens.truncated:
                most = self._model.tokenizer.max_length - 2
                raise MplugError(f"the prompt is longer than the {most} tokens that the model reads")
            longest = len(tokens.ids) - 1 + self._config.max_length - 1
            positions = self._model.text_decoder.max_positions
            if longest > positions:
                raise MplugError(
                    f"the caption may grow to {longest} tokens, prompt included, and the decoder has {positions} "
                    "positions: give a shorter prompt or lower max_length"
                )
        elif not text.strip():
            raise MplugError("the text is empty; give a question, or what the picture is said to show")


def generation_config(
    model: CaptionModel | VqaModel | RerankModel, changes: Mapping[str, Any]
) -> GenerationConfig:
    """The checkpoint's own settings, with changes; what is not given gives way to what is.

    Raises:
        ConfigError: an unknown or impossible setting.
    """
    own = model.config.generation
    longest = changes.get("max_length", own.max_length)
    settings = {
        "min_length": max(0, min(own.min_length, longest)),
        "max_length": longest,
        "beam_size": own.beam_size,
    }
    try:
        return GenerationConfig(**{**settings, **changes})
    except TypeError as error:
        known = ", ".join(GenerationConfig.__dataclass_fields__)
        raise ConfigError(
            f"unknown among {', '.join(changes)}; settings of generation are {known}"
        ) from error


def answer(
    model: VqaModel, images_B3RR: Tensor, questions: Sequence[str], config: GenerationConfig
) -> list[tuple[Hypothesis, ...]]:
    """Answer a question about each of B pictures, uint8 (B, 3, R, R); too long questions keep their beginning."""
    prompts = [[model.text_decoder.config.bos_id]] * len(questions)
    return generate(model.text_decoder, _Starts(model, images_B3RR, questions), prompts, config)


def answer_ids(model: VqaModel, answers: Sequence[str]) -> list[list[int]]:
    """Answers to choose from as the decoder reads them, from its starting token to [SEP].

    Raises:
        MplugError: none, or one that is longer than the model reads.
    """
    if not answers:
        raise MplugError("there are no answers to rank; give at least one")
    bos_id, positions = model.text_decoder.config.bos_id, model.text_decoder.max_positions
    ids = []
    for text, tokens in zip(answers, model.tokenizer.encode_batch(answers), strict=True):
        if tokens.truncated or len(tokens.ids) > positions:
            raise MplugError(f"the answer {text!r} is longer than the model reads")
        ids.append([bos_id, *tokens.ids[1:].tolist()])
    return ids


class _Starts:
    """Opens states for some of the questions; both halves are encoded with them, alone where decoded alone."""

    def __init__(self, model: VqaModel, images_B3RR: Tensor, questions: Sequence[str]) -> None:
        self._model = model
        self._images_B3RR = images_B3RR
        self._tokens = model.tokenizer.encode_batch(questions)

    def __call__(self, items: Sequence[int]) -> DecoderState:
        model, rows = self._model, list(items)
        ids_BL, mask_BL = (
            torch.from_numpy(array).to(model.device)
            for array in pad([self._tokens[row] for row in rows], model.tokenizer.pad_id)
        )
        return model.start_decoding(model.encode_image(self._images_B3RR[rows]), ids_BL, mask_BL)


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


def _generated(text: str, hypothesis: Hypothesis) -> Generated:
    return Generated(text, hypothesis.score, hypothesis.ids)
