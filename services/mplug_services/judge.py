"""From texts to what a model finds of them: room in the queue, the model; an outcome for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mplug.text.pairs import Text
from mplug.text_classifier import Classified, Filled, Tagged
from mplug_services.engine_seam import WorkQueue
from mplug_services.errors import failed_precondition
from mplug_services.room import Room, StageSeconds, stage_seconds
from mplug_services.served_model import ServedModel
from mplug_services.text_work import (
    FillMasks,
    GivenLabels,
    JudgeText,
    KnownQuestions,
    Mode,
    OwnLabels,
    OwnSpans,
)
from mplug_services.work import WorkResult

JUDGE_PATIENCE = 3.0
"""Seconds: somebody waits, as for a vector."""

_NEEDED = {
    OwnLabels: "a model with labels of its own",
    OwnSpans: "a model that tags words",
    GivenLabels: "an entailment model, whose labels are entailment, neutral and contradiction",
    KnownQuestions: "a model of questions whose answers are known (FAQ)",
    FillMasks: "a masked language model",
}


@dataclass(frozen=True, slots=True, eq=False)
class JudgeOutcome:
    """What became of one text."""

    found: Classified | Tagged | Filled | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True, eq=False)
class JudgeBatch:
    """Outcomes in the order of the texts."""

    outcomes: list[JudgeOutcome]
    seconds: StageSeconds


class Judge:
    """Judges texts.

    Args:
        model: a loaded model that does.
        engine: runs the work.
    """

    def __init__(self, model: ServedModel, engine: WorkQueue) -> None:
        self.model = model
        self._engine = engine

    async def judge(self, texts: Sequence[Text], mode: Mode, *, deadline: float | None = None) -> JudgeBatch:
        """Judge several texts or pairs.

        Args:
            texts: what is judged.
            mode: how.
            deadline: `time.monotonic()` after which nobody waits any more; None: no such time.

        Raises:
            ServiceError: the model cannot judge so.
            WorkError: the whole batch was refused, or its deadline passed. Cancellation ends its work.
        """
        self._check(mode)
        if not texts:
            return JudgeBatch([], StageSeconds())
        items = [
            JudgeText(
                task=self.model.task,
                text=text,
                mode=mode,
                tokens=self._tokens(text),
                deadline=deadline,
                patience=JUDGE_PATIENCE,
            )
            for text in texts
        ]
        async with Room(self._engine, len(items)) as room:
            results = await room.run(items)
        return JudgeBatch([_outcome(each) for each in results], stage_seconds(0.0, results))

    def _check(self, mode: Mode) -> None:
        if type(mode) not in self.model.modes:
            raise failed_precondition(
                "MODEL_OF_OTHER_TASK", f"{self.model.name} cannot do that; it needs {_NEEDED[type(mode)]}"
            )

    def _tokens(self, text: Text) -> int:
        """About how many the model reads: a character is one in Chinese, and part of one elsewhere."""
        length = sum(map(len, (text,) if isinstance(text, str) else text))
        return max(1, min(length, self.model.tokenizer.max_length))


def _outcome(result: WorkResult | Exception) -> JudgeOutcome:
    if isinstance(result, Exception):
        return JudgeOutcome(error=result)
    found = result.value
    assert isinstance(found, Classified | Tagged | Filled), found
    return JudgeOutcome(found)
