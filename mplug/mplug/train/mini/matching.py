"""Matching (ITM) and masked words (MLM), on pictures that look alike."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.train.data import CaptionedImage
from mplug.train.experiments.batches import TextBatch, to_device, tokenize
from mplug.train.experiments.models import WholeModel
from mplug.train.experiments.settings import MaskConfig
from mplug.train.experiments.text_objectives import NOT_MASKED, mask_tokens, masked_loss
from mplug.train.losses import identity_numbers
from mplug.train.mini.config import WholeStageConfig
from mplug.train.mini.pair_scores import pair_logits
from mplug.train.mini.reading import Shuffled, StageData, draw_views, neighbour_order

_EMBEDDED_AT_ONCE = 512


class Matching:
    """Groups of pictures that look alike, a text of each: every picture is held against every text of its group."""

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
        batch, config = self._config.batch, self._config
        images = self._batches.batch(number)
        if chance.random() < batch.strangers:
            groups = max(1, len(images) // batch.neighbours)
            images = [image for first in range(groups) for image in images[first::groups]]
        tokens_BND = draw_views(self._data.tokens, [image.path for image in images], chance)
        read = self._read(images, tokens_BND, chance)
        losses = {"itm_loss": config.pair_weight * self._matching(to_device(read, tokens_BND.device))}
        if config.masked_weight and batch.masked:
            masked = self._masked_words(read, tokens_BND)
            losses["mlm_loss"] = config.pair_weight * config.masked_weight * masked
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

    def _matching(self, batch: TextBatch) -> Tensor:
        model, size = self._model, self._config.batch.neighbours
        with torch.no_grad():
            text_BLD = model.encode_text(batch.ids_BL, batch.mask_BL)
        tokens_BND = F.dropout(batch.pixels, self._config.token_dropout)
        found = []
        for start in range(0, len(tokens_BND), size):
            some = slice(start, start + size)
            logits_GG = pair_logits(model, tokens_BND[some], text_BLD[some], batch.mask_BL[some])
            found.append(group_loss(logits_GG, batch.identity_B[some]))
        return torch.stack(found).mean()

    def _masked_words(self, batch: TextBatch, tokens_BND: Tensor) -> Tensor:
        model, device, some = self._model, tokens_BND.device, slice(self._config.batch.masked)
        masked = mask_tokens(batch.ids_BL[some], batch.mask_BL[some], model.tokenizer, MaskConfig())
        targets_BL, mask_BL = masked.targets_BL.to(device), batch.mask_BL[some].to(device)
        text_BLD = model.encode_text(masked.ids_BL.to(device), mask_BL)
        _, fused_BLD = model.fusion_encoder(tokens_BND[some], text_BLD, text_mask_BL=mask_BL)
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


def group_loss(logits_GG: Tensor, identity_G: Tensor) -> Tensor:
    """How badly a group's pictures and texts are told apart.

    The mean of two questions. Which of the group's texts, or pictures, is it? Cross-entropy of the log-odds, both
    ways: what ranking needs, and a gradient from every hard negative at once, where a single one leaves a small fusion
    encoder at chance for thousands of steps. Does this pair match? The reference's, which makes the log-odds a
    probability; the pairs that match weigh as much as all that do not.

    Args:
        logits_GG: log-odds of pictures (rows) and texts, matching ones on the diagonal.
        identity_G: int64, equal where two rows show the same thing: such pairs are in neither question.
    """
    own = torch.eye(len(logits_GG), dtype=torch.bool, device=logits_GG.device)
    alike = (identity_G[:, None] == identity_G) & ~own
    choices = logits_GG.masked_fill(alike, -torch.inf)
    right = torch.arange(len(logits_GG), device=logits_GG.device)
    which = F.cross_entropy(choices, right) + F.cross_entropy(choices.T, right)
    others = logits_GG[~own & ~alike]
    whether = F.softplus(-logits_GG[own]).mean()
    if len(others):
        whether = whether + F.softplus(others).mean()
    return (which + whether) / 4
