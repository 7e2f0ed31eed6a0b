"""How much of the machine's arithmetic a run uses: MFU, the share of the measured peak of matrix multiplication.

Operations are counted while a step runs, forward and backward, layers that are computed again included; a convolution,
a matrix product or an attention of 2 n operations for n multiply-adds. Divided by the seconds of a step and by what
the same machine does in a plain product of large matrices of the run's precision.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

_PROBE_SIZE = {"cpu": 1024, "cuda": 8192}
_PROBE_ROUNDS = 5

Shape = Sequence[int]


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (width + value[3])


def _attention_backward(_: Shape, query: Shape, key: Shape, value: Shape, *__: object, **___: object) -> int:
    """Scores once more, then the gradients of weights, values, queries and keys: five products, not two."""
    return 5 * _attention(query, key, value) // 2


# What torch's counter has no formula for, though it has those of the same operations on CUDA.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Meter:
    """What a run does in a second, from one line of the log to the next.

    Args:
        peak: operations per second that the machine is capable of, see `measure_peak`.
    """

    def __init__(self, peak: float) -> None:
        self._peak = peak
        self._flops = 0
        self._seconds: list[float] = []
        self._counts: Counter[str] = Counter()
        self._counted_now = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Times a step; of the first one also counts the operations, which takes time of its own."""
        started = time.perf_counter()
        if self._flops:
            yield
        else:
            with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
                yield
            self._flops, self._counted_now = counter.get_total_flops(), True
        self._seconds.append(time.perf_counter() - started)

    def add(self, counts: Mapping[str, float]) -> None:
        """Adds what the step held."""
        self._counts.update(counts)

    def take(self) -> dict[str, float]:
        """Seconds a step, counts a second and MFU since the last time; no MFU where a step was counted."""
        total = sum(self._seconds)
        values = {"seconds_per_step": total / len(self._seconds)}
        values |= {f"{name}_per_second": count / total for name, count in self._counts.items()}
        if not self._counted_now:
            values["mfu"] = self._flops / values["seconds_per_step"] / self._peak
        self._seconds.clear()
        self._counts.clear()
        self._counted_now = False
        return values


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a product of large square matrices: the best of a few rounds."""
    size = _PROBE_SIZE.get(device.type, 1024)
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    matrix @ matrix
    times = []
    for _ in range(_PROBE_ROUNDS):
        _synchronise(device)
        started = time.perf_counter()
        matrix @ matrix
        _synchronise(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
