"""What a model writes about an evaluation's pictures, for a metric that is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mplug.captioning import Captioner
from mplug.generation import GenerationConfig
from mplug.vqa import VqaModel

Score = Callable[[Mapping[str, str]], Mapping[str, float]]
"""Texts by key to metrics by name."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationBatch:
    """B pictures to write about."""

    pixels: Tensor
    """uint8 (B, 3, R, R), squashed and not augmented."""
    keys: Sequence[str]
    """By which the metric finds the references; each once in an evaluation."""
    questions: Sequence[str] = ()
    """B of them, where answers are asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionEvaluator:
    """Captions all pictures and has the captions scored."""

    batches: Callable[[], Iterable[EvaluationBatch]]
    score: Score
    generation: GenerationConfig | None = None
    """None = the checkpoint's own settings."""
    prompt: str = ""

    def __call__(self, model: Captioner) -> Mapping[str, float]:
        """Metrics by name."""
        return self.score(self.texts(model))

    def texts(self, model: Captioner) -> dict[str, str]:
        """The best caption of each picture, by key."""
        written: dict[str, str] = {}
        for batch in self.batches():
            pixels, prompts = batch.pixels.to(model.device), [self.prompt] * len(batch.keys)
            captions = model.caption(pixels, self.generation, prompts=prompts)
            written |= {key: best.text for key, (best, *_) in zip(batch.keys, captions, strict=True)}
        return written


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerEvaluator:
    """Answers all questions, in words of the model's own or from a list, and has the answers scored."""

    batches: Callable[[], Iterable[EvaluationBatch]]
    score: Score
    choices: tuple[str, ...] = ()
    """Answers to choose from by their likelihood; empty = the model generates, as the reference does."""
    generation: GenerationConfig | None = None
    """None = the checkpoint's own settings."""
    k: int = 128
    """Choices that are scored in full (X-PLUG's `k_test`)."""

    def __call__(self, model: VqaModel) -> Mapping[str, float]:
        """Metrics by name."""
        return self.score(self.texts(model))

    def texts(self, model: VqaModel) -> dict[str, str]:
        """The best answer to each question, by key."""
        written: dict[str, str] = {}
        for batch in self.batches():
            best = self._ranked(model, batch) if self.choices else self._generated(model, batch)
            written |= dict(zip(batch.keys, best, strict=True))
        return written

    def _generated(self, model: VqaModel, batch: EvaluationBatch) -> list[str]:
        answers = model.answer(batch.pixels.to(model.device), batch.questions, self.generation)
        return [best.text for best, *_ in answers]

    def _ranked(self, model: VqaModel, batch: EvaluationBatch) -> list[str]:
        ranked = model.rank(batch.pixels.to(model.device), batch.questions, self.choices, self.k)
        return [self.choices[best.index] for best, *_ in ranked]
