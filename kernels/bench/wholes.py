"""Part two: whole models. Each piece that lacks a package is skipped, and says so."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench import decoder_stack
from bench.roofline import Ceilings
from bench.tasks import Record, Task

CHECKOUT = Path(__file__).resolve().parents[2]


def tasks(device: torch.device, *, tiny: bool, ceilings: Ceilings | None = None) -> list[Task]:
    """All pieces."""
    bandwidth = None if ceilings is None else ceilings.bytes_per_second

    def decode(*, int8: bool) -> Record:
        return decoder_stack.measure(device, int8=int8, tiny=tiny, bytes_per_second=bandwidth)

    def with_models(piece: str) -> Callable[[], Record]:
        return lambda: _with("bench.whole_models", lambda module: getattr(module, piece)(device, tiny=tiny))

    return [
        Task("whole:rerank", with_models("rerank")),
        Task("whole:caption", with_models("caption")),
        Task("whole:decode-13b-bf16", lambda: decode(int8=False)),
        Task("whole:decode-13b-int8", lambda: decode(int8=True)),
        Task(
            "whole:faiss",
            lambda: _with("bench.faiss_parity", lambda module: module.compare(device, tiny=tiny)),
        ),
    ]


def _with(module: str, piece: Callable[[Any], Record]) -> Record:
    """A piece that needs packages which may be absent; in a checkout `mplug` lies beside."""
    folder = str(CHECKOUT / "mplug")
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        return {"skipped": f"{error.name or 'a package'} cannot be imported"}
    return piece(loaded)
