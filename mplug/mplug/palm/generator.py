"""A PALM 2.0 as its users see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mplug.decoder_state import DecoderState
from mplug.generation import GenerationConfig
from mplug.generation.engine import pad_right
from mplug.palm.config import PalmConfig
from mplug.palm.model import PalmModel
from mplug.palm.texts import PalmTokenizer, texts_of
from mplug.text_generator import Prompt


class PalmGenerator(PalmModel):
    """A PALM with its tokenizer; a `mplug.text_generator.TextGenerator`.

    Args:
        config: the model's shape.
        tokenizer: the encoder's; it may have fewer tokens than the model, never more.

    Raises:
        ConfigError: the tokenizer does not fit the configuration.
    """

    def __init__(self, config: PalmConfig, tokenizer: PalmTokenizer) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self._texts = texts_of(tokenizer, config)

    @property
    def licence(self) -> str:
        """Terms of the weights; empty where the folder states none."""
        return self.config.licence

    def read(self, text: str) -> Prompt:
        """Tokenize a source, as the reference's preprocessor does; too long ones keep their beginning, and say so."""
        tokens = self._texts.encode(text)
        return Prompt((self.decoder.bos_id,), tuple(tokens.ids.tolist()), tokens.truncated)

    def start(self, prompts: Sequence[Prompt]) -> DecoderState:
        """Encode the sources, as one batch; a state that has read no token of a text yet."""
        source_BN, lengths_B = pad_right([prompt.source for prompt in prompts])
        if lengths_B is not None:
            behind_BN = torch.arange(source_BN.shape[1]) >= lengths_B[:, None]
            source_BN = source_BN.masked_fill(behind_BN, self.decoder.pad_id)
        return self.start_decoding(source_BN.to(self.device))

    # Any: fields of GenerationConfig
    def generation_config(self, **changes: Any) -> GenerationConfig:
        """The checkpoint's own settings, with changes; a `max_length` below its `min_length` lowers that, too.

        Raises:
            ConfigError: an unknown or impossible setting.
        """
        GenerationConfig.check_names(changes)
        own = {"length_penalty": self.config.length_penalty}
        return GenerationConfig(**{**own, **self.config.generation.settings(changes)})

    def text(self, ids: Sequence[int], prompt: Prompt) -> str:
        """What was written: what the reference's pipeline gives.

        Args:
            ids: a hypothesis's, prompt included.
            prompt: what it began with.
        """
        return self._texts.decode(ids[len(prompt.first) :])
