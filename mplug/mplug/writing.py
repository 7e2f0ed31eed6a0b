"""What every model that writes texts has: a decoder, its limits, and the checkpoint's own settings."""

from __future__ import annotations

from typing import Any, Protocol

from mplug.cached_decoder import CachedDecoder
from mplug.config import GenerationDefaults
from mplug.decoder_facts import DecoderFacts
from mplug.generation import GenerationConfig
from mplug.task_model import Described, LoadedModel
from mplug.text.tokenizer import DecodingTokenizer


class Generating(Described, Protocol):
    """A configuration that also says how texts are generated."""

    @property
    def generation(self) -> GenerationDefaults:
        """The checkpoint's own settings."""
        ...


class WritingModel(LoadedModel):
    """A model whose decoder writes."""

    config: Generating
    tokenizer: DecodingTokenizer
    text_decoder: CachedDecoder[Any]

    @property
    def decoder_facts(self) -> DecoderFacts:
        """What its texts may begin with and how long they may grow."""
        decoder = self.text_decoder
        return DecoderFacts(
            tokenizer=self.tokenizer,
            bos_id=decoder.bos_id,
            vocab_size=decoder.vocab_size,
            max_positions=decoder.max_positions,
            defaults=self.config.generation,
        )

    def generation_config(self, **changes: Any) -> GenerationConfig:
        """Return the checkpoint's own settings, with changes; what is not given gives way to what is.

        Raises:
            ConfigError: an unknown or impossible setting.
        """
        GenerationConfig.check_names(changes)
        return GenerationConfig(**self.config.generation.settings(changes))
