"""Pictures to texts: what every captioner does, and mPLUG's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mplug.config import MplugConfig
from mplug.decoder_state import DecoderState
from mplug.errors import ConfigError, MplugError
from mplug.generation import Event, GenerationConfig, Hypothesis, generate, stream
from mplug.image_encoder import ImageEncoder
from mplug.task_model import TaskModel, require
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_decoder import TextDecoder
from mplug.writing import WritingModel


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption of a picture."""

    text: str
    """Prompt and continuation; special tokens are left out, and what the reference's beams put behind [SEP] is not."""
    hypothesis: Hypothesis
    """Its ids and score."""


class Captioner(WritingModel, ABC):
    """Anything that turns pictures into image_tokens, and these into texts: mPLUG's models and CoCa."""

    @abstractmethod
    def encode_image(self, pixels_B3RR: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) -> image_tokens (B, N, D)."""

    @torch.no_grad()
    def start_decoding(self, images: Tensor) -> DecoderState:
        """Open a state for B pictures, no token read yet.

        Args:
            images: pixels uint8 (B, 3, R, R), or image_tokens (B, N, D) of `encode_image`.
        """
        is_pixels = images.dtype == torch.uint8
        return self.text_decoder.start(self.encode_image(images) if is_pixels else images)

    def prompt_ids(self, text: str) -> list[int]:
        """Token ids that a caption begins with: the starting token, then a text's pieces.

        Raises:
            MplugError: the text is longer than the tokenizer reads.
        """
        return self.decoder_facts.prompt_ids(self.tokenizer.encode(text))

    def caption(
        self,
        images: Tensor,
        config: GenerationConfig | None = None,
        *,
        prompts: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[tuple[Caption, ...]]:
        """Caption B pictures.

        Args:
            images: pixels uint8 (B, 3, R, R), or image_tokens (B, N, D) of `encode_image`.
            config: settings; None = the checkpoint's own.
            prompts: how each caption begins; None = freely.
            seeds: of sampling, one for each picture.

        Returns:
            Each picture's `num_results` captions, best first (drawn ones in the order of drawing).

        Raises:
            MplugError: settings or prompts that the decoder cannot do; see `mplug.generation.stream`.
        """
        config = config or self.generation_config()
        found = generate(
            self.text_decoder, _Starts(self, images), self._prompts(images, prompts), config, seeds=seeds
        )
        return [tuple(Caption(self.tokenizer.decode(one.ids), one) for one in texts) for texts in found]

    def stream_captions(
        self,
        images: Tensor,
        config: GenerationConfig | None = None,
        *,
        prompts: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[Event]:
        """Caption B pictures, token by token; arguments and errors as in `caption`.

        Yields:
            Tokens as they become certain, and each picture's `Finished`.
        """
        config = config or self.generation_config()
        return stream(
            self.text_decoder, _Starts(self, images), self._prompts(images, prompts), config, seeds=seeds
        )

    def _prompts(self, images: Tensor, prompts: Sequence[str] | None) -> list[list[int]]:
        if prompts is None:
            prompts = [""] * images.shape[0]
        if len(prompts) != images.shape[0]:
            raise MplugError(
                f"there are {len(prompts)} prompts for {images.shape[0]} pictures; give one for each"
            )
        return [self.prompt_ids(text) for text in prompts]


class CaptionModel(TaskModel, Captioner):
    """mPLUG's image encoder and text decoder: image_tokens straight into the decoder, no text or fusion encoder.

    Args:
        config: the model's shape, with a text decoder.
        tokenizer: the vocabulary that the decoder was made for.

    Raises:
        ConfigError: the configuration has no text decoder or cannot be built, or the vocabulary does not fit it.
    """

    config: MplugConfig
    tokenizer: WordPieceTokenizer
    text_decoder: TextDecoder

    def __init__(self, config: MplugConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        decoder = require(config.text_decoder, "text_decoder", task="caption")
        if len(tokenizer.vocab) > decoder.vocab_size:
            raise ConfigError(
                f"the vocabulary has {len(tokenizer.vocab)} pieces, text_decoder.vocab_size is "
                f"{decoder.vocab_size}; use the vocab.txt that the weights were trained with"
            )
        self.image_encoder = ImageEncoder(config.image_encoder, config.preprocess)
        self.text_decoder = TextDecoder(decoder)

    def encode_image(self, pixels_B3RR: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) -> image_tokens (B, N, D)."""
        image_BND: Tensor = self.image_encoder(pixels_B3RR)
        return image_BND


@dataclass(frozen=True, slots=True)
class _Starts:
    """Opens states for some of the pictures; those in bytes are encoded with them, alone where decoded alone."""

    model: Captioner
    images: Tensor

    def __call__(self, items: Sequence[int]) -> DecoderState:
        every = len(items) == self.images.shape[0]
        return self.model.start_decoding(self.images if every else self.images[list(items)])
