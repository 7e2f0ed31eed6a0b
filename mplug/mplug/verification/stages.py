"""Our models on one picture and text, each stage as a named array.

`reference_runner.py` gives ModelScope's under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mplug.captioning import CaptionModel
from mplug.checkpoints import modelscope
from mplug.generation import generate
from mplug.image_encoder import normalise
from mplug.preprocess import PreprocessConfig
from mplug.reranking import RerankModel
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_decoder import DecoderState
from mplug.vqa import VqaModel

MODELS: Mapping[str, type[CaptionModel] | type[VqaModel] | type[RerankModel]] = {
    "caption": CaptionModel,
    "vqa": VqaModel,
    "retrieval": RerankModel,
}
Stages = dict[str, NDArray[np.float32] | NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class StageInput:
    """What a task's model is given."""

    image_13RR: Tensor
    """float32 (1, 3, R, R), normalised."""
    ids_1L: Tensor
    """int64 (1, L), without padding; captioning does not read it."""


def read_input(
    pixels_3RR: NDArray[np.uint8], text: str, preprocess: PreprocessConfig, tokenizer: WordPieceTokenizer
) -> StageInput:
    """Normalise pixels, from `mplug.preprocess.to_pixels`, and tokenize a text."""
    pixels_13RR = torch.from_numpy(pixels_3RR)[None]
    image_13RR = normalise(pixels_13RR, preprocess.mean, preprocess.std)
    return StageInput(image_13RR, torch.from_numpy(tokenizer.encode(text).ids)[None])


class TaskStages:
    """A folder's model for a task.

    Args:
        folder: ModelScope's.
        task: `caption`, `vqa` or `retrieval`; the last has vectors and matching, as ModelScope's class.

    Raises:
        CheckpointError: the folder cannot be loaded for the task.
    """

    def __init__(self, folder: Path, task: str) -> None:
        self.model = modelscope.load(folder, MODELS[task])
        self.vectors = modelscope.load(folder, RetrievalModel) if task == "retrieval" else None
        """What makes the vectors, for retrieval."""

    @torch.inference_mode()
    def run(self, given: StageInput) -> Stages:
        """Compute every stage that the task has, in the order of the data."""
        model = self.model
        found: dict[str, Tensor] = {"pixels": given.image_13RR}
        found["vision tower"] = model.image_encoder.backbone(given.image_13RR)
        image_1ND = model.image_encoder.adapter(found["vision tower"])
        if model.config.image_encoder.adapter_width is not None:
            found["image tokens"] = image_1ND
        if isinstance(model, CaptionModel):
            found |= _decoded(model, image_1ND, None)
        else:
            found |= self._with_text(model, image_1ND, given)
        return {stage: tensor.numpy() for stage, tensor in found.items()}

    def _with_text(
        self, model: VqaModel | RerankModel, image_1ND: Tensor, given: StageInput
    ) -> dict[str, Tensor]:
        ids_1L, mask_1L = given.ids_1L, torch.ones_like(given.ids_1L, dtype=torch.bool)
        text_1LD = model.encode_text(ids_1L, mask_1L)
        found = {"text ids": ids_1L[0], "text states": text_1LD}
        if self.vectors is not None:
            found["image vector"] = self.vectors.project_image(image_1ND)
            found["text vector"] = self.vectors.project_text(text_1LD, mask_1L)
            found["temperature"] = torch.exp(-self.vectors.logit_scale)
        fused = model.fusion_encoder(image_1ND, text_1LD, text_mask_BL=mask_1L)
        found["fused image"], found["fused text"] = fused
        if isinstance(model, VqaModel):
            return found | _decoded(model, *model.decoder_memory(image_1ND, ids_1L, mask_1L))
        logits_12 = model.itm_logits(image_1ND, ids_1L, mask_1L)
        return {**found, "matching logits": logits_12, "matching scores": logits_12.softmax(-1)}


def _decoded(
    model: CaptionModel | VqaModel, memory_1ND: Tensor, memory_mask_1N: Tensor | None
) -> dict[str, Tensor]:
    decoder = model.text_decoder
    prompt = [decoder.config.bos_id]

    def start(_: Sequence[int]) -> DecoderState:
        return decoder.start(memory_1ND, memory_mask_BN=memory_mask_1N)

    logits_1V = decoder.step(torch.tensor([prompt]), start([0]))
    found = generate(decoder, start, [prompt], model.generation_config())
    return {"first logits": logits_1V, "generated ids": torch.tensor(found[0][0].ids)}
