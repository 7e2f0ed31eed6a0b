"""VQA accuracy as the VQA challenge counts it, by type of question.

The rules are those of the challenge's own evaluation (GT-Vision-Lab/VQA, PythonEvaluationTools, `vqaEval.py`), with two
differences. People's answers are normalised as the model's is: the challenge's script expects them normalised in its
files, and leaves those that all ten gave alike as they are, so that "t-shirt" can never be right. And where fewer than
ten people answered, which the challenge does not know, k of n who agree count as 10 k / n of ten: of five people's
answers each counts twice, a single known answer is ten people's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VOTES = 10
"""People who answered each question of VQA v2."""
AGREEING = 3
"""An answer that three others gave is wholly right."""

_DIGIT_WORDS = "zero one two three four five six seven eight nine ten"
NUMBER_WORDS: Mapping[str, str] = {
    "none": "0",
    **{word: str(number) for number, word in enumerate(_DIGIT_WORDS.split())},
}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Taken out where it stands at a space, or where the answer has a number like 1,000; otherwise made a space."""

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _missing_apostrophe(word: str) -> list[str]:
    """The word written with one of its apostrophes left out."""
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


CONTRACTIONS: Mapping[str, str] = {
    wrong: word for word in _CONTRACTED.split() for wrong in _missing_apostrophe(word)
} | {"somebody'd": "somebodyd"}
"""The challenge's table: what lacks one apostrophe gets it; its one odd entry is kept."""

_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_BETWEEN_CHINESE = re.compile(r"(?<=[\u3400-\u9fff])\s+|\s+(?=[\u3400-\u9fff])")
_CHINESE_PUNCTUATION = str.maketrans("", "", "。，！？、；：")


def normalise(answer: str) -> str:
    """An answer as answers are compared.

    Chinese, which the challenge does not know, loses its punctuation and the spaces that a tokenizer puts between
    characters.
    """
    text = _without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    plain = " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
    return _BETWEEN_CHINESE.sub("", plain.translate(_CHINESE_PUNCTUATION))


def _without_punctuation(text: str) -> str:
    has_number = _NUMBER_WITH_COMMA.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        at_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if at_space or has_number else " ")
    return _FULL_STOP.sub("", out)


def accuracy(answer: str, given: Sequence[str]) -> float:
    """How right an answer is, from 0 to 1.

    Args:
        answer: the model's.
        given: people's, one of each; at least one. The mean, over all ways of leaving one person out, of
            min(number of others who gave this answer / 3, 1), fewer than ten people counted as if they were ten.
    """
    normal = normalise(answer)
    people = max(VOTES, len(given))
    same = sum(normalise(each) == normal for each in given) * people / len(given)
    if not same:
        return 0.0
    left_out = same * min((same - 1) / AGREEING, 1.0) + (people - same) * min(same / AGREEING, 1.0)
    return left_out / people


@dataclass(frozen=True, slots=True)
class TypeScore:
    """One type of question, in percent."""

    accuracy: float
    question_only: float
    """What answering without the picture comes to, by the better rule (`question_only.QuestionOnly`)."""
    count: int

    @property
    def gain(self) -> float:
        """What the picture is worth, in points."""
        return self.accuracy - self.question_only


@dataclass(frozen=True, slots=True)
class VqaScores:
    """A model's answers, beside the baseline's."""

    overall: TypeScore
    """The mean over all questions."""
    by_type: Mapping[str, TypeScore]
    """In the alphabet's order."""
    num_scaled: int
    """Questions that fewer than ten people answered, whose votes are scaled to ten (`accuracy`): where there are some,
    the numbers are not the challenge's."""

    def metrics(self) -> dict[str, float]:
        """By name: accuracy and baseline, overall and of each type."""
        named = {"": self.overall, **{f"_{name}": each for name, each in self.by_type.items()}}
        found = {f"vqa{name}": each.accuracy for name, each in named.items()}
        return found | {f"question_only{name}": each.question_only for name, each in named.items()}


def score(
    answers: Sequence[str],
    guesses: Sequence[Sequence[str]],
    given: Sequence[Sequence[str]],
    types: Sequence[str],
) -> VqaScores:
    """Scores answers, always beside those of the question-only baseline.

    Args:
        answers: the model's, one for each question; at least one.
        guesses: the baseline's by each of its rules (`QuestionOnly.guesses`); of each type counts the rule that does
            best on these very questions, in the baseline's favour.
        given: people's answers to each question.
        types: of the questions.

    Raises:
        ValueError: no questions, or not one of each for every question.
    """
    if not answers:
        raise ValueError("there are no answers to score; give at least one")
    if {len(each) for each in (answers, *guesses, given)} != {len(types)}:
        raise ValueError(f"answers, guesses and people's answers are not as many as the {len(types)} types")
    ours, *theirs = ([*map(accuracy, each, given)] for each in (answers, *guesses))
    by_type = {
        kind: _score_type([row for row, each in enumerate(types) if each == kind], ours, theirs)
        for kind in sorted(set(types))
    }
    share = {kind: each.count / len(types) for kind, each in by_type.items()}
    overall = TypeScore(
        accuracy=sum(share[kind] * each.accuracy for kind, each in by_type.items()),
        question_only=sum(share[kind] * each.question_only for kind, each in by_type.items()),
        count=len(types),
    )
    return VqaScores(overall, by_type, sum(len(each) < VOTES for each in given))


def _score_type(rows: Sequence[int], ours: Sequence[float], theirs: Sequence[Sequence[float]]) -> TypeScore:
    model, *rules = (100 * sum(each[row] for row in rows) / len(rows) for each in (ours, *theirs))
    return TypeScore(model, max(rules), len(rows))
