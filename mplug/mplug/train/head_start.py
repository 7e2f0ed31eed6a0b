"""The first stage of a run: the heads alone, on what the pretrained towers make of every view and caption.

Untrained heads in front of pretrained towers would only distort these (Kumar et al. 2022, "Fine-tuning can
distort pretrained features and underperform out-of-distribution"). Since the towers stand still, each view and
each English caption passes them once, and a thousand steps take a minute.
"""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import pad
from mplug.train.config import MiniRetrievalConfig
from mplug.train.data import CaptionedImage
from mplug.train.features import FeatureCache
from mplug.train.losses import identity_numbers, itc_loss
from mplug.train.mini_learning import HEADS
from mplug.train.precision import autocast

_BATCH = 256
_TEXT_DROPOUT = 0.1  # BERT's


def fit_heads(
    model: RetrievalModel, images: Sequence[CaptionedImage], cache: FeatureCache, config: MiniRetrievalConfig
) -> float:
    """Trains adapter, projections and temperature in place; returns the last step's loss.

    Args:
        model: With pretrained towers, which are left as they are.
        images: Training pictures, each as often as an epoch shows it.
        cache: Features of their views.
        config: The run's; its `head_start` says how long.
    """
    start, chance = config.head_start, random.Random(f"{config.seed} head start")
    with autocast(config.precision, model.device.type):
        pooled, view_row = _pooled_views(model, images, cache, config.frozen_blocks)
        states, caption_row = _pooled_captions(model, images)
    heads = [parameter for name, parameter in model.named_parameters() if name.startswith(HEADS)]
    optimizer = torch.optim.AdamW(heads, lr=start.lr, weight_decay=0.05, betas=config.optimizer.betas)
    steps = start.epochs * (len(images) // start.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    loss = torch.zeros(())
    for _ in range(steps):
        batch = chance.sample(images, start.batch_size)
        views = [view_row[image.path, chance.randrange(cache.num_views(image.path))] for image in batch]
        captions = [caption_row[chance.choice(image.captions)] for image in batch]
        image_BD = F.dropout(pooled[views].to(model.device).float(), config.itc.image_dropout)
        text_BD = F.dropout(states[captions], _TEXT_DROPOUT)
        loss = _loss(model, image_BD, text_BD, batch, config.itc.max_scale)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
    return loss.item()


def _loss(
    model: RetrievalModel,
    image_BD: Tensor,
    text_BD: Tensor,
    batch: Sequence[CaptionedImage],
    max_scale: float,
) -> Tensor:
    image_BE = model.project_image(model.image_encoder.adapter(image_BD[:, None]))
    one_token_B1 = torch.ones(len(batch), 1, dtype=torch.bool, device=text_BD.device)
    text_BE = model.project_text(text_BD[:, None], one_token_B1)
    identities = identity_numbers([image.identity for image in batch]).to(text_BD.device)
    return itc_loss(image_BE, text_BE, identities, model.logit_scale.exp().clamp(max=max_scale))


def _pooled_views(
    model: RetrievalModel, images: Sequence[CaptionedImage], cache: FeatureCache, depth: int
) -> tuple[Tensor, dict[tuple[str, int], int]]:
    """The tower's mean of the map for every view, float16 (views, D), and the row of each view."""
    keys = sorted({(image.path, view) for image in images for view in range(cache.num_views(image.path))})
    out = torch.empty(len(keys), model.config.image_encoder.width, dtype=torch.float16)
    for first in range(0, len(keys), _BATCH):
        features = cache.read(keys[first : first + _BATCH]).to(model.device)
        with torch.no_grad():
            maps = model.image_encoder.backbone.trunk(features, depth)
        out[first : first + _BATCH] = maps[:, 0]
    return out, {key: row for row, key in enumerate(keys)}


def _pooled_captions(
    model: RetrievalModel, images: Sequence[CaptionedImage]
) -> tuple[Tensor, dict[str, int]]:
    """The text encoder's pooled states of every English caption, float32 (captions, D), and the row of each."""
    captions = sorted({caption for image in images for caption in image.captions}, key=lambda c: (len(c), c))
    tokens = model.tokenizer.encode_batch(captions)
    rows = []
    for first in range(0, len(captions), _BATCH):
        ids, mask = (
            torch.from_numpy(a).to(model.device)
            for a in pad(tokens[first : first + _BATCH], model.tokenizer.pad_id)
        )
        with torch.no_grad():
            rows.append(model.pool_text(model.encode_text(ids, mask), mask).float())
    return torch.cat(rows), {caption: row for row, caption in enumerate(captions)}
