"""One row of training data, whatever file it came from, and what each task needs of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mplug.train.readers.pictures import Picture

TASK_FIELDS: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("image", "captions"),
    "retrieval": ("image", "captions"),
    "rerank": ("image", "captions"),
    "caption": ("image", "captions"),
    "vqa": ("image", "question", "answers"),
    "classify": ("image", "label"),
    "text": ("text", "target"),
    "write": ("text",),
}
"""The fields of `Example` that a task cannot do without; Chinese captions stand in for English ones."""


class Answer(NamedTuple):
    """One answer to a question."""

    text: str
    weight: float
    """Its share in the loss: the share of people who gave it (VQA v2), or what the data says."""
    votes: int = 1
    """People who gave it, for evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row. A field that the row does not have is empty."""

    origin: str
    """File and line or row, for error messages."""
    key: str
    """Names the row within its source."""
    image: Picture | None = None
    """Read when asked for."""
    image_name: str = ""
    """Path of the picture relative to its data: splits are drawn from it."""
    captions: tuple[str, ...] = ()
    captions_zh: tuple[str, ...] = ()
    question: str = ""
    answers: tuple[Answer, ...] = ()
    kind: str = ""
    """What is asked for (``count``, ``colour`` …)."""
    language: str = ""
    """Of the question; empty where it is not said."""
    label: str = ""
    text: str = ""
    """What a text generator reads."""
    target: str = ""
    """What it should write."""
    split: str = ""
    """As the data publishes it; `mplug.train.splits` decides."""
    set_name: str = ""
    """Pictures of one kind (``photo``, ``emoji`` …)."""
    identity: str = ""
    """Pictures of one identity show the same thing and are no negatives of each other."""

    def texts(self) -> tuple[str, ...]:
        """Everything that is said or asked about the picture."""
        said = (*self.captions, *self.captions_zh, self.question, *(answer.text for answer in self.answers))
        return tuple(text for text in said if text)
