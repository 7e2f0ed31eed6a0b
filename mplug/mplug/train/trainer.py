"""The training loop: image-text contrast on cached features of a frozen tower's first blocks."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.checkpoints import native
from mplug.errors import MplugError
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer, pad
from mplug.train import optimizer as optim
from mplug.train.batches import Batch, Sampler
from mplug.train.config import TrainConfig
from mplug.train.data import Split, read_captions
from mplug.train.evaluate import RetrievalReport, evaluate, text_embedder
from mplug.train.features import FeatureCache, list_views, open_cache
from mplug.train.head_start import fit_heads
from mplug.train.initialise import initialise, unseeded_rows
from mplug.train.losses import itc_loss
from mplug.train.precision import autocast, depthwise_in_float32
from mplug.train.run_state import Progress, RunFolder


class Trainer:
    """One run in one output folder; a second `fit` on the same folder goes on where the first stopped.

    Args:
        config: From a recipe.
        data: Folder with the captions file and its images.
        output: Where checkpoints, log and the best model go.
        resume: Whether an existing run in `output` may be continued.

    Raises:
        MplugError: `output` holds a run and `resume` is false, or a run of another configuration.
    """

    def __init__(self, config: TrainConfig, data: Path, output: Path, *, resume: bool = True) -> None:
        self.config = config
        self.folder = RunFolder(output)
        _claim(self.folder, config, resume)
        torch.manual_seed(config.seed)
        vocabulary = Path(config.initial.vocabulary)
        tokenizer = WordPieceTokenizer.from_file(vocabulary, max_length=config.max_caption_tokens)
        self.model = RetrievalModel(config.model, tokenizer)
        images = read_captions(data, config.data)
        self._train = [image for image in images if image.split == Split.TRAIN]
        self._dev = [image for image in images if image.split == Split.DEV]
        initialise(self.model, config.initial, self._train)
        self._known_rows = sorted(
            set(range(len(tokenizer.vocab))) - set(unseeded_rows(config.initial, tokenizer.vocab))
        )
        optim.freeze(self.model, config.frozen_blocks)
        optim.round_frozen(self.model)
        depthwise_in_float32(self.model, config.frozen_blocks)
        self.cache = self._open_cache(data)
        self.sampler = Sampler(self._train, self.cache, config.data, config.batch_size, config.seed)
        self.optimizer = optim.build_optimizer(self.model, config.optimizer)

    def _open_cache(self, data: Path) -> FeatureCache:
        views = list_views([*self._train, *self._dev], self.config.data)
        encoder = self.model.image_encoder.eval()
        with autocast(self.config.precision):
            return open_cache(data, views, encoder, self.config.frozen_blocks, self.config.data.min_crop)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.sampler.steps_per_epoch

    def fit(self) -> Path:
        """Trains to the end; returns the folder of the best model as int8 rows."""
        if self.folder.latest() is None:
            self._head_start()
        progress = self.folder.restore(self.model, self.optimizer)
        started, first = time.monotonic(), progress.step
        while progress.step < self.num_steps:
            loss = self.step(progress.step)
            progress = Progress(progress.step + 1, progress.best_metric)
            if progress.step % self.config.log_every == 0:
                self._report(progress, loss, (time.monotonic() - started) / (progress.step - first))
            epoch_ended = progress.step % self.sampler.steps_per_epoch == 0
            if epoch_ended:
                progress = self._keep_best(progress)
            if epoch_ended or progress.step % self.config.checkpoint_every == 0:
                self.folder.save(progress, self.model, self.optimizer)
        best = native.load(self.folder.best, RetrievalModel)
        native.save(best, self.folder.export, storage="int8")
        return self.folder.export

    def _head_start(self) -> None:
        self.model.eval()
        loss = fit_heads(self.model, self.sampler.images, self.cache, self.config)
        print(f"heads trained, loss {loss:.4f}", flush=True)
        self._log_dev(0, self.evaluate())
        self.folder.save(Progress(), self.model, self.optimizer)

    def step(self, step: int) -> float:
        """One step, counted from 0; its randomness depends on the seed and its number only."""
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        self.model.train()
        self.model.image_encoder.eval()  # batch norms keep ImageNet's statistics
        optim.set_learning_rates(self.optimizer, self.config.optimizer, step, self.num_steps)
        loss = self._loss(self.sampler.batch(step))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm)
        words = self.model.text_encoder.embeddings.word.weight
        slowness = self.config.optimizer.text_lr / self.config.optimizer.embedding_lr
        with optim.slower_rows(words, self._known_rows, slowness):
            self.optimizer.step()
        return loss.item()

    def _loss(self, batch: Batch) -> Tensor:
        with autocast(self.config.precision):
            maps = self.model.image_encoder.backbone.trunk(batch.features, self.config.frozen_blocks)
            pooled = F.dropout(maps[:, :1], self.config.itc.image_dropout)
            image_BE = self.model.project_image(self.model.image_encoder.adapter(pooled))
            text_BE = self._embed_texts([*batch.captions, *batch.captions_zh])
        english_BE, chinese_BE = text_BE.chunk(2)
        scale = self.model.logit_scale.exp().clamp(max=self.config.itc.max_scale)
        loss = (
            itc_loss(image_BE, english_BE, batch.identities, scale)
            + itc_loss(image_BE, chinese_BE, batch.identities, scale)
        ) / 2
        return loss + self.config.itc.languages_weight * itc_loss(
            english_BE, chinese_BE, batch.identities, scale
        )

    def _embed_texts(self, texts: list[str]) -> Tensor:
        """(B, E) in the texts' order; short and long ones run apart, so that little is padded."""
        tokens = self.model.tokenizer.encode_batch(texts)
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row].ids))
        halves = []
        for rows in (order[: len(order) // 2], order[len(order) // 2 :]):
            ids, mask = (
                torch.from_numpy(a) for a in pad([tokens[row] for row in rows], self.model.tokenizer.pad_id)
            )
            halves.append(self.model.embed_texts(ids, mask))
        return torch.cat(halves)[torch.argsort(torch.tensor(order))]

    def _keep_best(self, progress: Progress) -> Progress:
        report = self.evaluate()
        self._log_dev(progress.step, report)
        if report.mean <= progress.best_metric:
            return progress
        native.save(self.model, self.folder.best)
        return Progress(progress.step, report.mean)

    def _log_dev(self, step: int, report: RetrievalReport) -> None:
        for name, value in report.rows().items():
            print(f"  dev {name}: R@1/5/10 {value}", flush=True)
        values = {name: [r.at_1, r.at_5, r.at_10] for name, r in report.rows().items()}
        self.folder.log(step=step, dev=values, dev_mean_recall=report.mean)

    def evaluate(self) -> RetrievalReport:
        """Recall on the dev pictures, from their cached plain views."""
        self.model.eval()
        embeds = []
        for start in range(0, len(self._dev), self.config.batch_size):
            keys = [(image.path, 0) for image in self._dev[start : start + self.config.batch_size]]
            with torch.inference_mode():
                tokens = self.model.image_encoder.trunk(self.cache.read(keys), self.config.frozen_blocks)
                embeds.append(self.model.project_image(tokens))
        return evaluate(self._dev, torch.cat(embeds), text_embedder(self.model))

    def _report(self, progress: Progress, loss: float, seconds: float) -> None:
        print(f"step {progress.step}/{self.num_steps}  loss {loss:.4f}  {seconds:.2f} s/step", flush=True)
        self.folder.log(step=progress.step, itc_loss=loss, seconds_per_step=round(seconds, 3))


def _claim(folder: RunFolder, config: TrainConfig, resume: bool) -> None:
    file = folder.path / "config.json"
    text = json.dumps(asdict(config), indent=2, ensure_ascii=False)
    if file.exists():
        if not resume:
            raise MplugError(
                f"{folder.path} holds a run already: continue it with --resume, or name another --output."
            )
        if file.read_text(encoding="utf-8") != text:
            raise MplugError(f"{folder.path} holds a run of another configuration: name another --output.")
    file.write_text(text, encoding="utf-8")
