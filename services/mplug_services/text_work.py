"""Work items of texts that are written on or judged; needs no torch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mplug.text.pairs import Text
from mplug.text_classifier import Question
from mplug_services.work import WorkItem, WorkKind

if TYPE_CHECKING:
    from mplug.generation import GenerationConfig  # its package imports torch
    from mplug.text_generator import Prompt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerateText(WorkItem):
    """A text to write. Gives a tuple of `mplug.text_writing.WrittenText`, and reports the text so far where asked to.

    Its cost is its tokens at their most, those of all its sequences: so many keys and values it keeps in the end.
    """

    prompt: Prompt
    config: GenerationConfig
    seed: int = 0
    """Of sampling."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    stream: bool = False
    """Whether to report the best text as it grows: `Progress` of the text."""

    @property
    def kind(self) -> WorkKind:
        """All that write from texts run together."""
        return WorkKind.GENERATE

    @property
    def cost(self) -> int:
        """In tokens."""
        prompt = len(self.prompt.first) + len(self.prompt.source)
        return self.config.sequences * (prompt + self.config.max_length)

    @property
    def batch_key(self) -> Hashable:
        """The number of sequences, whatever else the settings are; itself where it is to run alone."""
        return self if self.config.deterministic else self.config.sequences

    @property
    def joins(self) -> bool:
        """All but those that are to run alone."""
        return not self.config.deterministic


@dataclass(frozen=True, slots=True)
class OwnLabels:
    """By the model's own labels; texts, or pairs of texts."""


@dataclass(frozen=True, slots=True)
class OwnSpans:
    """By the spans that the model finds."""


@dataclass(frozen=True, slots=True)
class GivenLabels:
    """By labels that the model has never seen; as `mplug.text_classifier.ZeroShotClassifier` takes them."""

    labels: tuple[str, ...]
    template: str = "{}"
    multi_label: bool = False


@dataclass(frozen=True, slots=True)
class KnownQuestions:
    """By the labels of questions whose answers are known."""

    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class FillMasks:
    """By what may stand at [MASK]."""

    top_k: int


Mode = OwnLabels | OwnSpans | GivenLabels | KnownQuestions | FillMasks
"""How a text is judged."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgeText(WorkItem):
    """A text, or a pair, to judge. Gives what the `mplug.text_classifier` protocols give: Classified, Tagged or Filled.

    Its cost is its tokens, once for each given label.
    """

    task: str
    """Of the model."""
    text: Text
    mode: Mode
    tokens: int
    """About how many it has."""

    @property
    def kind(self) -> WorkKind:
        """All that is judged runs by one runner."""
        return WorkKind.JUDGE

    @property
    def cost(self) -> int:
        """In tokens."""
        return self.tokens * (len(self.mode.labels) if isinstance(self.mode, GivenLabels) else 1)

    @property
    def batch_key(self) -> Hashable:
        """The model, and how it judges."""
        return self.task, self.mode
