"""A Chinese GPT-3 as its users see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mplug.checkpoints.report import LoadReport
from mplug.decoder_state import DecoderState
from mplug.generation import GenerationConfig
from mplug.gpt3.config import Gpt3Config
from mplug.gpt3.decoder import Gpt3Decoder
from mplug.gpt3.texts import Gpt3Tokenizer, texts_of
from mplug.text_generator import Prompt


class Gpt3Generator(nn.Module):
    """A decoder with its tokenizer; a `mplug.text_generator.TextGenerator`.

    Args:
        config: the model's shape.
        tokenizer: of the layout; it may have fewer tokens than the model, never more.

    Raises:
        ConfigError: the tokenizer does not fit the configuration.
    """

    report: LoadReport
    """What the checkpoint held and what of it was used; empty for a model that was not loaded."""

    def __init__(self, config: Gpt3Config, tokenizer: Gpt3Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.report = LoadReport()
        self._texts = texts_of(tokenizer, config)
        self.decoder = Gpt3Decoder(config)

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.config.name

    @property
    def licence(self) -> str:
        """Terms of the weights; empty where the folder states none."""
        return self.config.licence

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are; bfloat16 where the matrices are quantized."""
        return self.decoder.norm.weight.dtype

    @property
    def num_parameters(self) -> int:
        """Parameters held in memory."""
        return sum(parameter.numel() for parameter in self.parameters())

    def read(self, text: str) -> Prompt:
        """Tokenize a text to be continued, as the reference's preprocessors do.

        Raises:
            MplugError: an empty text, where the model has no token to begin with.
        """
        return self._texts.read(text)

    def start(self, prompts: Sequence[Prompt]) -> DecoderState:
        """A state for these prompts, no token read yet."""
        return self.decoder.start(len(prompts))

    # Any: fields of GenerationConfig
    def generation_config(self, **changes: Any) -> GenerationConfig:
        """The checkpoint's own settings, with changes.

        As in the reference, a text is drawn from the `top_k` likeliest tokens or from a nucleus of `top_p`: a call that
        gives one of the two turns the checkpoint's other off; one that gives both gets both, which the reference
        refuses. A checkpoint's `top_k` of 1 is its greedy decoding, and `top_p` of 0 is off.

        Raises:
            ConfigError: an unknown or impossible setting.
        """
        GenerationConfig.check_names(changes)
        settings = {**self._own_settings(changes), **changes}
        if settings.get("top_p") == 0:
            settings["top_p"] = 1.0
        return GenerationConfig(**settings)

    def text(self, ids: Sequence[int], prompt: Prompt) -> str:
        """What was written: behind the prompt's text it is what the reference's pipeline gives.

        Args:
            ids: a hypothesis's, prompt included.
            prompt: what it began with.
        """
        before = self._texts.decode(prompt.first)
        shown = self._texts.written(ids[len(prompt.first) :])
        whole = self._texts.decode([*prompt.first, *shown])
        # Pieces may join across the seam; then the text is taken by itself.
        return whole.removeprefix(before) if whole.startswith(before) else self._texts.decode(shown)

    def _own_settings(self, changes: dict[str, Any]) -> dict[str, Any]:
        own = self.config.sampling
        settings: dict[str, Any] = {
            "method": "greedy" if own.top_k == 1 else "sample",
            "rules": "gpt3",
            "min_length": 0,
            "max_length": own.tokens_to_generate,
            "length_penalty": 1.0,
            "temperature": own.temperature,
        }
        if not {"top_k", "top_p"} & changes.keys():
            settings["top_k"] = own.top_k
            settings["top_p"] = own.top_p if own.top_k == 0 else 1.0
        return settings
