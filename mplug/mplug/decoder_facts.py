"""What a decoder's texts may begin with and how long they may grow; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from mplug.config import GenerationDefaults
from mplug.errors import MplugError
from mplug.text.tokenizer import DecodingTokenizer, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderFacts:
    """What there is to know of a model's text decoder, and the limits that follow from it."""

    tokenizer: DecodingTokenizer
    """Turns ids back into text."""
    bos_id: int
    """Token id that starts a text."""
    vocab_size: int
    max_positions: int
    """Longest text in tokens, prompt and start included."""
    defaults: GenerationDefaults
    """The checkpoint's own settings."""

    def prompt_ids(self, tokens: Tokens) -> list[int]:
        """What a text begins with: the starting token, then a prompt's pieces, by the model's own tokenizer.

        Raises:
            MplugError: the prompt is longer than the tokenizer reads.
        """
        if tokens.truncated:
            most = self.tokenizer.max_length - 2
            raise MplugError(f"the prompt is longer than the {most} tokens that the model reads; shorten it")
        return [self.bos_id, *tokens.ids[1:-1].tolist()]

    def answer_ids(self, tokens: Tokens) -> list[int]:
        """An answer to choose, from its starting token to the one that ends it.

        Raises:
            MplugError: the answer is longer than the tokenizer or the decoder reads.
        """
        most = min(self.tokenizer.max_length, self.max_positions)
        if tokens.truncated or len(tokens.ids) > most:
            raise MplugError(
                f"the answer is longer than the {most - 2} tokens that the model reads; shorten it"
            )
        return [self.bos_id, *tokens.ids[1:].tolist()]

    def check_length(self, prompt: int, max_length: int) -> None:
        """Refuse texts that could outgrow the decoder.

        Args:
            prompt: tokens of the prompt, the starting one included.
            max_length: as in `GenerationConfig`.

        Raises:
            MplugError: there are fewer positions.
        """
        check_length(prompt, max_length, self.max_positions)


def check_length(prompt: int, max_length: int, positions: int) -> None:
    """Refuse texts that could outgrow a decoder of so many positions; arguments and errors as the method's."""
    longest = longest_read(prompt, max_length)
    if longest > positions:
        raise MplugError(
            f"the text may grow to {longest} tokens, {prompt} of prompt and start included; the decoder has "
            f"{positions} positions: give a shorter prompt or lower max_length"
        )


def longest_read(prompt: int, max_length: int) -> int:
    """Tokens that a decoder reads at most for one text; the last that it makes is not read again."""
    return prompt + max_length - 1
