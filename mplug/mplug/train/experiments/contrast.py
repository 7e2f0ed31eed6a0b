"""Image-text contrast with momentum twins and a queue, and matching on the hard negatives that it finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mplug.reranking import RerankModel
from mplug.retrieval import RetrievalModel
from mplug.train.experiments.base import image_tokens
from mplug.train.experiments.batches import TextBatch
from mplug.train.experiments.settings import ContrastConfig
from mplug.train.objectives import (
    FeatureQueue,
    ItcResult,
    JointBatch,
    draw_negatives,
    itm_loss,
    matching_pairs,
    queued_itc_loss,
    update_twin,
)
from mplug.train.parallel import gather


class Contrast:
    """The contrastive loss of a model, and the twin and queue that it needs.

    Args:
        online: the model that learns.
        twin: of `make_twin`.
        config: sizes and shares.
        ramp_steps: over which alpha grows, an epoch in the reference.
    """

    def __init__(
        self, online: RetrievalModel, twin: RetrievalModel, config: ContrastConfig, *, ramp_steps: int
    ) -> None:
        self._online = online
        self._twin = twin
        self._config = config
        self._ramp_steps = ramp_steps
        self.queue = _first_queue(online, config.queue_size)
        self._waiting: list[JointBatch] = []

    def alpha(self, step: int) -> float:
        """The twins' share at a step."""
        return self._config.alpha * min(1.0, step / self._ramp_steps)

    def loss(self, batch: TextBatch, image_BND: Tensor, text_BLD: Tensor, *, step: int) -> ItcResult:
        """Contrast a batch; its twins' embeddings go into the queue at the next `turn`.

        Args:
            batch: what the states were made of.
            image_BND: the model's image_tokens.
            text_BLD: the model's text states.
            step: of the optimizer.
        """
        with torch.no_grad():
            twin = self._twin
            states = twin.encode_text(batch.ids_BL, batch.mask_BL)
            theirs = joint(twin, batch, image_tokens(twin, batch.pixels), states)
        ours = joint(self._online, batch, image_BND, text_BLD)
        self._waiting.append(theirs)
        # A similarity divided by the temperature has too few digits in bfloat16.
        with torch.autocast(image_BND.device.type, enabled=False):
            scale = self._online.logit_scale.float().exp()
            return queued_itc_loss(ours, theirs, self.queue, scale, alpha=self.alpha(step))

    def turn(self) -> None:
        """After the optimizer's step: the queue takes all processes' embeddings of the step, the twin moves."""
        for batch in self._waiting:
            self.queue.push(gather(batch.image_BE), gather(batch.text_BE), gather(batch.identity_B))
        self._waiting.clear()
        update_twin(self._twin, self._online, momentum=self._config.momentum)

    def state(self) -> Mapping[str, Any]:
        """The queue, for a checkpoint between two steps."""
        queue = self.queue
        return {
            "image_queue": queue.image_QE,
            "text_queue": queue.text_QE,
            "identity_queue": queue.identity_Q,
            "queue_position": queue.position,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        device = self._online.device
        self.queue = FeatureQueue(
            image_QE=state["image_queue"].to(device),
            text_QE=state["text_queue"].to(device),
            identity_Q=state["identity_queue"].to(device),
            position=int(state["queue_position"]),
        )


def joint(model: RetrievalModel, batch: TextBatch, image_BND: Tensor, text_BLD: Tensor) -> JointBatch:
    """States of a batch to the joint space."""
    image_BE, text_BE = model.project_image(image_BND), model.project_text(text_BLD, batch.mask_BL)
    return JointBatch(image_BE, text_BE, batch.identity_B)


def matching_loss(
    model: RerankModel, batch: TextBatch, image_BND: Tensor, text_BLD: Tensor, similar: tuple[Tensor, Tensor]
) -> Tensor:
    """Matching on the true pairs and on a hard negative for each picture and each text.

    Args:
        model: fusion encoder and matching head.
        batch: what the states were made of.
        image_BND: image_tokens.
        text_BLD: text states.
        similar: (B, B) similarities of pictures (rows) to texts, and of texts (rows) to pictures.

    Raises:
        ValueError: the whole batch shows the same thing.
    """
    image_to_text_BB, text_to_image_BB = similar
    image_picks_B = draw_negatives(text_to_image_BB, batch.identity_B)
    text_picks_B = draw_negatives(image_to_text_BB, batch.identity_B)
    images, texts, masks = matching_pairs(
        image_BND, text_BLD, batch.mask_BL, image_picks_B=image_picks_B, text_picks_B=text_picks_B
    )
    _, fused = model.fusion_encoder(images, texts, text_mask_BL=masks)
    return itm_loss(model.itm_head(fused[:, 0]).float())


def _first_queue(model: RetrievalModel, size: int) -> FeatureQueue:
    # The same random vectors in every process and every run.
    queue = FeatureQueue.random(size, model.embed_dim, torch.Generator().manual_seed(0))
    device = model.device
    return FeatureQueue(queue.image_QE.to(device), queue.text_QE.to(device), queue.identity_Q.to(device))
