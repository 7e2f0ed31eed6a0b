"""What everything that writes from text alone has in common: PALM, PLUG, GPT-3; serving and pipelines know no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mplug.generation.config import GenerationConfig
from mplug.generation.decoder import DecodingState, StepDecoder

StateT = TypeVar("StateT", bound=DecodingState)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text as a model reads it."""

    first: tuple[int, ...]
    """What the decoder begins with, at least one token: a starting token, or the whole text of a decoder-only model."""
    source: tuple[int, ...] = ()
    """What the encoder reads; empty where there is none."""
    truncated: bool = False
    """Whether the text was longer than the model reads."""


class TextGenerator(Protocol[StateT]):
    """A model that writes."""

    @property
    def name(self) -> str:
        """For people and logs."""
        ...

    @property
    def decoder(self) -> StepDecoder[StateT]:
        """Reads tokens and says what may come next (`mplug.generation`)."""
        ...

    def read(self, text: str) -> Prompt:
        """Tokenize a text."""
        ...

    def start(self, prompts: Sequence[Prompt]) -> StateT:
        """Encode the sources, as one batch; a state that holds the items in this order and has read no token yet."""
        ...

    # Any: fields of GenerationConfig
    def generation_config(self, **changes: Any) -> GenerationConfig:
        """The checkpoint's own settings, with changes.

        Raises:
            ConfigError: a value out of its range.
        """
        ...

    def text(self, ids: Sequence[int], prompt: Prompt) -> str:
        """What was written, from a hypothesis's ids: those of the prompt left out, special tokens too."""
        ...
