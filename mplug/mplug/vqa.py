"""mPLUG's answering half: every module, from picture and question to the memory that answers are decoded from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mplug.config import MplugConfig
from mplug.encoders import Encoders
from mplug.errors import MplugError
from mplug.fusion_encoder import FusionEncoder
from mplug.generation import GenerationConfig, Hypothesis, RankedAnswer, generate, rank_answers
from mplug.task_model import require
from mplug.text.tokenizer import WordPieceTokenizer, pad
from mplug.text_decoder import DecoderState, TextDecoder, share_words
from mplug.writing import WritingModel


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a question about a picture."""

    text: str
    hypothesis: Hypothesis
    """Its ids and score."""


class VqaModel(Encoders, WritingModel):
    """Answers questions about pictures.

    Args:
        config: the model's shape, with a fusion encoder and a text decoder.
        tokenizer: the vocabulary that text encoder and decoder were made for.

    Raises:
        ConfigError: the configuration lacks one of the two or cannot be built.
    """

    config: MplugConfig
    tokenizer: WordPieceTokenizer
    text_decoder: TextDecoder

    def __init__(self, config: MplugConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.fusion_encoder = FusionEncoder(require(config.fusion_encoder, "fusion_encoder", task="vqa"))
        self.text_decoder = TextDecoder(require(config.text_decoder, "text_decoder", task="vqa"))
        share_words(self.text_decoder, self.text_encoder)

    def decoder_memory(self, image_BND: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder attends to: the fused picture, then the fused question.

        Args:
            image_BND: image_tokens (B, N, D), from `encode_image`.
            ids_BL: int64 (B, L), one question for each picture.
            mask_BL: bool (B, L), True = a real token.

        Returns:
            memory (B, N + L, D), and its mask, bool (B, N + L): the whole picture, the question without padding.
        """
        text_BLD = self.encode_text(ids_BL, mask_BL)
        fused_image_BND, fused_text_BLD = self.fusion_encoder(image_BND, text_BLD, text_mask_BL=mask_BL)
        text_mask_BL = mask_BL.bool()
        image_mask_BN = text_mask_BL.new_ones(fused_image_BND.shape[:2])
        memory_BMD = torch.cat([fused_image_BND, fused_text_BLD], dim=1)
        return memory_BMD, torch.cat([image_mask_BN, text_mask_BL], dim=1)

    @torch.no_grad()
    def start_decoding(self, image_BND: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> DecoderState:
        """Open a state for B answers, no token read yet; arguments as in `decoder_memory`."""
        memory_BMD, memory_mask_BM = self.decoder_memory(image_BND, ids_BL, mask_BL)
        return self.text_decoder.start(memory_BMD, memory_mask_BN=memory_mask_BM)

    def answer(
        self,
        images: Tensor,
        questions: Sequence[str],
        config: GenerationConfig | None = None,
        *,
        seeds: Sequence[int] | None = None,
    ) -> list[tuple[Answer, ...]]:
        """Answer a question about each of B pictures in words of the model's own.

        Args:
            images: pixels uint8 (B, 3, R, R), or image_tokens (B, N, D) of `encode_image`.
            questions: B of them; what is longer than the tokenizer reads keeps its beginning.
            config: settings; None = the checkpoint's own.
            seeds: of sampling, one for each picture.

        Returns:
            Each question's `num_results` answers, best first (drawn ones in the order of drawing).

        Raises:
            MplugError: settings that the decoder cannot do, or another number of questions than of pictures.
        """
        config = config or self.generation_config()
        prompts = [[self.text_decoder.bos_id]] * len(questions)
        start = _Starts(self, images, questions)
        found = generate(self.text_decoder, start, prompts, config, seeds=seeds)
        return [tuple(Answer(self.tokenizer.decode(one.ids), one) for one in texts) for texts in found]

    def rank(
        self, images: Tensor, questions: Sequence[str], answers: Sequence[str], k: int = 128
    ) -> list[tuple[RankedAnswer, ...]]:
        """Order given answers for each of B questions; see `mplug.generation.rank_answers`.

        Args:
            images: as in `answer`.
            questions: likewise.
            answers: to choose from.
            k: answers to score in full.

        Returns:
            Each question's k best, best first.

        Raises:
            MplugError: no answers, one that is longer than the model reads, or as in `answer`.
        """
        ids = self.answer_ids(answers)
        start = _Starts(self, images, questions)
        return rank_answers(self.text_decoder, start, ids, num_items=len(questions), k=k)

    def answer_ids(self, answers: Sequence[str]) -> list[list[int]]:
        """Answers to choose from as the decoder reads them, from its starting token to [SEP].

        Raises:
            MplugError: none, or one that is longer than the model reads.
        """
        if not answers:
            raise MplugError("there are no answers to rank; give at least one")
        facts, ids = self.decoder_facts, []
        for index, tokens in enumerate(self.tokenizer.encode_batch(answers)):
            try:
                ids.append(facts.answer_ids(tokens))
            except MplugError as error:
                raise MplugError(f"answers[{index}], {answers[index]!r}: {error}") from error
        return ids


class _Starts:
    """Opens states for some of the questions; both halves are encoded with them, alone where decoded alone."""

    def __init__(self, model: VqaModel, images: Tensor, questions: Sequence[str]) -> None:
        if len(questions) != images.shape[0]:
            raise MplugError(
                f"there are {len(questions)} questions for {images.shape[0]} pictures; give one for each"
            )
        self._model = model
        self._images = images
        self._tokens = model.tokenizer.encode_batch(questions)

    def __call__(self, items: Sequence[int]) -> DecoderState:
        model, rows = self._model, list(items)
        arrays = pad([self._tokens[row] for row in rows], model.tokenizer.pad_id)
        ids_BL, mask_BL = (torch.from_numpy(array).to(model.device) for array in arrays)
        images = self._images[rows]
        image_BND = model.encode_image(images) if images.dtype == torch.uint8 else images
        return model.start_decoding(image_BND, ids_BL, mask_BL)
