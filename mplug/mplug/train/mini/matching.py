"""Matching (ITM) and masked words (MLM), on pictures that look alike."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mplug.train.data import CaptionedImage
from mplug.train.experiments.batches import TextBatch, to_device, tokenize
from mplug.train.experiments.contrast import joint, matching_loss
from mplug.train.experiments.models import WholeModel
from mplug.train.experiments.settings import MaskConfig
from mplug.train.experiments.text_objectives import NOT_MASKED, mask_tokens, masked_loss
from mplug.train.losses import identity_numbers
from mplug.train.mini.config import WholeStageConfig
from mplug.train.mini.reading import Shuffled, StageData, draw_views, neighbour_order

_EMBEDDED_AT_ONCE = 512


class Matching:
    """Pairs: each picture with its text, with another's text, and the text with another's picture."""

    def __init__(self, model: WholeModel, data: StageData, config: WholeStageConfig) -> None:
        self._model = model
        self._data = data
        self._config = config
        repeats = dict(config.data.set_repeats)
        self._repeats = [repeats.get(image.set_name, 1) for image in data.train]
        self._embeds_PE = self._embed_pictures()
        self._batches = Shuffled(data.train, config.batch.pairs, f"{config.seed} pairs", self._order)

    def losses(self, number: int, chance: random.Random) -> Mapping[str, Tensor]:
        """`itm_loss` and `mlm_loss` of a batch, counted from 0."""
        images = self._batches.batch(number)
        tokens_BND = draw_views(self._data.tokens, [image.path for image in images], chance)
        read = self._read(images, tokens_BND, chance)
        batch = to_device(read, tokens_BND.device)
        model, weight = self._model, self._config.pair_weight
        text_BLD = model.encode_text(batch.ids_BL, batch.mask_BL)
        with torch.no_grad(), torch.autocast(tokens_BND.device.type, enabled=False):
            pair = joint(model, batch, tokens_BND, text_BLD.float())
            hardness = min(1.0, (number + 1) / max(1, self._config.batch.hard_after))
            similar_BB = hardness * model.logit_scale.exp() * pair.image_BE @ pair.text_BE.T
        matching = matching_loss(model, batch, tokens_BND, text_BLD, (similar_BB, similar_BB.T))
        losses = {"itm_loss": weight * matching}
        if self._config.masked_weight:
            masked = self._masked_words(read, tokens_BND)
            losses["mlm_loss"] = weight * self._config.masked_weight * masked
        return losses

    def _read(self, images: Sequence[CaptionedImage], tokens_BND: Tensor, chance: random.Random) -> TextBatch:
        # One language for the whole batch: a text in another one would be an easy negative.
        english = chance.random() < self._config.batch.english
        texts = [
            chance.choice(image.captions if english else image.captions_zh or image.captions)
            for image in images
        ]
        ids_BL, mask_BL = tokenize(self._model.tokenizer, texts)
        return TextBatch(
            pixels=tokens_BND,
            ids_BL=ids_BL,
            mask_BL=mask_BL,
            identity_B=identity_numbers([image.identity for image in images]),
            given_B=torch.zeros(len(images), dtype=torch.int64),
        )

    def _masked_words(self, batch: TextBatch, tokens_BND: Tensor) -> Tensor:
        model, device = self._model, tokens_BND.device
        masked = mask_tokens(batch.ids_BL, batch.mask_BL, model.tokenizer, MaskConfig())
        targets_BL, mask_BL = masked.targets_BL.to(device), batch.mask_BL.to(device)
        text_BLD = model.encode_text(masked.ids_BL.to(device), mask_BL)
        _, fused_BLD = model.fusion_encoder(tokens_BND, text_BLD, text_mask_BL=mask_BL)
        hidden_BL = targets_BL != NOT_MASKED
        # The decoder's output head restores them: it is trained before there is anything to decode.
        return masked_loss(model.text_decoder.logits(fused_BLD[hidden_BL]), targets_BL[hidden_BL])

    def _order(self, chance: random.Random) -> list[CaptionedImage]:
        groups: list[list[int]] = []
        for repeat in range(max(self._repeats)):
            rows = [row for row, count in enumerate(self._repeats) if count > repeat]
            found = neighbour_order(self._embeds_PE[rows], self._config.batch.neighbours, chance)
            groups += [[rows[place] for place in group] for group in found]
        chance.shuffle(groups)
        return [self._data.train[row] for group in groups for row in group]

    @torch.no_grad()
    def _embed_pictures(self) -> Tensor:
        keys = [(image.path, 0) for image in self._data.train]
        parts = range(0, len(keys), _EMBEDDED_AT_ONCE)
        return torch.cat(
            [
                self._model.project_image(
                    self._data.tokens.first(keys[start : start + _EMBEDDED_AT_ONCE])
                ).cpu()
                for start in parts
            ]
        )
