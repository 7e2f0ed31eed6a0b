"""A user's two dozen drawn squares, a tiny model to start from, and `mplug train` on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiment_cases import calm
from golden.mplug_cases import tiny, tiny_whole_config
from mplug.checkpoints import native
from mplug.config import GenerationDefaults
from mplug.train.experiments.models import WholeModel
from mplug.train.run_state import read_log
from mplug_services.cli import main

COUNT, DEV = 24, 6
COLOURS = {10: (250, 20, 20), 11: (20, 250, 20), 12: (20, 20, 250)}
"""A piece of the vocabulary that names each."""


def save_start(folder: Path) -> Path:
    """A tiny model of every task, untrained."""
    config = tiny_whole_config(generation=GenerationDefaults(beam_size=2, max_length=8))
    native.save(calm(tiny(WholeModel, config)), folder)
    return folder


def write_rows(folder: Path, **changes: Any) -> Path:
    """Squares on noise, each with two captions and an answer that tell its colour; six are for choosing.

    Args:
        folder: gets pictures and `rows.jsonl`.
        changes: columns of the last row.
    """
    chance = np.random.default_rng(0)
    rows = []
    for number in range(COUNT):
        word = 10 + number % 3
        pixels = chance.integers(100, 156, (40, 48, 3), dtype=np.uint8)
        pixels[2:30, 12:44] = COLOURS[word]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(
            {
                "image": f"{number}.png",
                "captions": [
                    f"piece{word} piece20 piece{word + 20}",
                    f"piece{word} piece20 piece{word + 40}",
                ],
                "question": "piece50 piece51",
                "answers": [f"piece{word}"],
                "type": "colour",
                "split": "dev" if number < DEV else "train",
            }
        )
    return save_rows(folder / "rows.jsonl", [*rows[:-1], rows[-1] | changes])


def save_rows(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def settings(start: Path, *more: str) -> list[str]:
    return [
        f"start={start}",
        "image_size=32",
        "max_text_tokens=12",
        "batch_size=6",
        "epochs=4",
        "precision=float32",
        "log_every=1",
        "learning_rates.rest=1e-2",
        "learning_rates.vision_tower=1e-3",
        "optimizer.warmup_steps=2",
        "threads=2",
        *more,
    ]


def command(recipe: str, data: Path, output: Path, values: Sequence[str]) -> list[str]:
    changes = [word for value in values for word in ("--set", value)]
    return ["train", recipe, "--data", str(data), "--output", str(output), *changes]


def train(recipe: str, data: Path, output: Path, values: Sequence[str], *more: str) -> int:
    return main([*command(recipe, data, output, values), *more])


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in read_log(output / "log.jsonl") if "loss" in line]


def metrics(output: Path) -> list[dict[str, float]]:
    return [line["metrics"] for line in read_log(output / "log.jsonl") if "metrics" in line]
