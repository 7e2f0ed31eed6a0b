"""What goes into calls that judge texts, and what comes out: plain values, no protobuf."""

from dataclasses import dataclass

from mplug_services.client.errors import ClientError

TextSource = str | tuple[str, str]
"""A text, or two that are judged together."""


@dataclass(frozen=True, slots=True)
class KnownQuestion:
    """A question whose answer is known."""

    text: str
    label: str
    """Names the answer."""


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label of a text."""

    label: str
    score: float
    """Between 0 and 1, but for the cosine of some models of known questions, between -1 and 1."""


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A piece of a text that has a label."""

    label: str
    """Its type, such as `PER`; empty where the model's labels have none."""
    start: int
    """Of its first character in the text."""
    end: int
    """Behind its last."""
    text: str
    score: float
    """Probability of the label at the span's first word."""


@dataclass(frozen=True, slots=True)
class ClassifyOutcome:
    """The result for one text, or pair, of a batch: labels, or of a model that tags words spans, or an error."""

    index: int
    labels: tuple[LabelScore, ...] = ()
    """Every label, best first."""
    spans: tuple[TextSpan, ...] = ()
    """In the order of the text; they do not overlap."""
    truncated: bool = False
    """The text was longer than the model reads; its end was left out."""
    error: ClientError | None = None

    @property
    def best(self) -> LabelScore:
        """The label with the highest score.

        Raises:
            ClientError: There is none: the item's error.
            LookupError: There is none: the model finds spans.
        """
        if self.error is not None:
            raise self.error
        if not self.labels:
            raise LookupError("The model gives spans, no labels")
        return self.labels[0]


@dataclass(frozen=True, slots=True)
class MaskCandidate:
    """What may stand at a [MASK]."""

    piece: str
    """A piece of the vocabulary, such as `狗` or `##ing`."""
    score: float
    """Its probability."""


@dataclass(frozen=True, slots=True)
class FillOutcome:
    """The result for one text of a batch: it filled, or an error."""

    index: int
    filled: str = ""
    """With the best candidate at every mask, as the tokenizer writes it."""
    masks: tuple[tuple[MaskCandidate, ...], ...] = ()
    """For each mask, in the order of the text, the best candidates, best first."""
    truncated: bool = False
    """The text was longer than the model reads; masks at its end are not filled."""
    error: ClientError | None = None

    @property
    def text(self) -> str:
        """The filled text.

        Raises:
            ClientError: There is none: the item's error.
        """
        if self.error is not None:
            raise self.error
        return self.filled
