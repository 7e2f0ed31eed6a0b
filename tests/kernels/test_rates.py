"""Rates are measured once and kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mplug_kernels import rates

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MPLUG_CACHE", str(tmp_path / "cache"))
    rates.of_machine.cache_clear()
    yield tmp_path / "cache" / "attention-rates"
    rates.of_machine.cache_clear()


def test_a_second_program_reads_what_the_first_measured(cache: Path) -> None:
    first = rates.of_machine(CPU, torch.float32)
    (path,) = cache.iterdir()
    assert "float32" in path.name
    assert torch.__version__.split("+")[0] in path.name
    # A value that no measurement gives, so that a new measurement would be seen.
    path.write_text(json.dumps({**json.loads(path.read_text()), "call_seconds": 12.5}))
    assert rates.of_machine(CPU, torch.float32) is first
    rates.of_machine.cache_clear()
    assert rates.of_machine(CPU, torch.float32).call_seconds == 12.5


def test_dtypes_are_kept_apart(cache: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        rates.of_machine(CPU, dtype)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"call_seconds": 1}', b"\xff\xfe".decode("latin-1")])
def test_a_broken_file_is_measured_over(text: str, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    rates.of_machine(CPU, torch.float32)
    (path,) = cache.iterdir()
    path.write_bytes(text.encode("latin-1"))
    rates.of_machine.cache_clear()
    with caplog.at_level(logging.WARNING):
        rates.of_machine(CPU, torch.float32)
    assert "holds no rates" in caplog.text
    assert json.loads(path.read_text())["project_flops"] > 0


def test_a_cache_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MPLUG_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert rates.of_machine(CPU, torch.float32).bytes_per_second > 0
    assert "cannot keep the attention rates" in caplog.text


def test_a_user_without_a_home_measures_every_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MPLUG_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    with caplog.at_level(logging.WARNING):
        assert rates.of_machine(CPU, torch.float32).call_seconds > 0
    assert "set MPLUG_CACHE" in caplog.text


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "fast"])
def test_rates_that_cannot_be_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="call_seconds is"):
        rates.Rates(project_flops=1, attend_flops=1, absorb_flops=1, bytes_per_second=1, call_seconds=value)
