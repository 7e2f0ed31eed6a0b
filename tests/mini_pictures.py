"""A dozen pictures of one colour each, their captions in two languages and a question about each; a tiny start."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from golden.mplug_cases import tiny_config
from mplug.checkpoints import native
from mplug.config import TextEncoderConfig
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.train.config import DataConfig, OptimizerConfig
from mplug.train.mini.config import MeasureConfig, StepConfig, WholeShape, WholeStageConfig
from mplug.train.mini.experiment import WholeStage

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 40),
    "blue": (30, 40, 220),
    "black": (5, 5, 5),
    "white": (250, 250, 250),
    "yellow": (240, 230, 20),
}
SHADES = {"plain": 1.0, "dark": 0.55}
CHINESE = dict(zip(COLOURS, "红绿蓝黑白黄", strict=True))
QUESTION = "what colour is it"


def captions(colour: str, shade: str) -> list[str]:
    return [f"a {shade} {colour} wall", f"{colour} paint {shade}"]


def write_data(folder: Path) -> Path:
    """Captions, questions, and twelve pictures."""
    (folder / "images" / "photo").mkdir(parents=True)
    said, asked = [], []
    for colour, rgb in COLOURS.items():
        for shade, factor in SHADES.items():
            path = f"images/photo/{colour}-{shade}.png"
            dyed = tuple(int(factor * value + 60 * (1 - factor)) for value in rgb)
            picture = Image.new("RGB", (32, 32), dyed)
            picture.paste((128, 128, 128), (0, 0, 8, 8))  # crops differ
            picture.save(folder / path)
            chinese = [f"{'深' if shade == 'dark' else '浅'}{CHINESE[colour]}墙"]
            said.append({"image": path, "captions": captions(colour, shade), "captions_zh": chinese})
            asked.append(
                {"image": path, "question": QUESTION, "answers": [colour], "type": "colour", "lang": "en"}
            )
    # One that must never be looked at: it makes photos a set with a published split.
    Image.new("RGB", (32, 32), (128, 128, 128)).save(folder / "images" / "photo" / "val.png")
    unseen = {"image": "images/photo/val.png", "split": "val"}
    said.append({**unseen, "captions": ["noise"], "captions_zh": ["图"]})
    asked.append({**unseen, "question": QUESTION, "answers": ["noise"], "type": "colour", "lang": "en"})
    _write_lines(folder / "captions.jsonl", said)
    _write_lines(folder / "vqa.jsonl", asked)
    return folder


def _write_lines(file: Path, records: Sequence[dict[str, Any]]) -> None:
    file.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records))


def vocabulary() -> list[str]:
    words = ["a", "wall", "paint", *SHADES, *COLOURS, "what", "colour", "is", "it", "noise"]
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    listed = [*words, *"红绿蓝黑白黄深浅墙图中"]
    pieces = [special.get(number, f"[unused{number}]") for number in range(104)]
    return [*pieces, *listed]


def write_start(folder: Path) -> Path:
    """A tiny retrieval model, untrained, whose weights round to themselves."""
    vocab = vocabulary()
    config = tiny_config(
        text_encoder=TextEncoderConfig(
            vocab_size=len(vocab), hidden=48, layers=3, heads=4, ffn=64, positions=40, mean_pooling=True
        )
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = RetrievalModel(config, WordPieceTokenizer(vocab, max_length=config.max_text_tokens))
        torch.nn.init.normal_(model.text_encoder.embeddings.word.weight, 0, 1.0)
    native.save(model, folder, storage="int8")
    return folder


def stage_config(start: Path, *, goal: str, **changes: Any) -> WholeStageConfig:
    """A stage of which a step takes a few milliseconds; all pictures are trained on, and `dev` is empty."""
    values: dict[str, Any] = {
        "start": str(start),
        "shape": WholeShape(dropout=0.0, decoder_layers=2, max_length=8),
        "data": DataConfig(num_dev_images=0, held_out_percent=0, num_views=1, set_repeats=()),
        "question_repeats": (),
        "measure": MeasureConfig(queries=24, candidates=12, captions=12, questions=12),
        "fusion_lr": 3e-3,
        "decoder_lr": 3e-3,
        "label_smoothing": 0.0,
        "masked_weight": 0.03,
        "optimizer": OptimizerConfig(weight_decay=0.0, warmup_steps=1),
        "precision": "float32",
        "goal": goal,
        "evaluation_steps": 10,
    }
    return WholeStageConfig(**{**values, **changes})


def small(**sizes: Any) -> StepConfig:
    return StepConfig(**{"neighbours": 4, "captions_en": 2, "captions_zh": 1, "beams": 4, **sizes})


class Loop:
    """As much of a trainer as a test needs."""

    def __init__(self, stage: WholeStage, *, warmup: int = 1) -> None:
        self.stage = stage
        self._warmup = warmup
        groups = stage.parameter_groups()
        self.learning = {id(each) for group in groups for _, each in group.parameters}
        for parameter in stage.model.parameters():
            parameter.requires_grad_(id(parameter) in self.learning)
        self.optimizer = torch.optim.AdamW(
            [{"params": [each for _, each in group.parameters], "peak": group.lr} for group in groups],
            weight_decay=0.0,
        )
        self.step = 0

    def run(self, steps: int) -> list[dict[str, float]]:
        """Each step's losses."""
        found = []
        for _ in range(steps):
            torch.manual_seed(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * min(1.0, (self.step + 1) / self._warmup)
            losses = self.stage.losses(self.step, 0)
            self.optimizer.zero_grad()
            sum(losses.values()).backward()  # type: ignore[union-attr]
            self.optimizer.step()
            self.stage.after_step(self.step)
            self.step += 1
            found.append({name: loss.item() for name, loss in losses.items()})
        return found


def judged_on_training(stage: WholeStage) -> WholeStage:
    """For what is learnt by heart: the training pictures stand in for `dev`."""
    data = stage.data
    stage.data = dataclasses.replace(data, dev=data.train, dev_questions=data.train_questions)
    return stage
