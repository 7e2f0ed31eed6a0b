"""What everything that judges texts has in common: StructBERT, plug_mental, PLUG's encoder; services know no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mplug.text.pairs import Text  # it imports the tokenizers


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label of a text."""

    label: str
    score: float
    """Between 0 and 1, but for the cosine of an FAQ, between -1 and 1."""


@dataclass(frozen=True, slots=True)
class Classified:
    """What a text was found to be."""

    scores: tuple[LabelScore, ...]
    """Every label, best first."""
    truncated: bool = False
    """Whether the text was longer than the model reads."""

    @classmethod
    def of(cls, labels: Sequence[str], scores: Sequence[float], truncated: bool) -> Classified:
        """Sort labels by their scores; equal ones stay in the labels' order."""
        pairs = [LabelScore(label, score) for label, score in zip(labels, scores, strict=True)]
        return cls(tuple(sorted(pairs, key=lambda each: -each.score)), truncated)

    @property
    def best(self) -> LabelScore:
        """The label with the highest score."""
        return self.scores[0]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text that has a label."""

    label: str
    """Its type, `PER` where the labels are `B-PER`, `I-PER`...; empty where they are plain `B`, `I`..."""
    start: int
    """Of its first character in the text, counted in code points."""
    end: int
    """Behind its last."""
    text: str
    score: float
    """Probability of the label at the span's first word."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """The spans of a text."""

    spans: tuple[Span, ...]
    """In the order of the text; they do not overlap."""
    truncated: bool = False
    """Whether the text was longer than the model reads; its end has no spans then."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may stand at a [MASK]."""

    piece: str
    """A piece of the vocabulary, such as `狗` or `##ing`."""
    score: float
    """Its probability."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A text whose masks were filled."""

    text: str
    """With the best candidate at every mask, as the tokenizer writes it: in lower case where the vocabulary is."""
    masks: tuple[tuple[Candidate, ...], ...]
    """For each [MASK], in the order of the text, the best candidates, best first."""
    truncated: bool = False
    """Whether the text was longer than the model reads; masks at its end are not filled then."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answer is known."""

    text: str
    label: str
    """Names the answer."""


class Named(Protocol):
    """What all of them can say of themselves."""

    @property
    def name(self) -> str:
        """For people and logs."""
        ...


class TextClassifier(Named, Protocol):
    """Gives each text, or each pair, one of its labels: sentiment, topic, entailment, similarity."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All of them, in the order of the model's outputs."""
        ...

    def classify(self, texts: Sequence[Text]) -> list[Classified]:
        """Score every label for each text; neither order nor neighbours matter.

        Raises:
            MplugError: something that is neither a text nor a pair of texts.
        """
        ...


class ZeroShotClassifier(Named, Protocol):
    """Gives each text labels that it has never seen, by asking whether the text entails them."""

    def classify(
        self, texts: Sequence[str], labels: Sequence[str], *, template: str = "{}", multi_label: bool = False
    ) -> list[Classified]:
        """Score given labels for each text.

        Args:
            texts: what to judge.
            labels: at least one.
            template: turns a label into a sentence, such as `这篇文章的标题是{}`.
            multi_label: several may hold, each is scored alone; otherwise the scores sum to one.

        Raises:
            MplugError: no labels, or a template without a place for them.
        """
        ...


class TokenClassifier(Named, Protocol):
    """Finds the labelled spans of texts: names, words, parts of speech."""

    @property
    def labels(self) -> tuple[str, ...]:
        """As the model has them, such as `B-PER`."""
        ...

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """Find the spans of each text; neither order nor neighbours matter."""
        ...


class MaskFiller(Named, Protocol):
    """Says what may stand at [MASK]."""

    def fill(self, texts: Sequence[str], *, top_k: int = 5) -> list[Filled]:
        """Fill every [MASK] of each text, each as if the others stayed masked.

        Raises:
            MplugError: a text without [MASK], or `top_k` below 1.
        """
        ...


class QuestionAnswerer(Named, Protocol):
    """Finds which of the known questions a new one asks."""

    def answer(self, queries: Sequence[str], support: Sequence[Question]) -> list[Classified]:
        """Score the labels of the known questions for each new one.

        Args:
            queries: new questions.
            support: known ones, one or several for each label.

        Raises:
            MplugError: no known questions.
        """
        ...
