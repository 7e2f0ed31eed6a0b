"""The experiment in the trainer: what it learns, and that a run that goes on is the run that it would have been."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from golden.gpt3_cases import tiny_generator
from golden.palm_cases import tiny_palm
from golden.plug_cases import tiny_plug
from mplug import gpt3
from mplug.errors import MplugError
from mplug.text_writing import write
from mplug.train.config import override
from mplug.train.run_state import RunFolder, read_log
from mplug.train.text.config import TextRunConfig, finetune_text
from mplug.train.text.experiment import TextExperiment
from mplug.train.text.families import family_of
from mplug.train.text.finetuning import measures_of
from mplug.train.text.rows import TextRow
from mplug.train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [
    TextRow("piece5 piece6", "piece7 piece8"),
    TextRow("piece8 piece6", "piece9 piece5"),
    TextRow("piece7 piece5", "piece5 piece6"),
    TextRow("piece9 piece9", "piece6 piece7"),
]
"""Of one length, so that any of them meet in a batch."""
OFTEN = [dataclasses.replace(row, weight=40.0) for row in ROWS]
GENERATORS: dict[str, Callable[[], nn.Module]] = {
    "gpt3": lambda: tiny_generator("plain", ffn=128, eod_id=102),
    "palm": tiny_palm,
    "plug": tiny_plug,
}
QUICK = [
    "precision=float32",
    "batch_size=4",
    "lr=1e-2",
    "optimizer.warmup_steps=5",
    "max_text_tokens=24",
    "log_every=1",
]


def experiment(name: str, rows: Sequence[TextRow] = ROWS, *settings: str) -> TextExperiment:
    config = override(finetune_text(), [*QUICK, *settings])
    family = family_of(GENERATORS[name](), config.max_text_tokens)
    return TextExperiment(family, rows, config, measures_of(config, rows))


def fit(name: str, output: Path, *settings: str) -> TextExperiment:
    made = experiment(name, OFTEN, *settings)
    Trainer(made, override(finetune_text(), [*QUICK, *settings]), output).fit()
    return made


@pytest.mark.parametrize("name", GENERATORS)
def test_four_rows_are_learnt_by_heart(name: str, tmp_path: Path) -> None:
    made = fit(name, tmp_path, "epochs=4")
    losses = [line["losses"]["text_loss"] for line in read_log(tmp_path / "log.jsonl") if "losses" in line]
    assert losses[-1] < 0.2 < 2 < losses[0]
    generator: Any = made.family.generator.eval()
    texts = write(generator, [row.source for row in ROWS], method="greedy", min_length=0, max_length=8)
    assert [best.text.replace(" ", "") for best, *_ in texts] == [row.target.replace(" ", "") for row in ROWS]
    metrics = made.evaluate()
    assert metrics["perplexity"] < 1.25
    # PLUG joins pieces without spaces, as its reference does: one long word is none of the target's.
    assert metrics["rouge_l"] == (0 if name == "plug" else 100)


def last_model(output: Path) -> dict[str, torch.Tensor]:
    saved = RunFolder(output).load()
    assert saved is not None
    state: dict[str, torch.Tensor] = saved[1]["model"]
    return state


def test_a_run_that_goes_on_is_the_run_that_it_would_have_been(tmp_path: Path) -> None:
    rows = [*ROWS, *[TextRow(row.target, row.source, weight=0.5) for row in ROWS]]
    for output, steps in (("whole", 9), ("parted", 9)):
        config = override(
            finetune_text(),
            [*QUICK, "batch_size=2", "accumulate=2", f"max_steps={steps}", "checkpoint_every=4"],
        )

        def run(config: TextRunConfig = config, output: str = output) -> Trainer:
            family = family_of(tiny_generator("plain", ffn=128, eod_id=102, dropout=0.1), 24)
            return Trainer(
                TextExperiment(family, rows, config, measures_of(config, ROWS)), config, tmp_path / output
            )

        if output == "parted":
            trainer = run()
            trainer.experiment.losses = _dies_after(trainer.experiment, 5)  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                trainer.fit()
        run().fit()
    whole, parted = last_model(tmp_path / "whole"), last_model(tmp_path / "parted")
    assert all(torch.equal(tensor, parted[name]) for name, tensor in whole.items())


def _dies_after(experiment: Any, steps: int) -> Any:
    learn = experiment.losses

    def losses(step: int, part: int) -> Any:
        if step >= steps:
            raise KeyboardInterrupt
        return learn(step, part)

    return losses


def test_the_best_is_the_least_perplexed(tmp_path: Path) -> None:
    made = fit("gpt3", tmp_path, "epochs=3")
    found = [line["metrics"]["perplexity"] for line in read_log(tmp_path / "log.jsonl") if "metrics" in line]
    assert made.goal.rule == "min"
    best = family_of(gpt3.load(tmp_path / "output_best"), 24)
    measured = measures_of(override(finetune_text(), QUICK), ROWS)[0](best)
    assert measured["perplexity"] == pytest.approx(min(found), rel=1e-4)


def test_another_goal_is_highest() -> None:
    assert experiment("palm", ROWS, "goal=rouge_l").goal.rule == "max"


def test_texts_alone_are_not_written() -> None:
    config = override(finetune_text(), QUICK)
    assert len(measures_of(config, [TextRow("", "piece5")])) == 1
    assert len(measures_of(config, ROWS)) == 2


def test_an_epoch_has_each_row_once_and_says_how_many_tokens() -> None:
    made = experiment("gpt3", ROWS, "batch_size=2")
    assert made.steps_per_epoch == 2
    for step in range(2):
        made.losses(step, 0)
        assert made.count(step, 0)["texts"] == 2
    assert sum(made.losses(step, 0) is not None and made.count(step, 0)["tokens"] for step in range(2)) == 12


def test_fewer_rows_than_a_step_takes_are_refused() -> None:
    with pytest.raises(MplugError, match="a step takes 8 rows and there are 4"):
        experiment("gpt3", ROWS, "batch_size=8")
