"""Accuracy on the classification tasks of CLUE (Xu et al. 2020), from the benchmark's own files.

A file is JSON lines, one example each. How an example becomes one text or two is as in CLUE's baselines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug.errors import MplugError
from mplug.text.pairs import Text
from mplug.text_classifier import TextClassifier

NO_AGREEMENT = "-"
"""Label of OCNLI and CMNLI where people disagreed; such examples do not count."""
ROWS_AT_ONCE = 256

Row = Mapping[str, Any]
"""A line of a file. Any: JSON."""


@dataclass(frozen=True, slots=True)
class ClueTask:
    """One task of the benchmark."""

    labels: tuple[str, ...]
    """As the files write them."""
    text: Callable[[Row], Text]
    """What of a row is judged; a missing key is a KeyError."""


@dataclass(frozen=True, slots=True)
class ClueExample:
    """One line of a file."""

    id: int
    """The benchmark's, or the number of the line, from 0 on."""
    text: Text
    label: str | None
    """None: of a test file, or people disagreed."""


@dataclass(frozen=True, slots=True)
class ClueScore:
    """How a classifier did."""

    accuracy: float
    """In percent, of the examples with a label."""
    total: int
    """Examples with a label."""
    left_out: int
    """Examples without one."""


def _sentence(row: Row) -> Text:
    return str(row["sentence"])


def _sentences(row: Row) -> Text:
    return str(row["sentence1"]), str(row["sentence2"])


def _keywords(row: Row) -> Text:
    """CSL: are these the keywords of that abstract?"""
    return " ".join(row["keyword"]), str(row["abst"])


def _marked(row: Row) -> Text:
    """CLUEWSC: a noun between underscores and a pronoun in brackets; are they the same?"""
    target, text = row["target"], str(row["text"])
    spans = [
        (int(target["span1_index"]), str(target["span1_text"]), "_", "_"),
        (int(target["span2_index"]), str(target["span2_text"]), "[", "]"),
    ]
    for start, span, before, behind in sorted(
        spans, reverse=True
    ):  # the later first: marks move what follows
        end = start + len(span)
        text = text[:start] + before + text[start:end] + behind + text[end:]
    return text


_SAME = ("0", "1")
_ENTAILMENT = ("entailment", "neutral", "contradiction")
CLUE_TASKS: Mapping[str, ClueTask] = {
    "tnews": ClueTask(tuple(str(label) for label in range(100, 117) if label not in (105, 111)), _sentence),
    "iflytek": ClueTask(tuple(str(label) for label in range(119)), _sentence),
    "afqmc": ClueTask(_SAME, _sentences),
    "ocnli": ClueTask(_ENTAILMENT, _sentences),
    "cmnli": ClueTask(_ENTAILMENT, _sentences),
    "csl": ClueTask(_SAME, _keywords),
    "wsc": ClueTask(("true", "false"), _marked),
}
"""By name in lower case: the seven that CLUE averages."""


def read_clue(task: str, path: Path) -> list[ClueExample]:
    """Read a file of a task.

    Raises:
        MplugError: an unknown task, no such file, or a line that is not an example of the task; the message names it.
    """
    known = _task(task)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise MplugError(f"{path} cannot be read: {error}") from error
    return [
        _example(known, line, number, f"{path}, line {number + 1}")
        for number, line in enumerate(lines)
        if line.strip()
    ]


def evaluate_clue(
    task: str, path: Path, classifier: TextClassifier, *, names: Mapping[str, str] | None = None
) -> ClueScore:
    """Count how often a classifier is right.

    Args:
        task: one of `CLUE_TASKS`.
        path: a file of it, with labels.
        classifier: any; `classify` gets texts or pairs as the task has them.
        names: the classifier's labels to the task's, where they differ.

    Raises:
        MplugError: as `read_clue`, no example with a label, or labels of the classifier that the task does not have.
    """
    of = names_of(task, classifier, names)
    examples = read_clue(task, path)
    judged = [example for example in examples if example.label is not None]
    if not judged:
        raise MplugError(f"{path} has no example with a label; take the development file")
    found = _predictions([example.text for example in judged], classifier, of)
    right = sum(guess == example.label for guess, example in zip(found, judged, strict=True))
    return ClueScore(100 * right / len(judged), len(judged), len(examples) - len(judged))


def write_submission(
    task: str, path: Path, classifier: TextClassifier, target: Path, *, names: Mapping[str, str] | None = None
) -> int:
    """Write what CLUE's board takes, `{"id": ..., "label": ...}` a line; arguments and errors as `evaluate_clue`'s.

    Args:
        task: one of `CLUE_TASKS`.
        path: a file of it, with labels or without.
        classifier: any.
        target: is replaced.
        names: the classifier's labels to the task's, where they differ.

    Returns:
        How many lines.
    """
    of, examples = names_of(task, classifier, names), read_clue(task, path)
    found = _predictions([example.text for example in examples], classifier, of)
    lines = (
        json.dumps({"id": example.id, "label": label}) + "\n"
        for example, label in zip(examples, found, strict=True)
    )
    target.write_text("".join(lines), encoding="utf-8")
    return len(examples)


def names_of(task: str, classifier: TextClassifier, names: Mapping[str, str] | None) -> dict[str, str]:
    """The task's name of each of a classifier's labels.

    Raises:
        MplugError: an unknown task, or a label that the task does not have.
    """
    labels = _task(task).labels
    of = {label: (names or {}).get(label, label) for label in classifier.labels}
    if strange := sorted(set(of.values()) - set(labels)):
        raise MplugError(
            f"{classifier.name} says {', '.join(strange)}; {task}'s labels are {', '.join(labels)}: "
            "give names that map the one to the other"
        )
    return of


def _predictions(texts: Sequence[Text], classifier: TextClassifier, of: Mapping[str, str]) -> Iterator[str]:
    for start in range(0, len(texts), ROWS_AT_ONCE):
        for found in classifier.classify(texts[start : start + ROWS_AT_ONCE]):
            yield of[found.best.label]


def _task(name: str) -> ClueTask:
    if name not in CLUE_TASKS:
        raise MplugError(f"the task is {name!r}; CLUE's are {', '.join(CLUE_TASKS)}")
    return CLUE_TASKS[name]


def _example(task: ClueTask, line: str, number: int, where: str) -> ClueExample:
    try:
        row: Any = json.loads(line)
        text, label, id = task.text(row), row.get("label"), int(row.get("id", number))
    except json.JSONDecodeError as error:
        raise MplugError(f"{where} is not JSON: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MplugError(f"{where} is no example of this task: {error!r} of {line[:80]!r}") from error
    known = None if label in (None, NO_AGREEMENT) else str(label)
    if known is not None and known not in task.labels:
        raise MplugError(f"{where}: the label is {known!r}; this task's are {', '.join(task.labels)}")
    return ClueExample(id, text, known)
