"""mplug-mini's retrieval half: image-text contrast on cached features of a frozen tower's first blocks."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.checkpoints import native
from mplug.errors import MplugError
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer, pad
from mplug.train.batches import Batch, Sampler
from mplug.train.config import MiniRetrievalConfig
from mplug.train.data import Split, read_captions
from mplug.train.evaluate import RetrievalReport, evaluate, text_embedder
from mplug.train.experiment import Goal, ParameterGroup
from mplug.train.experiments.base import evaluating
from mplug.train.features import FeatureCache, View, list_views, open_cache
from mplug.train.head_start import fit_heads
from mplug.train.initialise import initialise, unseeded_rows
from mplug.train.losses import itc_loss
from mplug.train.mini_learning import (
    SlowerRows,
    depthwise_in_float32,
    freeze,
    learning_groups,
    round_frozen,
)
from mplug.train.parallel import own_device
from mplug.train.precision import autocast


class MiniRetrieval:
    """The experiment.

    Args:
        config: of the recipe.
        data: Folder with the captions file and its images.

    Raises:
        MplugError: data or initial weights that cannot be read, a model that is to be sharded.
    """

    def __init__(self, config: MiniRetrievalConfig, data: Path) -> None:
        if config.sharding != "none":
            raise MplugError("mplug-mini is small: leave sharding at 'none', each process holds all of it.")
        self.config = config
        torch.manual_seed(config.seed)
        vocabulary = Path(config.initial.vocabulary)
        tokenizer = WordPieceTokenizer.from_file(vocabulary, max_length=config.max_caption_tokens)
        self.model = RetrievalModel(config.model, tokenizer)
        images = read_captions(data, config.data)
        train = [image for image in images if image.split == Split.TRAIN]
        self._dev = [image for image in images if image.split == Split.DEV]
        initialise(self.model, config.initial, train)
        self.model.to(own_device())
        freeze(self.model, config.frozen_blocks)
        round_frozen(self.model)
        depthwise_in_float32(self.model, config.frozen_blocks)
        views = list_views([*train, *self._dev], config.data)
        self.cache = self._open_cache(data, views)
        self.sampler = Sampler(train, self.cache, config.data, config.batch_size, config.seed)
        self._known_words = self._make_slower(tokenizer.vocab)

    @property
    def goal(self) -> Goal:
        """What is best: the mean of all recalls on dev."""
        return Goal("mean recall")

    def _open_cache(self, data: Path, views: list[View]) -> FeatureCache:
        encoder = self.model.image_encoder.eval()
        with autocast(self.config.precision, self.model.device.type):
            return open_cache(data, views, encoder, self.config.frozen_blocks, self.config.data.min_crop)

    def _make_slower(self, vocab: Sequence[str]) -> SlowerRows:
        new = set(unseeded_rows(self.config.initial, vocab))
        rates = self.config.optimizer
        return SlowerRows(
            self.model.text_encoder.embeddings.word.weight,
            [row for row in range(len(vocab)) if row not in new],
            rates.text_lr / rates.embedding_lr,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches, each accumulated part being one."""
        return self.sampler.steps_per_epoch // self.config.accumulate

    def prepare(self) -> None:
        """The head start."""
        self.model.eval()
        loss = fit_heads(self.model, self.sampler.images, self.cache, self.config)
        print(f"heads trained, loss {loss:.4f}", file=sys.stderr, flush=True)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The last blocks, the heads, the text encoder, and its words."""
        return learning_groups(self.model, self.config.optimizer)

    def losses(self, step: int, part: int) -> Mapping[str, Tensor]:
        """Both languages against the pictures, and against each other."""
        self.model.image_encoder.eval()  # batch norms keep ImageNet's statistics
        self._known_words.remember()
        batch = self.sampler.batch(step * self.config.accumulate + part)
        image_BE, english_BE, chinese_BE = self._embed(batch)
        identities = batch.identities.to(self.model.device)
        with torch.autocast(self.model.device.type, enabled=False):
            scale = self.model.logit_scale.exp().clamp(max=self.config.itc.max_scale)
            loss = (
                itc_loss(image_BE, english_BE, identities, scale)
                + itc_loss(image_BE, chinese_BE, identities, scale)
            ) / 2
            between = itc_loss(english_BE, chinese_BE, identities, scale)
        return {"itc_loss": loss, "languages_loss": self.config.itc.languages_weight * between}

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        features = batch.features.to(self.model.device)
        maps = self.model.image_encoder.backbone.trunk(features, self.config.frozen_blocks)
        pooled = F.dropout(maps[:, :1], self.config.itc.image_dropout)
        image_BE = self.model.project_image(self.model.image_encoder.adapter(pooled))
        english_BE, chinese_BE = self._embed_texts([*batch.captions, *batch.captions_zh]).chunk(2)
        return image_BE, english_BE, chinese_BE

    def _embed_texts(self, texts: list[str]) -> Tensor:
        """(B, E) in the texts' order; short and long ones run apart, so that little is padded."""
        tokens = self.model.tokenizer.encode_batch(texts)
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row].ids))
        halves = []
        for rows in (order[: len(order) // 2], order[len(order) // 2 :]):
            ids, mask = (
                torch.from_numpy(a).to(self.model.device)
                for a in pad([tokens[row] for row in rows], self.model.tokenizer.pad_id)
            )
            halves.append(self.model.embed_texts(ids, mask))
        return torch.cat(halves)[torch.argsort(torch.tensor(order))]

    def count(self, step: int, part: int) -> Mapping[str, int]:
        """Pictures."""
        return {"images": self.config.batch_size}

    def after_step(self, step: int) -> None:
        """Words of the published table move slower than the new ones."""
        self._known_words.hold_back()

    def state(self) -> Mapping[str, Any]:
        """Nothing beside the model."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""

    def evaluate(self) -> Mapping[str, float]:
        """Recall on the dev pictures, from their cached plain views."""
        with evaluating(self.model):
            embeds = torch.cat(
                [self._embed_dev(start) for start in range(0, len(self._dev), self.config.batch_size)]
            )
            return _metrics(evaluate(self._dev, embeds.cpu(), text_embedder(self.model)))

    def _embed_dev(self, start: int) -> Tensor:
        keys = [(image.path, 0) for image in self._dev[start : start + self.config.batch_size]]
        with torch.inference_mode():
            features = self.cache.read(keys).to(self.model.device)
            tokens = self.model.image_encoder.trunk(features, self.config.frozen_blocks)
            return self.model.project_image(tokens)

    def save(self, folder: Path) -> None:
        """Write the model as `mplug.load` takes it."""
        native.save(self.model, folder)

    def export(self, best: Path, folder: Path) -> None:
        """The best model as int8 rows."""
        native.save(native.load(best, RetrievalModel), folder, storage="int8")


def _metrics(report: RetrievalReport) -> dict[str, float]:
    rows = {
        f"{name} R@{depth}": value
        for name, recall in report.rows().items()
        for depth, value in ((1, recall.at_1), (5, recall.at_5), (10, recall.at_10))
    }
    return {**rows, "mean recall": report.mean}
