"""Retrieval quality of a model on the splits of a data folder.

Command: ``python -m mplug.train.evaluate MODEL --data DIR [--split val]`` prints the rows of a table.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mplug.contrastive import ContrastiveModel
from mplug.text.tokenizer import pad
from mplug.train.config import DataConfig
from mplug.train.data import CaptionedImage, Split, read_captions
from mplug.train.features import View, view_pixels
from mplug.train.metrics import Matrix, Recall, caption_relevance, recall

_BATCH = 64

EmbedTexts = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """Recall of photographs by caption and of captions by photograph."""

    text_to_image: Recall
    image_to_text: Recall
    text_to_image_zh: Recall
    image_to_text_zh: Recall

    def rows(self) -> dict[str, Recall]:
        """Name and value of each row, in reading order."""
        return {
            "English text → image": self.text_to_image,
            "image → English text": self.image_to_text,
            "Chinese text → image": self.text_to_image_zh,
            "image → Chinese text": self.image_to_text_zh,
        }

    @property
    def mean(self) -> float:
        """Mean of all recalls: what the best checkpoint is chosen by."""
        return float(np.mean([(r.at_1, r.at_5, r.at_10) for r in self.rows().values()]))


def text_embedder(model: ContrastiveModel) -> EmbedTexts:
    """Embeds any number of texts, sorted by length so that little is padded."""

    def embed(texts: Sequence[str]) -> Tensor:
        tokens = model.tokenizer.encode_batch(texts)
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row].ids))
        out = torch.empty(len(tokens), model.embed_dim)
        for start in range(0, len(order), 2 * _BATCH):
            rows = order[start : start + 2 * _BATCH]
            ids, mask = pad([tokens[row] for row in rows], model.tokenizer.pad_id)
            with torch.inference_mode():
                out[rows] = model.embed_texts(torch.from_numpy(ids), torch.from_numpy(mask)).float()
        return out

    return embed


def embed_pictures(model: ContrastiveModel, folder: Path, images: Sequence[CaptionedImage]) -> Tensor:
    """Float32 (pictures, E), each picture decoded and squashed as it is served."""
    out = []
    for start in range(0, len(images), _BATCH):
        views = [View(image.path, 0, flip=False) for image in images[start : start + _BATCH]]
        pixels = np.stack([view_pixels(folder, v, model.preprocess.image_size, 1.0) for v in views])
        with torch.inference_mode():
            out.append(model.embed_images(torch.from_numpy(pixels)).float())
    return torch.cat(out)


def evaluate(
    images: Sequence[CaptionedImage], image_embeds: Tensor, embed_texts: EmbedTexts
) -> RetrievalReport:
    """Text to image and back, in both languages; a picture bearing the identical caption counts as right."""
    both = [
        _both_ways(captions, image_embeds, embed_texts)
        for captions in ([i.captions for i in images], [i.captions_zh for i in images])
    ]
    return RetrievalReport(both[0][0], both[0][1], both[1][0], both[1][1])


def _both_ways(
    captions: Sequence[Sequence[str]], image_embeds: Tensor, embed: EmbedTexts
) -> tuple[Recall, Recall]:
    texts, relevant = caption_relevance(captions)
    scores: Matrix = (embed(texts) @ image_embeds.T).numpy()
    return recall(scores, relevant), recall(scores.T, relevant.T)


def drawings_by_label(
    images: Sequence[CaptionedImage], image_embeds: Tensor, embed_texts: EmbedTexts
) -> Recall:
    """Drawings by their English label (the second caption); the same code point is a hit."""
    labels = [image.captions[1] for image in images]
    identity = np.array([image.identity for image in images])
    relevant = identity[:, None] == identity[None, :]
    return recall((embed_texts(labels) @ image_embeds.T).numpy(), relevant)


def evaluate_folder(model: ContrastiveModel, folder: Path, data: DataConfig) -> dict[str, Recall]:
    """The published table: val photographs, and the drawings of the style that was never trained on."""
    images = read_captions(folder, data)
    val = [image for image in images if image.split == Split.VAL]
    unseen = [image for image in images if image.split == Split.UNSEEN_STYLE]
    embed = text_embedder(model)
    rows = dict(evaluate(val, embed_pictures(model, folder, val), embed).rows())
    if unseen:
        rows["unseen drawings by English label"] = drawings_by_label(
            unseen, embed_pictures(model, folder, unseen), embed
        )
    return rows


def table(rows: dict[str, Recall]) -> str:
    """A Markdown table of recalls."""
    head = "| what | queries | R@1 / R@5 / R@10, % |\n|---|---|---|"
    return "\n".join([head, *(f"| {name} | {value.num_queries} | {value} |" for name, value in rows.items())])


def main() -> None:
    """Command line, see the module's docstring."""
    from mplug.loading import load

    parser = argparse.ArgumentParser(description="Retrieval quality on the val split and on unseen drawings.")
    parser.add_argument("model", help="mplug-mini, a folder, or open_clip:NAME")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    print(table(evaluate_folder(load(args.model), args.data, DataConfig())))


if __name__ == "__main__":
    main()
