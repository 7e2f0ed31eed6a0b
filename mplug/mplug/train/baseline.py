"""The baseline that mplug-mini is measured against: two small heads on frozen towers, English only.

EfficientNet-Lite0's mean-pooled map and MiniLM's mean-pooled states, with MiniLM's own vocabulary, each through one
linear layer into the joint space, trained by image-text contrast on the training photographs.

Command: ``python -m mplug.train.baseline --data DIR``
"""

import argparse
import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from mplug.config import MplugConfig
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer, pad
from mplug.train.config import DataConfig, InitialWeights
from mplug.train.data import CaptionedImage, Split, read_captions
from mplug.train.evaluate import EmbedTexts, evaluate, table
from mplug.train.features import list_views, open_cache
from mplug.train.initialise import find, load_bert, load_efficientnet
from mplug.train.losses import identity_numbers, itc_loss
from mplug.train.recipes import mplug_mini

_EPOCHS = 60
_BATCH = 512
_LEARNING_RATE = 1e-3


class Heads(nn.Module):
    """One linear layer for each tower, and the temperature."""

    def __init__(self, image_width: int, text_width: int, embed_dim: int) -> None:
        super().__init__()
        self.image = nn.Linear(image_width, embed_dim)
        self.text = nn.Linear(text_width, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(0.07)))


def frozen_towers(weights: InitialWeights) -> RetrievalModel:
    """Both published towers in mplug-mini's shape, MiniLM with its own vocabulary."""
    vocabulary = find(weights.text_encoder, "vocab.txt")
    tokenizer = WordPieceTokenizer.from_file(vocabulary, max_length=40)
    config = mplug_mini().model
    text = dataclasses.replace(config.text_encoder, vocab_size=len(tokenizer.vocab))
    model = RetrievalModel(dataclasses.replace(config, text_encoder=text), tokenizer)
    load_efficientnet(model.image_encoder.backbone, find(weights.image_encoder, "*.pth"))
    stored = load_file(find(weights.text_encoder, "model.safetensors"))
    load_bert(model.text_encoder, stored, tokenizer.vocab, tokenizer.vocab)
    return model.eval()


def text_states(model: RetrievalModel, texts: Sequence[str]) -> Tensor:
    """Mean-pooled states of texts, (texts, D)."""
    tokens = model.tokenizer.encode_batch(texts)
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row].ids))
    out = torch.empty(len(tokens), model.config.text_encoder.hidden)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        ids, mask = (torch.from_numpy(a) for a in pad([tokens[row] for row in rows], model.tokenizer.pad_id))
        with torch.inference_mode():
            states = model.encode_text(ids, mask)
        weight = mask[..., None].float()
        out[rows] = (states * weight).sum(1) / weight.sum(1)
    return out


def image_means(
    model: RetrievalModel, data: Path, images: Sequence[CaptionedImage], config: DataConfig
) -> Tensor:
    """Mean of the tower's last map, plain views, (pictures, 1280)."""
    depth = mplug_mini().frozen_blocks
    plain = dataclasses.replace(config, num_views=1)
    cache = open_cache(data, list_views(images, plain), model.image_encoder, depth, config.min_crop)
    out = []
    for start in range(0, len(images), _BATCH):
        maps = cache.read([(image.path, 0) for image in images[start : start + _BATCH]])
        with torch.inference_mode():
            out.append(model.image_encoder.backbone.trunk(maps, depth)[:, 0].clone())
    return torch.cat(out)


def train_heads(images: Tensor, texts: Tensor, rows_of: Sequence[range], embed_dim: int) -> Heads:
    """Trains the heads on precomputed states; `rows_of[i]` are the caption rows of picture i."""
    torch.manual_seed(0)
    chance = random.Random(0)
    heads = Heads(images.shape[1], texts.shape[1], embed_dim)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=_LEARNING_RATE, weight_decay=0.05)
    steps = _EPOCHS * (len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = chance.sample(range(len(images)), _BATCH)
        captions = [chance.choice(rows_of[row]) for row in rows]
        image = F.normalize(heads.image(F.dropout(images[rows], 0.1)), dim=-1)
        text = F.normalize(heads.text(F.dropout(texts[captions], 0.1)), dim=-1)
        labels = identity_numbers([str(row) for row in rows])
        loss = itc_loss(image, text, labels, heads.logit_scale.exp().clamp(max=100))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
    return heads.eval()


def caption_rows(images: Sequence[CaptionedImage]) -> tuple[list[str], list[range]]:
    """All English captions in order, and which rows of them belong to which picture."""
    texts: list[str] = []
    rows = []
    for image in images:
        rows.append(range(len(texts), len(texts) + len(image.captions)))
        texts += image.captions
    return texts, rows


def main() -> None:
    """Command line, see the module's docstring."""
    parser = argparse.ArgumentParser(
        description="Two small heads on frozen towers, measured on the val photographs."
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--image-encoder", default=InitialWeights().image_encoder)
    parser.add_argument("--text-encoder", default=InitialWeights().text_encoder)
    args = parser.parse_args()
    config = DataConfig()
    photos = [i for i in read_captions(args.data, config) if i.set_name == "photo"]
    train = [image for image in photos if image.split == Split.TRAIN]
    val = [image for image in photos if image.split == Split.VAL]
    towers = frozen_towers(InitialWeights(image_encoder=args.image_encoder, text_encoder=args.text_encoder))
    texts, rows = caption_rows(train)
    settings: MplugConfig = mplug_mini().model
    means = image_means(towers, args.data, [*train, *val], config)
    heads = train_heads(means[: len(train)], text_states(towers, texts), rows, settings.embed_dim)
    with torch.inference_mode():
        embeds = F.normalize(heads.image(means[len(train) :]), dim=-1)
        embed: EmbedTexts = lambda queries: F.normalize(heads.text(text_states(towers, queries)), dim=-1)  # noqa: E731
        found = evaluate(val, embeds, embed).rows()
    print(table({name: value for name, value in found.items() if "English" in name}))


if __name__ == "__main__":
    main()
