"""Fine-tuning for questions about pictures: several answers to a question, each by its weight."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mplug.train.experiments.base import TaskExperiment, image_tokens
from mplug.train.experiments.batches import AnswerBatch
from mplug.train.objectives import answer_loss, spread
from mplug.vqa import VqaModel


class AnswerExperiment(TaskExperiment[VqaModel, AnswerBatch]):
    """The answers' tokens, from [fused picture; fused question].

    Its reference runs momentum twins at every step whose answers never reach the loss; there are none here.

    Args:
        model: every module but the joint space.
        setup: what comes from outside.
    """

    def terms(self, step: int, part: int) -> Mapping[str, Tensor]:
        """`answer_loss`."""
        batch, model = self.batch_here(step, part), self.trained
        image_BND = image_tokens(model, batch.pixels)
        memory_BMD, mask_BM = model.decoder_memory(image_BND, batch.ids_BL, batch.mask_BL)
        logits_ALV = model.text_decoder(
            batch.answer_ids_AL,
            spread(memory_BMD, batch.answers_B),
            mask_BL=batch.answer_mask_AL,
            memory_mask_BN=spread(mask_BM, batch.answers_B),
        )
        loss = answer_loss(
            logits_ALV,
            batch.answer_ids_AL,
            num_images=len(image_BND),
            weights_A=batch.weights_A,
            pad_id=model.tokenizer.pad_id,
        )
        return {"answer_loss": loss}
