"""What a checkpoint held and what of it was used; strict where it matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mplug.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class MisShaped:
    """A parameter whose stored shape is not the model's."""

    key: str
    stored: tuple[int, ...]
    expected: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.key}: stored {list(self.stored)}, expected {list(self.expected)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """Every key of the checkpoint and every parameter of the model, accounted for once."""

    loaded: tuple[str, ...] = ()
    """Parameters filled from the checkpoint, by our names."""
    missing: tuple[str, ...] = ()
    """Parameters that the task uses and the checkpoint lacks, by our names."""
    mis_shaped: tuple[MisShaped, ...] = ()
    """Parameters whose stored shape differs."""
    unused: tuple[str, ...] = ()
    """Keys that another task or training uses, or none: momentum twins, queues, CLIP's text tower, dead layers."""
    unknown: tuple[str, ...] = ()
    """Keys that nothing explains, by the checkpoint's names."""

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} tensors loaded, {len(self.unused)} not used by this task"
        troubles = [
            f"{len(items)} {name}: {_listed(items)}"
            for name, items in (
                ("unknown", self.unknown),
                ("missing", self.missing),
                ("mis-shaped", self.mis_shaped),
            )
            if items
        ]
        return "; ".join([counts, *troubles])

    def shortfall(self) -> str:
        """What stands between the checkpoint and the task, in one line; empty where nothing does."""
        parts = []
        if self.missing:
            modules = sorted({key.split(".")[0] for key in self.missing})
            parts.append(f"lacks {len(self.missing)} parameters of {', '.join(modules)}")
        if self.mis_shaped:
            parts.append(f"{len(self.mis_shaped)} have another shape: {self.mis_shaped[0]}")
        return "; ".join(parts)


class MismatchError(CheckpointError):
    """Tensors that do not fit the model.

    Attributes:
        report: what is missing and what has another shape.
    """

    def __init__(self, message: str, report: LoadReport) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type[MismatchError], tuple[str, LoadReport]]:
        """Errors travel between processes, so they pickle with both their arguments."""
        return type(self), (str(self), self.report)


def load_strictly(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: Path,
    unused: tuple[str, ...] = (),
    unknown: tuple[str, ...] = (),
    original_name: Callable[[str], str] = lambda key: key,
) -> LoadReport:
    """Fill a model's parameters and buffers from tensors under our names.

    Args:
        model: receives the tensors; its dtypes stay. On the meta device it is only compared with them.
        tensors: by the model's own names; every one must belong to the model.
        where: the checkpoint, for messages.
        unused: keys already set aside, for the report.
        unknown: keys already found unknown, for the report.
        original_name: our name to the checkpoint's, for messages.

    Raises:
        MismatchError: a tensor that the model uses is missing or has another shape; the message lists them.
    """
    wanted = {key: tensor for key, tensor in model.state_dict().items() if not _recomputable(key)}
    strays = tuple(key for key in tensors if key not in wanted and not _recomputable(key))
    report = LoadReport(
        loaded=tuple(sorted(wanted.keys() & tensors.keys())),
        missing=tuple(sorted(wanted.keys() - tensors.keys())),
        mis_shaped=tuple(
            MisShaped(key=original_name(key), stored=tuple(tensors[key].shape), expected=tuple(tensor.shape))
            for key, tensor in sorted(wanted.items())
            if key in tensors and tensors[key].shape != tensor.shape
        ),
        unused=tuple(sorted(unused)),
        unknown=tuple(sorted((*unknown, *strays))),
    )
    if report.missing or report.mis_shaped:
        raise MismatchError(_refusal(report, where, original_name), report)
    if not any(tensor.is_meta for tensor in wanted.values()):
        model.load_state_dict({key: tensors[key] for key in report.loaded}, strict=False)
    return report


def _recomputable(key: str) -> bool:
    # BatchNorm counts the batches it was trained on; inference never reads the count.
    return key.endswith("num_batches_tracked")


def _refusal(report: LoadReport, where: Path, original_name: Callable[[str], str]) -> str:
    parts = []
    if report.missing:
        names = [original_name(key) for key in report.missing]
        parts.append(f"{len(names)} parameters that this task uses are missing: {_listed(names)}")
    if report.mis_shaped:
        parts.append(f"{len(report.mis_shaped)} have another shape: {_listed(report.mis_shaped)}")
    return (
        f"{where} does not fit its configuration: {'; '.join(parts)}. "
        "Check that the configuration beside the weights is theirs, and that they were made for this task"
    )


def _listed(items: tuple[object, ...] | list[str], limit: int = 20) -> str:
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown}, and {len(items) - limit} more"
