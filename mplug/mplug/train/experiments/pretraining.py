"""Pretraining: contrast, matching, masked words and PrefixLM on the same pictures and texts (mPLUG section 3.2).

The reference's loop was never published. Contrast and matching are those of its retrieval model. Masked words are
restored from the fused text by BERT's head. PrefixLM gives a text's beginning to the text encoder and has the decoder
write the rest from [fused picture; fused beginning], which is how answers are decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mplug.text_decoder import DecoderHead
from mplug.train.bert_init import Bert, start_head
from mplug.train.experiments.base import (
    Setup,
    TaskExperiment,
    WithTwin,
    evaluating,
    image_tokens,
    make_twin,
)
from mplug.train.experiments.batches import TextBatch, to_device
from mplug.train.experiments.contrast import Contrast, joint, matching_loss
from mplug.train.experiments.models import WholeModel
from mplug.train.experiments.settings import PretrainingObjective
from mplug.train.experiments.text_objectives import (
    NOT_MASKED,
    draw_prefixes,
    mask_tokens,
    masked_loss,
    split_texts,
)
from mplug.train.objectives import caption_loss, guessed


class PretrainingExperiment(TaskExperiment[WholeModel, TextBatch]):
    """All four objectives.

    Args:
        model: every module; it is what `save` writes, for all tasks. The head of masked words is not part of it.
        config: the terms of the loss.
        setup: what comes from outside.
        bert: whose head the one of masked words starts from, where it has one; None = at random.
        held_out: pictures and texts, on which an evaluation also measures how many words are guessed right.
    """

    def __init__(
        self,
        model: WholeModel,
        config: PretrainingObjective,
        setup: Setup[WholeModel, TextBatch],
        *,
        bert: Bert | None = None,
        held_out: Callable[[], Iterable[TextBatch]] = tuple,
    ) -> None:
        self._config = config
        self._held_out = held_out
        twin = make_twin(model) if config.itc_weight else None
        heads: dict[str, nn.Module] = {}
        if config.mlm_weight:
            head = DecoderHead(model.config.text_encoder)
            if bert is not None:
                start_head(head, bert, model.tokenizer.vocab)
            heads["mlm"] = head.to(model.device)
        whole = WithTwin(model, twin, heads)
        super().__init__(model, setup, whole=whole)
        self._heads = whole.heads
        self.contrast = (
            Contrast(model, twin, config.contrast, ramp_steps=setup.steps_per_epoch) if twin else None
        )

    def terms(self, step: int, part: int) -> Mapping[str, Tensor]:
        """`itc_loss`, `itm_loss`, `mlm_loss`, `prefix_lm_loss`, those that have a weight."""
        drawn = self.batch(step, part)
        batch, config = to_device(drawn, self.trained.device), self._config
        image_BND = image_tokens(self.trained, batch.pixels)
        terms: dict[str, Tensor] = {}
        if config.itc_weight or config.itm_weight:
            terms |= self._pairs(batch, image_BND, step)
        if config.mlm_weight:
            terms["mlm_loss"] = config.mlm_weight * masked_loss(*self._masked_words(drawn, image_BND))
        if config.prefix_lm_weight:
            logits_BLV, ids_BL = self._rest_of_texts(drawn, image_BND)
            pad_id = self.trained.tokenizer.pad_id
            terms["prefix_lm_loss"] = config.prefix_lm_weight * caption_loss(
                logits_BLV, ids_BL, pad_id=pad_id
            )
        return terms

    def after_step(self, step: int) -> None:
        """The queue turns, the twin moves."""
        if self.contrast is not None:
            self.contrast.turn()

    def state(self) -> Mapping[str, Any]:
        """The queue."""
        return {} if self.contrast is None else self.contrast.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        if self.contrast is not None:
            self.contrast.restore(state)

    def evaluate(self) -> Mapping[str, float]:
        """The evaluator's metrics, and in percent `masked_words` and `next_words` that are guessed right.

        The words to guess are the same in every evaluation.
        """
        with evaluating(self._whole), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            right, count = Counter[str](), Counter[str]()
            for drawn in self._held_out():
                for name, hits in self._guesses(drawn):
                    right[name] += int(hits.sum())
                    count[name] += hits.numel()
            words = {name: 100 * right[name] / max(1, count[name]) for name in count}
            return {**self.setup.evaluator(self.trained), **words}

    def _guesses(self, drawn: TextBatch) -> Iterator[tuple[str, Tensor]]:
        """What is guessed by name, and whether rightly, for each word."""
        image_BND = image_tokens(self.trained, drawn.pixels.to(self.trained.device))
        if self._config.mlm_weight:
            logits_PV, targets_P = self._masked_words(drawn, image_BND)
            yield "masked_words", logits_PV.argmax(-1) == targets_P
        if self._config.prefix_lm_weight:
            logits_BLV, ids_BL = self._rest_of_texts(drawn, image_BND)
            wanted_BL = guessed(ids_BL, pad_id=self.trained.tokenizer.pad_id)
            yield "next_words", (logits_BLV[:, :-1].argmax(-1) == ids_BL[:, 1:])[wanted_BL]

    def _pairs(self, batch: TextBatch, image_BND: Tensor, step: int) -> dict[str, Tensor]:
        model, config = self.trained, self._config
        text_BLD = model.encode_text(batch.ids_BL, batch.mask_BL)
        terms = {}
        if self.contrast is not None:
            itc = self.contrast.loss(batch, image_BND, text_BLD, step=step)
            similar = (itc.image_to_text_BB, itc.text_to_image_BB)
            terms["itc_loss"] = config.itc_weight * itc.loss
        else:
            similar = self._similarities(batch, image_BND, text_BLD)
        if config.itm_weight:
            matching = matching_loss(model, batch, image_BND, text_BLD, similar)
            terms["itm_loss"] = config.itm_weight * matching
        return terms

    @torch.no_grad()
    def _similarities(self, batch: TextBatch, image_BND: Tensor, text_BLD: Tensor) -> tuple[Tensor, Tensor]:
        # Detached: the counter of operations stumbles over views of what has a gradient, where none is kept.
        ours = joint(self.trained, batch, image_BND.detach(), text_BLD.detach())
        similar_BB = self.trained.logit_scale.exp() * ours.image_BE @ ours.text_BE.T
        return similar_BB, similar_BB.T

    def _masked_words(self, drawn: TextBatch, image_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the words to restore (P, V), and what they are (P,)."""
        model, device = self.trained, image_BND.device
        masked = mask_tokens(drawn.ids_BL, drawn.mask_BL, model.tokenizer, self._config.masking)
        targets_BL, mask_BL = masked.targets_BL.to(device), drawn.mask_BL.to(device)
        text_BLD = model.encode_text(masked.ids_BL.to(device), mask_BL)
        _, fused_BLD = model.fusion_encoder(image_BND, text_BLD, text_mask_BL=mask_BL)
        hidden_BL = targets_BL != NOT_MASKED  # logits of the others would be thrown away
        words_VD = model.text_encoder.embeddings.word.weight
        return self._heads["mlm"](fused_BLD[hidden_BL], words_VD), targets_BL[hidden_BL]

    def _rest_of_texts(self, drawn: TextBatch, image_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Logits behind every token of the texts' second halves (B, L, V), and these (B, L)."""
        model = self.trained
        halves = split_texts(
            drawn.ids_BL, drawn.mask_BL, draw_prefixes(drawn.mask_BL), model.tokenizer.pad_id
        )
        halves = to_device(halves, image_BND.device)
        memory_BMD, mask_BM = model.decoder_memory(image_BND, halves.prefix_ids_BL, halves.prefix_mask_BL)
        logits_BLV = model.text_decoder(
            halves.rest_ids_BL, memory_BMD, mask_BL=halves.rest_mask_BL, memory_mask_BN=mask_BM
        )
        return logits_BLV, halves.rest_ids_BL
