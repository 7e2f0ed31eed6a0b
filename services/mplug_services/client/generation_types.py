"""What goes into calls that write or judge text, and what comes out: plain values, no protobuf."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from mplug_services.client.errors import ClientError
from mplug_services.client.types import FloatVector, ImageSource, ModelVersion, Timings

Method = Literal["beam", "greedy", "sample"]
FinishReason = Literal["", "end", "length", "stop"]
"""`end`: the model ended the text; `length`: it has `max_length` tokens; `stop`: a stop text came; empty: not known."""

_METHOD_OF = {
    "beam_size": "beam",
    "length_penalty": "beam",
    "temperature": "sample",
    "top_k": "sample",
    "top_p": "sample",
    "seed": "sample",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How a text is generated; None leaves it to the model's own settings.

    Raises:
        ValueError: Options of two methods together.
    """

    method: Method | None = None
    """None: the method that the other options belong to, or the model's own."""
    max_length: int | None = None
    """Most tokens to generate, the ending one counted, the prompt not."""
    min_length: int | None = None
    """Tokens to generate before the end is allowed."""
    num_results: int | None = None
    """Texts for each item: the best beams, or as many draws."""
    beam_size: int | None = None
    length_penalty: float | None = None
    """Exponent of the length penalty ((5 + length) / 6) ** alpha."""
    temperature: float | None = None
    top_k: int | None = None
    """Draw from the k likeliest tokens; 0: from all."""
    top_p: float | None = None
    """Draw from the fewest likeliest tokens with this much probability together."""
    seed: int | None = None
    """The same seed draws the same text, whatever it is batched with."""
    repetition_penalty: float | None = None
    """Logits of tokens that the text has already are divided by it (positive ones) or multiplied; 1 is off."""
    no_repeat_ngram_size: int | None = None
    """No run of so many tokens comes twice; 0 is off."""
    deterministic: bool = False
    """Decode every item alone, so that its answer does not depend, bit for bit, on what it is batched with."""

    def __post_init__(self) -> None:
        methods = {name: method for name, method in _METHOD_OF.items() if getattr(self, name) is not None}
        wanted = {*methods.values(), *([self.method] if self.method else [])}
        if len(wanted) > 1:
            raise ValueError(
                f"options of several methods together: {', '.join(sorted(wanted))}, by {methods}"
            )

    @property
    def effective_method(self) -> Method | None:
        """The method that is asked for, by name or by an option that only it has; None: the model's own."""
        for name, method in _METHOD_OF.items():
            if getattr(self, name) is not None:
                return "beam" if method == "beam" else "sample"
        return self.method


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """Asks for heat maps; each word costs the server a pass of its own."""

    layer: int | None = None
    """The layer whose cross-attention is read, from 0 on; None: the middle one."""


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """Which cells of the picture speak for a word, or for a decision. H and W cells lie over it as a grid."""

    word: str
    """Pieces are put together; empty: the decision as a whole."""
    tokens: tuple[int, ...]
    """Places of its pieces in `token_ids`; of a ranked answer, in its tokens from the starting one on."""
    cells_HW: FloatVector
    """float32 (H, W), from 0 to 1, which the strongest cell has; all 0 where nothing speaks for the word."""
    overlay: bytes
    """A JPEG of the picture with the map laid over it."""


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One text that was generated."""

    text: str
    score: float
    """Log-probability of the generated tokens, divided by the length penalty."""
    token_ids: tuple[int, ...]
    """Prompt and continuation, special tokens included."""
    log_probs: tuple[float, ...] = ()
    """Of each generated token, the last of `token_ids`; of `generate`, where they were asked for."""
    finish_reason: FinishReason = ""
    """Of `generate`."""


@dataclass(frozen=True, slots=True)
class TextOutcome:
    """The result for one picture, question or text of a batch: texts or an error."""

    index: int
    texts: tuple[GeneratedText, ...] = ()
    """Best first."""
    seed: int | None = None
    """The seed that was used; set by sampling."""
    truncated: bool = False
    """The question, or the text, was longer than the model reads; its end was left out."""
    error: ClientError | None = None
    heat_maps: tuple[HeatMap, ...] = ()
    """One for each word of the best text, where they were asked for."""

    @property
    def text(self) -> str:
        """The best text.

        Raises:
            ClientError: There is none: the item's error.
        """
        if self.error is not None:
            raise self.error
        return self.texts[0].text


@dataclass(frozen=True, slots=True)
class TextProgress:
    """One message of a stream of one text."""

    text: str
    """The text so far, from its beginning: beams may think again. In the last message the best text."""
    texts: tuple[GeneratedText, ...] = ()
    """The texts, best first; in the last message only."""
    seed: int | None = None
    """The seed that was used; set by sampling, in the last message."""
    truncated: bool = False
    """The text that was given was longer than the model reads; in the last message."""

    @property
    def finished(self) -> bool:
        """Whether this is the last message."""
        return bool(self.texts)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a picture."""

    image: ImageSource
    question: str


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One of the likeliest answers of a list."""

    index: int
    """Its place in the list."""
    text: str
    probability: float
    """Among the answers that were scored in full."""


@dataclass(frozen=True, slots=True)
class RankOutcome:
    """The result for one question whose answers were given: them in order, or an error."""

    index: int
    answers: tuple[RankedAnswer, ...] = ()
    """Best first."""
    truncated: bool = False
    """The question was longer than the model reads; its end was left out."""
    error: ClientError | None = None
    heat_maps: tuple[HeatMap, ...] = ()
    """One for each word of the best answer, where they were asked for."""


@dataclass(frozen=True, slots=True)
class MatchOutcome:
    """How well one candidate matches the text; neither probability nor error where it was not reached."""

    index: int
    match_probability: float | None = None
    error: ClientError | None = None
    heat_maps: tuple[HeatMap, ...] = ()
    """One, where it was asked for and the deadline did not come before it."""

    @property
    def reached(self) -> bool:
        """Whether the candidate's turn came before the deadline."""
        return self.match_probability is not None or self.error is not None


@dataclass(frozen=True, slots=True)
class RerankResult:
    """What the model that looks at both says of each candidate, in their order."""

    outcomes: tuple[MatchOutcome, ...]
    reranked_count: int
    """Candidates that were scored or found bad; the others were not reached before the deadline."""
    truncated: bool
    """The text was longer than the model reads; its end was left out."""
    model: ModelVersion
    timings: Timings


class ScoreFusion(StrEnum):
    """What orders hits that were reranked."""

    SERVER_DEFAULT = "server_default"
    MATCH = "match"
    """The match probability alone."""
    SUM = "sum"
    """The sum of match probability and cosine."""
    RECIPROCAL_RANK = "reciprocal_rank"
    """Reciprocal ranks of both, added."""
