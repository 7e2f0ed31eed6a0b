"""What a training run needs: memory, time and devices, from sizes alone.

For a transformer of P parameters, L layers and width D, on T tokens a sequence, B sequences a device and part:

    weights      4 P bytes, float32, and under bfloat16 autocast the copies that forward and backward compute with, 2 P
    gradients    4 P of the trained parameters
    optimizer    8 P of the trained ones: AdamW's two moments
    activations  34 B T D L bytes in bfloat16, 66 in float32 (Korthikanti et al. 2022, "Reducing activation
                 recomputation in large transformer models", eq. 1 without the attention matrices, which fused
                 attention does not keep); with layers computed again: their inputs, 4 B T D L (float32 between
                 layers), and one layer's worth
    logits       10 B T V bytes: bfloat16, float32 and its log-softmax
    operations   6 P + 12 L D T a token (Chowdhery et al. 2022, "PaLM", appendix B): 2 forward, 4 backward, and the
                 attention matrices; 8 P + 16 L D T with layers computed again; 2 P less for what is frozen
    time         operations of all tokens / (devices x peak x utilisation)

Sharded over N devices (`mplug.train.parallel`), weights, gradients and moments are 1/N each. A step holds whole, with
4 bytes of weight and 4 of gradient each, the output matrix, V D, which is in no block, and two blocks of (P - V D) / L:
the one that computes and the next. The copies of autocast, 2 P, stay whole until the backward pass has used them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mplug.errors import MplugError

_FLOAT32 = 4
_BFLOAT16 = 2
_MOMENTS = 8
_LAYER_BYTES = {"bfloat16": 34, "float32": 66}
_LOGIT_BYTES = {"bfloat16": 10, "float32": 8}
_MOST_DEVICES = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """A transformer."""

    parameters: float
    layers: int
    hidden: int
    vocab: int = 0
    """Rows of the output matrix; 0: the model writes no tokens."""
    trained_share: float = 1.0
    """Of the parameters: the rest is frozen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What it is trained on, and how."""

    tokens: float
    """Of the whole run, every epoch counted."""
    sequence: int
    """Tokens of one example."""
    batch: int
    """Examples that a device computes at a time."""
    precision: str = "bfloat16"
    recompute: bool = False
    """Whether layers are computed again in the backward pass."""
    sharding: str = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One accelerator."""

    peak: float
    """Operations per second in the run's precision."""
    memory: float
    """Bytes."""
    utilisation: float = 0.4
    """MFU: the share of the peak that training reaches; the log of a run says its own."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    gathered: float
    """What a sharded run holds whole during a step."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.gathered


@dataclass(frozen=True, slots=True)
class Plan:
    """What the run needs."""

    devices: int
    memory: Memory
    operations: float
    seconds: float


def memory(size: ModelSize, work: Workload, devices: int = 1) -> Memory:
    """Bytes on each of a number of devices; the module's docstring has the formulas."""
    trained = size.parameters * size.trained_share
    copies = _BFLOAT16 * size.parameters if work.precision == "bfloat16" else 0.0
    gathered = 0.0
    if work.sharding == "full" and devices > 1:
        outside = min(size.vocab * size.hidden, size.parameters)
        at_once = outside + 2 * (size.parameters - outside) / size.layers
        gathered = _FLOAT32 * (1 + size.trained_share) * min(at_once, size.parameters) + copies
        copies = 0.0
    shards = devices if work.sharding == "full" else 1
    return Memory(
        weights=_FLOAT32 * size.parameters / shards + copies,
        gradients=_FLOAT32 * trained / shards,
        optimizer=_MOMENTS * trained / shards,
        activations=_activations(size, work),
        gathered=gathered,
    )


def _activations(size: ModelSize, work: Workload) -> float:
    tokens = work.batch * work.sequence
    layer = _LAYER_BYTES[work.precision] * tokens * size.hidden
    kept = _FLOAT32 * tokens * size.hidden * size.layers + layer if work.recompute else layer * size.layers
    return kept + _LOGIT_BYTES[work.precision] * tokens * size.vocab


def operations(size: ModelSize, work: Workload) -> float:
    """Of the whole run."""
    passes = 4 if work.recompute else 3  # forward once or twice, backward as much as two forwards
    dense = 2 * size.parameters * (passes - (1 - size.trained_share))
    attention = 4 * passes * size.layers * size.hidden * work.sequence
    return (dense + attention) * work.tokens


def plan(
    size: ModelSize, work: Workload, device: Device, *, devices: int = 0, seconds: float = math.inf
) -> Plan:
    """How many devices a run takes, and for how long.

    Args:
        size: of the model.
        work: the run.
        device: what it runs on.
        devices: how many there are; 0: as few as hold the run and end it in time.
        seconds: by when it must have ended.

    Raises:
        MplugError: a value that cannot be, or a run that no number of such devices holds.
    """
    _check(size, work, device)
    total = operations(size, work)
    alone = total / (device.peak * device.utilisation)
    count = devices or max(1, math.ceil(alone / seconds))
    if not devices and work.sharding == "full":
        while memory(size, work, count).total > device.memory and count < _MOST_DEVICES:
            count += 1
    needed = memory(size, work, count)
    if needed.total > device.memory:
        raise MplugError(_too_large(needed, work, device, count))
    return Plan(count, needed, total, alone / count)


def _too_large(needed: Memory, work: Workload, device: Device, count: int) -> str:
    remedies = ["a smaller batch"] if work.batch > 1 else []
    remedies += [] if work.recompute else ["recomputed layers"]
    remedies += [] if work.sharding == "full" else ["sharding='full' over several devices"]
    return (
        f"{needed.total / 2**30:,.1f} GiB on each of {count} devices of {device.memory / 2**30:,.1f} GiB "
        f"(activations {needed.activations / 2**30:,.1f} GiB): it takes {', '.join(remedies) or 'larger devices'}."
    )


def _check(size: ModelSize, work: Workload, device: Device) -> None:
    if work.precision not in _LAYER_BYTES:
        raise MplugError(f"precision={work.precision!r}: there are {', '.join(_LAYER_BYTES)}.")
    positive = {
        "parameters": size.parameters,
        "layers": size.layers,
        "hidden": size.hidden,
        "tokens": work.tokens,
        "sequence": work.sequence,
        "batch": work.batch,
        "peak": device.peak,
        "memory": device.memory,
    }
    for name, value in positive.items():
        if value <= 0:
            raise MplugError(f"{name}={value!r}: it must be positive.")
    for name, share in (("utilisation", device.utilisation), ("trained_share", size.trained_share)):
        if not 0 < share <= 1:
            raise MplugError(f"{name}={share!r}: a share above 0 and up to 1.")
