"""A user's two dozen drawn squares, a tiny model to start from, and `mplug train` on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiment_cases import calm
from golden.mplug_cases import small_vocab, tiny, tiny_whole_config
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


def anew(start: Path, folder: Path, *more: str) -> list[str]:
    """Settings of pretraining a model of the start's shape from nothing but a vocabulary."""
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("".join(f"{piece}\n" for piece in small_vocab(130)))
    values = [value for value in settings(start) if not value.startswith("start=")]
    return [*values, f"shape={start}", f"vocabulary={vocabulary}", "objective.contrast.queue_size=12", *more]


def command(recipe: str, data: str | Path | Sequence[str], output: Path, values: Sequence[str]) -> list[str]:
    parts = [str(data)] if isinstance(data, str | Path) else data
    given = [word for part in parts for word in ("--data", part)]
    changes = [word for value in values for word in ("--set", value)]
    return ["train", recipe, *given, "--output", str(output), *changes]


def train(
    recipe: str, data: str | Path | Sequence[str], output: Path, values: Sequence[str], *more: str
) -> int:
    return main([*command(recipe, data, output, values), *more])


def train_together(recipe: str, data: Path, output: Path, values: Sequence[str]) -> None:
    """The same command on two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "mplug_services.cli", *command(recipe, data, output, values)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in read_log(output / "log.jsonl") if "loss" in line]


def metrics(output: Path) -> list[dict[str, float]]:
    return [line["metrics"] for line in read_log(output / "log.jsonl") if "metrics" in line]
