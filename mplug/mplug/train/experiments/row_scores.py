"""How good what a model writes about a user's rows is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mplug.evaluation import captions, vqa
from mplug.evaluation.question_only import QuestionOnly
from mplug.text.tokenizer import DecodingTokenizer
from mplug.train.experiments.evaluators import Score
from mplug.train.readers.example import Example


class Asked(NamedTuple):
    """What is kept of a row: not its picture, which may be in memory."""

    question: str
    given: list[str]
    kind: str


def asked(rows: Iterable[Example]) -> list[Asked]:
    """The questions of rows with people's answers, one of each person."""
    return [Asked(row.question, _given(row), row.kind) for row in rows]


def answer_score(trained: Sequence[Asked], questions: Mapping[str, Asked]) -> Score:
    """VQA accuracy beside the question-only baseline.

    Args:
        trained: what the baseline learns from.
        questions: by key.
    """
    baseline = QuestionOnly(
        [each.question for each in trained], [each.given for each in trained], [each.kind for each in trained]
    )

    def score(written: Mapping[str, str]) -> Mapping[str, float]:
        answered = [questions[key] for key in written]
        types = [each.kind for each in answered]
        guesses = baseline.guesses([each.question for each in answered], types)
        return vqa.score(list(written.values()), guesses, [each.given for each in answered], types).metrics()

    return score


def caption_score(references: Mapping[str, Sequence[str]], language: str, prompt: str) -> Score:
    """CIDEr and the metrics beside it.

    Args:
        references: people's captions by picture.
        language: `en` or `zh`.
        prompt: as the model writes it (`as_written`): what a caption begins with does not count.
    """

    def score(written: Mapping[str, str]) -> Mapping[str, float]:
        spoken = {key: without_prompt(text, prompt) for key, text in written.items()}
        # Without Java wherever the run is: checkpoints of a run that moves to another machine stay comparable.
        return captions.score(spoken, references, language, java=False).metrics()

    return score


def as_written(tokenizer: DecodingTokenizer, text: str) -> str:
    """A text as the model writes it."""
    return tokenizer.decode(tokenizer.encode(text).ids.tolist())


def without_prompt(text: str, prompt: str) -> str:
    """What follows a prompt."""
    return text.removeprefix(prompt).strip()


def language_of(rows: Iterable[Example]) -> str:
    """`en` where any row has an English caption, else `zh`."""
    return "en" if any(row.captions for row in rows) else "zh"


def _given(row: Example) -> list[str]:
    return [answer.text for answer in row.answers for _ in range(answer.votes)]
