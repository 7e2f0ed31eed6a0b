"""What there is to know of a model that writes from texts; needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mplug.decoder_facts import check_length

if TYPE_CHECKING:
    from mplug.generation import GenerationConfig  # its package imports torch
    from mplug.text_generator import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterFacts:
    """A `mplug.text_generator.TextGenerator` as the services see it: how it reads, its settings, its limits."""

    read: Callable[[str], Prompt]
    """Tokenizes a text; as the generator's."""
    configure: Callable[..., GenerationConfig]
    """The checkpoint's own settings, with changes; as the generator's `generation_config`."""
    vocab_size: int
    max_positions: int
    """Longest text in tokens, what the decoder begins with included."""
    continues: bool
    """Whether what it writes follows the text that it is given, instead of being made from it."""

    def check_length(self, prompt: int, max_length: int) -> None:
        """Refuse texts that could outgrow the decoder; as `mplug.decoder_facts.check_length`."""
        check_length(prompt, max_length, self.max_positions)
