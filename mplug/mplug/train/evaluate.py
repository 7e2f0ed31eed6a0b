"""Retrieval quality of a model on the splits of a data folder; `mplug eval retrieval` prints it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mplug.contrastive import ContrastiveModel
from mplug.evaluation.recall import Matrix, Recall, caption_relevance, recall
from mplug.evaluation.retrieval import match_pairs, order_recalls, wanted_pairs
from mplug.itm_scoring import Images, ItmScorer
from mplug.score_fusion import Order, ScoreFusion
from mplug.text.tokenizer import Tokens, pad
from mplug.train.data import CaptionedImage
from mplug.train.features import View, view_pixels

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
                tensors = [torch.from_numpy(array).to(model.device) for array in (ids, mask)]
                out[rows] = model.embed_texts(*tensors).float().cpu()
        return out

    return embed


def picture_pixels(folder: Path, images: Sequence[CaptionedImage], size: int) -> Tensor:
    """Uint8 (pictures, 3, size, size), each picture decoded and squashed as it is served."""
    views = [View(image.path, 0, flip=False) for image in images]
    return torch.from_numpy(np.stack([view_pixels(folder, view, size, 1.0) for view in views]))


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


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """What the first candidates are matched with."""

    scorer: ItmScorer
    image_tokens: Images
    """Of the pictures, in their order."""
    top_k: int
    """So many candidates of each query are matched."""
    fusion: ScoreFusion = ScoreFusion.SUM
    """What the order `both` is."""
    on_text: Callable[[], None] = lambda: None
    """Called after each text."""


def evaluate_orders(
    images: Sequence[CaptionedImage],
    image_embeds: Tensor,
    embed_texts: EmbedTexts,
    tokenize: Callable[[Sequence[str]], Sequence[Tokens]],
    matching: Matching | None = None,
) -> dict[str, dict[Order, Recall]]:
    """As `evaluate`, in each order, and only in the languages that there are captions in.

    Args:
        images: pictures with their captions.
        image_embeds: of them, (pictures, E).
        embed_texts: as of `text_embedder`.
        tokenize: of the model that matches.
        matching: None: by the cosine alone.
    """
    rows: dict[str, dict[Order, Recall]] = {}
    languages = {"English": [i.captions for i in images], "Chinese": [i.captions_zh for i in images]}
    for language, captions in languages.items():
        texts, relevant = caption_relevance(captions)
        if not texts:
            continue
        cosines: Matrix = (embed_texts(texts) @ image_embeds.T).numpy()
        names = (f"{language} text → image", f"image → {language} text")
        if matching is None:
            rows |= {names[0]: {Order.ITC: recall(cosines, relevant)}}
            rows |= {names[1]: {Order.ITC: recall(cosines.T, relevant.T)}}
            continue
        ids = [tokens.ids for tokens in tokenize(texts)]
        wanted = wanted_pairs(cosines, matching.top_k)
        matches = match_pairs(matching.scorer, ids, matching.image_tokens, wanted, matching.on_text)
        limits = (matching.top_k, matching.fusion)
        rows |= {names[0]: order_recalls(cosines, matches, relevant, *limits)}
        rows |= {names[1]: order_recalls(cosines.T, matches.T, relevant.T, *limits)}
    return rows


def table(rows: dict[str, Recall]) -> str:
    """A Markdown table of recalls."""
    head = "| what | queries | R@1 / R@5 / R@10, % |\n|---|---|---|"
    return "\n".join([head, *(f"| {name} | {value.num_queries} | {value} |" for name, value in rows.items())])
