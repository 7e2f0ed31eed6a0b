"""Fine-tuning for captions by cross-entropy; `scst.py` goes on from there."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mplug.captioning import CaptionModel
from mplug.train.experiments.base import Setup, TaskExperiment, image_tokens
from mplug.train.experiments.batches import TextBatch
from mplug.train.experiments.settings import CaptionObjective
from mplug.train.objectives import caption_loss


class CaptionExperiment(TaskExperiment[CaptionModel, TextBatch]):
    """Every token of a caption after those before it; a prompt (`TextBatch.given_B`) is read and not guessed.

    Args:
        model: image encoder and decoder.
        config: the loss.
        setup: what comes from outside.
    """

    def __init__(
        self, model: CaptionModel, config: CaptionObjective, setup: Setup[CaptionModel, TextBatch]
    ) -> None:
        super().__init__(model, setup)
        self._config = config

    def terms(self, step: int, part: int) -> Mapping[str, Tensor]:
        """`caption_loss`."""
        batch, model = self.batch_here(step, part), self.trained
        image_BND = image_tokens(model, batch.pixels)
        logits_BLV = model.text_decoder(batch.ids_BL, image_BND, mask_BL=batch.mask_BL)
        loss = caption_loss(
            logits_BLV,
            batch.ids_BL,
            pad_id=model.tokenizer.pad_id,
            given_B=batch.given_B,
            label_smoothing=self._config.label_smoothing,
        )
        return {"caption_loss": loss}
