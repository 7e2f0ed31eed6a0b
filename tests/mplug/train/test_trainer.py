"""The one training loop, on a toy: what it computes, what it keeps, and that a killed run loses nothing."""

import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import training_runs
from mplug.errors import MplugError
from mplug.train.config import override
from mplug.train.experiment import Goal
from mplug.train.run_state import RunFolder, read_log
from mplug.train.trainer import Trainer
from training_runs import Toy, ToyConfig

pytestmark = pytest.mark.usefixtures("one_thread")


TIMINGS = ("seconds_per_step", "rows_per_second", "mfu")


def train(output: Path, *settings: str, goal: Goal | None = None) -> Toy:
    config = override(ToyConfig(), settings)
    toy = Toy(config, goal=goal)
    Trainer(toy, config, output).fit()
    return toy


def steps(output: Path) -> list[dict[str, Any]]:
    """The log without what differs from run to run."""
    lines = read_log(output / "log.jsonl")
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def curve(output: Path, name: str) -> list[float]:
    return [line["losses"][name] for line in steps(output) if "losses" in line]


def last_state(output: Path) -> dict[str, Any]:
    saved = RunFolder(output).load()
    assert saved is not None
    return saved[1]


def test_the_parts_of_a_step_come_to_one_large_batch(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    train(tmp_path / "parts", "accumulate=4")
    whole, parts = (last_state(tmp_path / name)["model"] for name in ("whole", "parts"))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)
    norms = [
        [line["grad_norm"] for line in steps(tmp_path / name) if "losses" in line]
        for name in ("parts", "whole")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    for name in ("error_loss", "queue_loss"):
        assert curve(tmp_path / "parts", name) == pytest.approx(
            curve(tmp_path / "whole", name), rel=1e-4, abs=1e-5
        )


@pytest.mark.timeout(240)
@pytest.mark.long
def test_a_run_killed_three_times_is_the_unbroken_run(tmp_path: Path) -> None:
    settings = ("dropout=0.3", "accumulate=2", "precision='bfloat16'", "optimizer.max_grad_norm=0.5")
    train(tmp_path / "whole", *settings)
    chance = random.Random(0)
    killed_at = sorted(chance.sample(range(1, 11), 3))
    for step in killed_at:
        _run_and_kill_after(tmp_path / "killed", settings, step)
    train(tmp_path / "killed", *settings)

    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")
    assert [line["step"] for line in steps(tmp_path / "whole") if "losses" in line] == list(range(1, 13))
    _assert_equal(last_state(tmp_path / "killed"), last_state(tmp_path / "whole"))
    best = [torch.load(tmp_path / name / "output_best" / "model.pt") for name in ("killed", "whole")]
    _assert_equal(*best)


def _run_and_kill_after(output: Path, settings: tuple[str, ...], step: int) -> None:
    command = [sys.executable, training_runs.__file__, str(output), "0.02", "-1", *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"step {step}/"):
            break
    process.send_signal(signal.SIGKILL)
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL


def _assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            _assert_equal(ours[key], theirs[key])
    else:
        assert ours == theirs


def test_what_is_in_no_group_stands_still_and_twins_move_after_each_step(tmp_path: Path) -> None:
    toy = Toy(config := ToyConfig())
    twin = toy.model.twin.state_dict()["0.weight"].clone()
    toy.after_step = lambda step: None  # type: ignore[method-assign]  # so that nothing else moves it
    Trainer(toy, config, tmp_path).fit()
    assert torch.equal(toy.model.twin.state_dict()["0.weight"], twin)
    assert not torch.equal(train(tmp_path / "moving").model.twin.state_dict()["0.weight"], twin)


class Scripted(Toy):
    """Each evaluation gives the next value of a list."""

    values: tuple[float, ...] = (3.0, 5.0, 1.0)

    def evaluate(self) -> Mapping[str, float]:
        step = int(self.model.seen)
        return {"value": self.values[step // 4 - 1], "step": float(step)}


@pytest.mark.parametrize(("rule", "best_step"), [("max", 8), ("min", 12)])
def test_the_best_model_is_kept_by_the_rule(tmp_path: Path, rule: str, best_step: int) -> None:
    config = ToyConfig()
    folder = Trainer(Scripted(config, goal=Goal("value", rule)), config, tmp_path).fit()
    assert folder == tmp_path / "output_best"
    assert torch.load(folder / "model.pt")["seen"] == best_step


def test_a_goal_that_is_not_measured_names_what_is(tmp_path: Path) -> None:
    with pytest.raises(MplugError, match=r"'cider'.*error, steps"):
        train(tmp_path, goal=Goal("cider"))


def test_evaluations_come_with_epochs_with_their_own_steps_and_at_the_end(tmp_path: Path) -> None:
    train(tmp_path, "evaluate_every=3", "max_steps=7")
    assert [line["step"] for line in steps(tmp_path) if "metrics" in line] == [3, 4, 6, 7]


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        MplugError, match=r"step \d+: error_loss, queue_loss is no number.*lower learning rate"
    ):
        train(tmp_path, "rate=1e30", "optimizer.max_grad_norm=0.0")


def test_a_run_of_no_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MplugError, match="one whole batch"):
        train(tmp_path, "epochs=0")


def test_a_line_of_the_log_says_everything_of_a_step(tmp_path: Path) -> None:
    train(tmp_path)
    line = read_log(tmp_path / "log.jsonl")[1]
    assert line["loss"] == pytest.approx(sum(line["losses"].values()))
    assert line["lr"] == pytest.approx({"rest": 1e-2 * 0.983, "head": 3e-2 * 0.983}, rel=1e-3)
    assert line["grad_norm"] > 0
    assert line["rows_per_second"] == pytest.approx(8 / line["seconds_per_step"])
    assert 0 < line["mfu"] < 1


def test_losses_and_metrics_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    train(tmp_path)
    with Image.open(tmp_path / "curves.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 10


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path, "tensorboard=True")
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = [event.value for event in board.Scalars("losses/error_loss")]
    assert values == pytest.approx(curve(tmp_path, "error_loss"))
    assert "metrics/error" in board.Tags()["scalars"]


def test_tensorboard_without_its_package_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mplug.train.reporting.find_spec", lambda name: None)
    with pytest.raises(MplugError, match=r"pip install 'mplug-serve\[train\]'"):
        train(tmp_path, "tensorboard=True")


def test_a_state_that_could_not_be_loaded_again_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    toy = Toy(config := ToyConfig())
    toy.state = lambda: {"order": [np.zeros(1)]}  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match=r"state\(\)\['order'\]\[0\] is a ndarray"):
        Trainer(toy, config, tmp_path).fit()


@pytest.mark.timeout(120)
def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, training_runs.__file__, str(tmp_path), "0", "-1"]
    with subprocess.Popen(command, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(theirs)
        shown = _read_all(ours)
    assert process.returncode == 0
    assert "training" in shown
    assert "12/12" in shown


def _read_all(descriptor: int) -> str:
    text = b""
    try:
        while chunk := os.read(descriptor, 1 << 16):
            text += chunk
    except OSError:  # how Linux ends a terminal whose other side is gone
        pass
    os.close(descriptor)
    return text.decode()
