"""The baseline that answers without looking: what the questions alone give away.

A model whose accuracy is not above this has learned the questions, not the pictures.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from mplug.evaluation.tokenization import Tokenization, tokenize
from mplug.evaluation.vqa import normalise

_Key = tuple[str, ...]


class QuestionOnly:
    """Answers with what training answered most often, by two rules.

    By the question: the most frequent answer to the same question; where training did not ask it, to the questions
    of its type that begin with the same words (as many as there are; Chinese characters count as words); then by type.
    By the type: the most frequent answer to questions of the type and language; then to all.
    Of equally frequent answers the first in the alphabet is taken.

    Neither rule is always the better one: where the same sentence was made true of one picture and false of another,
    the question says less than nothing of its answer.

    Args:
        questions: of the training rows.
        answers: of each, people's.
        types: of each question.

    Raises:
        ValueError: no rows, or none with an answer.
    """

    def __init__(
        self, questions: Sequence[str], answers: Sequence[Sequence[str]], types: Sequence[str]
    ) -> None:
        votes: defaultdict[_Key, Counter[str]] = defaultdict(Counter)
        for question, given, kind in zip(questions, answers, types, strict=True):
            counted = Counter(map(normalise, given))
            for key in _question_keys(question, kind):
                votes[key].update(counted)
        if not any(votes.values()):
            raise ValueError("the training rows hold no answers; the baseline needs some")
        self._best = {key: _most_frequent(counter) for key, counter in votes.items() if counter}

    def by_question(self, question: str, type: str) -> str:
        """The answer by the first rule, whatever the picture."""
        return self._first(_question_keys(question, type))

    def by_type(self, question: str, type: str) -> str:
        """The answer by the second rule."""
        return self._first(_type_keys(question, type))

    def guesses(self, questions: Sequence[str], types: Sequence[str]) -> tuple[list[str], list[str]]:
        """The answers by each rule, in the order of the questions; what `vqa.score` takes."""
        pairs = list(zip(questions, types, strict=True))
        return [self.by_question(*pair) for pair in pairs], [self.by_type(*pair) for pair in pairs]

    def _first(self, keys: Iterator[_Key]) -> str:
        return next(self._best[key] for key in keys if key in self._best)


def _question_keys(question: str, kind: str) -> Iterator[_Key]:
    """From the question itself to everything."""
    words = tokenize([question], Tokenization.CHARACTERS)[0]
    yield ("question", *words)
    for count in range(len(words), 0, -1):
        yield ("prefix", kind, *words[:count])
    yield from _type_keys(question, kind)


def _type_keys(question: str, kind: str) -> Iterator[_Key]:
    # A Chinese question is not answered in English.
    chinese = any("\u3400" <= character <= "\u9fff" for character in question)
    yield ("type", kind, "zh" if chinese else "en")
    yield ("all",)


def _most_frequent(votes: Counter[str]) -> str:
    return min(votes, key=lambda answer: (-votes[answer], answer))
