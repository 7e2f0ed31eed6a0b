"""How fast this machine is at what the forms of cross-attention are made of; measured once and kept.

Kept in `$MPLUG_CACHE` (default `~/.cache/mplug-serve`), folder `attention-rates`, one JSON file for each device, dtype,
number of threads and version of torch. Deleting it makes the next program measure again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

ROUNDS = 12  # the fastest counts: others were disturbed, and what disturbs for a while disturbs all alike
# What is measured has the shapes of mPLUG-base at 384 pixels, with a text of 12 tokens.
ROWS, WIDTH, HEADS, TOKENS, MEMORIES = 577, 768, 12, 12, 2
COPIED_BYTES = 64 * 2**20  # more than any cache but the largest servers'


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a device does in a second, in one dtype."""

    project_flops: float
    """Floating-point operations a second (a multiplication and an addition are two) of large matrix products."""
    attend_flops: float
    """The same, of attention with few query rows and heads of ordinary width."""
    absorb_flops: float
    """The same, of attention with one head as wide as the memory."""
    bytes_per_second: float
    """Memory traffic, reading and writing together."""
    call_seconds: float
    """What any call costs beyond its work."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"{field.name} is {value!r}; it must be a number above 0")

    def longest(self, flop: float, flops: float, moved: float, *, calls: int) -> float:
        """Seconds of `flop` operations at `flops` a second that move `moved` bytes meanwhile."""
        return max(flop / flops, moved / self.bytes_per_second) + calls * self.call_seconds


def folder() -> Path:
    """Where measurements are kept."""
    cache = os.environ.get("MPLUG_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "mplug-serve") / "attention-rates"


@functools.cache
def of_machine(device: torch.device, dtype: torch.dtype) -> Rates:
    """The kept rates, or fresh ones, which are then kept; under a second the first time.

    A file that cannot be read is measured over; a folder that cannot be written costs a warning and no more.
    """
    try:
        path = folder() / f"{_machine(device, dtype)}.json"
    except RuntimeError as error:  # Path.home() of a user without one
        logger.warning("attention rates are not kept: %s; set MPLUG_CACHE", error)
        return measure(device, dtype)
    if (kept := _read(path)) is not None:
        return kept
    rates = measure(device, dtype)
    try:
        _write(path, rates)
    except OSError as error:
        logger.warning("cannot keep the attention rates in %s: %s", path, error)
    return rates


@torch.inference_mode()
def measure(device: torch.device, dtype: torch.dtype) -> Rates:
    """Time the parts on the device in turn, 0.1 to 2 seconds in all."""

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, device=device).to(dtype)

    memory, weight = random(MEMORIES, ROWS, WIDTH), random(2 * WIDTH, WIDTH)
    keys = random(MEMORIES, HEADS, ROWS, WIDTH // HEADS)
    queries = random(MEMORIES, HEADS, TOKENS, WIDTH // HEADS)
    wide, one = random(MEMORIES, 1, HEADS * TOKENS, WIDTH), memory[:, None]
    large = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    copy, tiny = torch.empty_like(large), random(1)
    attended = 4.0 * MEMORIES * ROWS * TOKENS * WIDTH

    project, attend, absorb, move, call = _fastest(
        [
            lambda: F.linear(memory, weight),
            lambda: F.scaled_dot_product_attention(queries, keys, keys),
            lambda: F.scaled_dot_product_attention(wide, one, one),
            lambda: copy.copy_(large),
            lambda: tiny + tiny,
        ],
        device,
    )
    return Rates(
        project_flops=4.0 * MEMORIES * ROWS * WIDTH**2 / project,
        attend_flops=attended / attend,
        absorb_flops=HEADS * attended / absorb,
        bytes_per_second=2 * COPIED_BYTES / move,
        call_seconds=call,
    )


def _fastest(runs: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Seconds of each, run in turn."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else _nothing
    best = [float("inf")] * len(runs)
    for _ in range(1 + ROUNDS):
        for number, run in enumerate(runs):
            synchronise()
            start = time.perf_counter()
            run()
            synchronise()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def _nothing() -> None:
    pass


def _machine(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type} {platform.machine()} {_processor()} {torch.get_num_threads()} threads"
    kind = str(dtype).removeprefix("torch.")
    return re.sub(r"[^a-z0-9.]+", "-", f"{name} {kind} torch {torch.__version__}".lower())


def _processor() -> str:
    # Names the model on Linux, where platform.processor() is often empty.
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor()


def _read(path: Path) -> Rates | None:
    try:
        return Rates(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s holds no rates (%s); measuring again", path, error)
        return None


def _write(path: Path, rates: Rates) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as part:
        json.dump(dataclasses.asdict(rates), part, indent=2)
    # Whole or not at all, whoever else measures at the same time.
    os.replace(part.name, path)
