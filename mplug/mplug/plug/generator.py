"""A PLUG as its users see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mplug.decoder_state import DecoderState
from mplug.errors import ConfigError
from mplug.generation import Event, GenerationConfig
from mplug.generation.engine import pad_right
from mplug.plug.config import BOS_ID, EOS_ID, PAD_ID, UNK_ID, PlugConfig
from mplug.plug.model import PlugModel
from mplug.plug.sliding import stream_windows
from mplug.text.sources import encode_source
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_generator import Prompt

BEAMS = {"beam_size": 5, "min_length": 5, "max_length": 384, "length_penalty": 0.6}
"""Of the reference's evaluation: constants of its `TextGenerator`."""
QUOTE = "“"
"""What the reference's pipeline shows for [UNK]: its vocabulary lacks this mark, and Chinese texts are full of it."""


class PlugGenerator(PlugModel):
    """A PLUG with its tokenizer; a `mplug.text_generator.TextGenerator`.

    Args:
        config: the model's shape.
        tokenizer: it may have fewer tokens than the model, never more.
        pretraining: hold the heads of pretraining, too, which generation has no use for.

    Raises:
        ConfigError: the tokenizer does not fit the configuration.
    """

    def __init__(
        self, config: PlugConfig, tokenizer: WordPieceTokenizer, *, pretraining: bool = False
    ) -> None:
        super().__init__(config, pretraining=pretraining)
        check_tokenizer(tokenizer, config)
        self.tokenizer = tokenizer

    def read(self, text: str) -> Prompt:
        """Tokenize a source, as the reference's preprocessor does; too long ones keep their beginning, and say so."""
        tokens = encode_source(self.tokenizer, text)
        return Prompt((BOS_ID,), tuple(tokens.ids.tolist()), tokens.truncated)

    def start(self, prompts: Sequence[Prompt]) -> DecoderState:
        """Encode the sources, as one batch; a state that has read no token of a text yet."""
        source_BN, _ = pad_right([prompt.source for prompt in prompts])  # with 0, which is [PAD]
        return self.start_decoding(source_BN.to(self.device))

    # Any: fields of GenerationConfig
    def generation_config(self, **changes: Any) -> GenerationConfig:
        """The checkpoint's own settings, with changes: sampling, or with `method="beam"` the reference's evaluation.

        A `max_length` below the search's `min_length` lowers that, too; a call that gives one of `top_k` and `top_p`
        turns the checkpoint's other off. The reference's pipeline samples by windows, see `window_config`.

        Raises:
            ConfigError: an unknown or impossible setting.
        """
        GenerationConfig.check_names(changes)
        if changes.get("method") == "beam":
            longest = changes.get("max_length", BEAMS["max_length"])
            shortest = max(0, min(BEAMS["min_length"], longest))
            return GenerationConfig(**{**BEAMS, "min_length": shortest, **changes})
        own = self.config.sampling
        settings: dict[str, Any] = {
            "method": "sample",
            "max_length": own.max_length,
            "temperature": own.temperature,
        }
        if not {"top_k", "top_p"} & changes.keys():
            settings |= {"top_k": own.top_k, "top_p": own.top_p}
        settings |= changes
        return GenerationConfig(**{**settings, "top_p": settings.get("top_p") or 1.0})

    def window_config(self, **changes: Any) -> GenerationConfig:
        """The same for `stream_windows`, with the settings of the reference's pipeline.

        Raises:
            ConfigError: an unknown or impossible setting.
        """
        return self.generation_config(**{"min_length": 0, **changes})

    def stream_windows(
        self,
        prompts: Sequence[Prompt],
        config: GenerationConfig | None = None,
        *,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[Event]:
        """Write as the reference's pipeline, token by token; see `mplug.plug.sliding`.

        Args:
            prompts: what `read` gave.
            config: settings; None = the checkpoint's own.
            seeds: one for each prompt; None = the configuration's for all.

        Raises:
            MplugError: settings that windows cannot have.
        """
        sources = [prompt.source for prompt in prompts]
        return stream_windows(self, sources, config or self.window_config(), seeds=seeds)

    def text(self, ids: Sequence[int], prompt: Prompt) -> str:
        """What was written, as the reference's pipeline has it: pieces without spaces, a quotation mark for [UNK].

        Args:
            ids: a hypothesis's, prompt included.
            prompt: what it began with.
        """
        vocab = self.tokenizer.vocab
        known = [id if id < len(vocab) else UNK_ID for id in ids[len(prompt.first) :]]
        pieces = [vocab[id] for id in known if id not in (PAD_ID, BOS_ID, EOS_ID)]
        return "".join(pieces).replace(vocab[UNK_ID], QUOTE).replace("##", "")


def check_tokenizer(tokenizer: WordPieceTokenizer, config: PlugConfig) -> None:
    """Refuse a tokenizer that is not the model's.

    Raises:
        ConfigError: it has more tokens, or other special ones.
    """
    if len(tokenizer.vocab) > config.original_vocab_size:
        raise ConfigError(
            f"the vocabulary has {len(tokenizer.vocab)} pieces, original_vocab_size is {config.original_vocab_size}; "
            "use the vocab.txt that the weights were trained with"
        )
    special = {PAD_ID: "[PAD]", UNK_ID: "[UNK]", BOS_ID: "[CLS]", EOS_ID: "[SEP]"}
    for number, piece in special.items():
        if tokenizer.vocab[number : number + 1] != (piece,):
            raise ConfigError(
                f"token {number} of the vocabulary is not {piece}, as PLUG has it; use its own vocab.txt"
            )
