"""Our models behind the names of ModelScope's mPLUG, with its habits: padding, states changed in place.

`STAND_IN_CHANGES` names a parameter of ours that is changed a little: the package that computes something else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mplug.captioning import CaptionModel
from mplug.generation import generate
from mplug.reranking import RerankModel
from mplug.tasks import MODELSCOPE_TASKS
from mplug.text_decoder import DecoderState
from mplug.verification.stages import TaskStages
from mplug.vqa import VqaModel

Texts = Mapping[str, Tensor]


class TextEncoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encode = model.encode_text

    def forward(self, text: Texts) -> tuple[Tensor]:
        return (self.encode(text["input_ids"], text["attention_mask"].bool()),)


class FusionEncoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.ours = model.fusion_encoder

    def forward(self, image: Tensor, states: Tensor, text: Texts) -> list[Tensor]:
        fused, fused_text = self.ours(image, states, text_mask_BL=text["attention_mask"].bool())
        image.copy_(fused)
        return [image, fused_text]


class TextDecoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.ours = model.text_decoder

    def forward(self, ids: Tensor, memory: Tensor, mask: Tensor | None) -> SimpleNamespace:
        return SimpleNamespace(logits=self.ours(ids, memory, memory_mask_BN=mask))


class MPlug(nn.Module):
    visn_fc: nn.Module
    visn_layer_norm: nn.Module
    itm_head: nn.Module

    def __init__(self, folder: str, task: str) -> None:
        super().__init__()
        stages = TaskStages(Path(folder), MODELSCOPE_TASKS[task])
        self.ours = model = stages.model
        if changed := os.environ.get("STAND_IN_CHANGES"):
            model.get_parameter(changed).data.flatten()[0] += 0.01
        self.large = model.config.image_encoder.adapter_width is not None
        self.visual_encoder: Any = nn.ModuleDict({"visual": model.image_encoder.backbone})
        if self.large:
            self.visn_fc, self.visn_layer_norm = nn.Identity(), model.image_encoder.adapter
        # ModelScope builds both for every task; a caption model of ours has neither, and it never runs them.
        captions = isinstance(model, CaptionModel)
        self.text_encoder: nn.Module = nn.Identity() if captions else TextEncoder(model)
        self.fusion_encoder: nn.Module = nn.Identity() if captions else FusionEncoder(model)
        if hasattr(model, "text_decoder"):
            self.text_decoder = TextDecoder(model)
        if vectors := stages.vectors:
            assert isinstance(model, RerankModel)
            self.vision_proj, self.text_proj = vectors.image_proj, vectors.text_proj
            self.temp = torch.exp(-vectors.logit_scale)
            self.itm_head = model.itm_head

    @classmethod
    def from_pretrained(cls, folder: str, task: str) -> MPlug:
        return cls(folder, task)

    def forward(self, image: Tensor, text: Texts, train: bool) -> Any:
        assert not train
        assert not self.training
        tokens = self.visual_encoder.visual(image)
        # Retrieval goes over the bridge whether there is one or not.
        if self.large or hasattr(self, "itm_head"):
            tokens = self.visn_layer_norm(self.visn_fc(tokens))
        if isinstance(self.ours, CaptionModel):
            return self.generated(tokens, None)
        states = self.text_encoder(text)[0]
        fused, fused_text = self.fusion_encoder(tokens, states, text)
        if hasattr(self, "itm_head"):
            return self.itm_head(fused_text[:, 0]).softmax(-1)
        image_mask = text["attention_mask"].new_ones(fused.shape[:2])
        mask = torch.cat([image_mask, text["attention_mask"]], 1).bool()
        return self.generated(torch.cat([fused, fused_text], 1), mask)

    def generated(self, memory: Tensor, mask: Tensor | None) -> tuple[list[list[Tensor]], list[list[float]]]:
        decoder, prompt = self.text_decoder.ours, [101]

        def start(_: Sequence[int]) -> DecoderState:
            state: DecoderState = decoder.start(memory, memory_mask_BN=mask)
            return state

        self.text_decoder(torch.tensor([prompt]), memory, mask)
        self.text_decoder(torch.tensor([[*prompt, 7]]), memory, mask)
        assert isinstance(self.ours, CaptionModel | VqaModel)
        best = generate(decoder, start, [prompt], self.ours.generation_config())[0][0]
        return [[torch.tensor(best.ids)]], [[best.score]]
