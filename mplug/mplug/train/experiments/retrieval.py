"""Fine-tuning for retrieval: contrast finds the candidates, matching puts them in order (mPLUG section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mplug.train.experiments.base import Setup, TaskExperiment, WithTwin, image_tokens, make_twin
from mplug.train.experiments.batches import TextBatch
from mplug.train.experiments.contrast import Contrast, matching_loss
from mplug.train.experiments.models import MatchingModel
from mplug.train.experiments.settings import RetrievalObjective


class RetrievalExperiment(TaskExperiment[MatchingModel, TextBatch]):
    """Contrast with twins and matching with hard negatives.

    Args:
        model: both encoders, fusion, heads; it is what `save` writes, for retrieval and reranking.
        config: the terms of the loss.
        setup: what comes from outside.
    """

    def __init__(
        self, model: MatchingModel, config: RetrievalObjective, setup: Setup[MatchingModel, TextBatch]
    ) -> None:
        twin = make_twin(model)
        super().__init__(model, setup, whole=WithTwin(model, twin))
        self._config = config
        self.contrast = Contrast(model, twin, config.contrast, ramp_steps=setup.steps_per_epoch)

    def terms(self, step: int, part: int) -> Mapping[str, Tensor]:
        """`itc_loss` and `itm_loss`."""
        batch, model = self.batch_here(step, part), self.trained
        image_BND = image_tokens(model, batch.pixels)
        text_BLD = model.encode_text(batch.ids_BL, batch.mask_BL)
        itc = self.contrast.loss(batch, image_BND, text_BLD, step=step)
        similar = (itc.image_to_text_BB, itc.text_to_image_BB)
        itm = matching_loss(model, batch, image_BND, text_BLD, similar)
        return {"itc_loss": self._config.itc_weight * itc.loss, "itm_loss": self._config.itm_weight * itm}

    def after_step(self, step: int) -> None:
        """The queue turns, the twin moves."""
        self.contrast.turn()

    def state(self) -> Mapping[str, Any]:
        """The queue."""
        return self.contrast.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.contrast.restore(state)
