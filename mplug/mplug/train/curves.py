"""A run's losses and metrics as one picture."""

from collections import defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Curves = dict[str, list[tuple[int, float]]]

_COLUMNS = 3


def draw_curves(lines: Sequence[dict[str, Any]], target: Path) -> bool:
    """Draws every loss term and every metric over the steps, each in a field of its own.

    Args:
        lines: of ``log.jsonl``.
        target: a PNG.

    Returns:
        False where nothing was drawn, because matplotlib is not installed or there is nothing to draw.
    """
    curves = {**collect(lines, "losses"), **collect(lines, "metrics")}
    if find_spec("matplotlib") is None or not curves:
        return False
    from matplotlib.figure import Figure

    rows = -(-len(curves) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 2.5 * rows), layout="constrained")
    fields = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for field, (name, points) in zip(fields, curves.items(), strict=False):
        field.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "")
        field.set_title(name, fontsize=9)
        field.grid(alpha=0.3)
    for field in list(fields)[: rows * _COLUMNS - len(curves)]:
        field.set_axis_off()
    figure.savefig(target, dpi=100)
    return True


def collect(lines: Sequence[dict[str, Any]], kind: str) -> Curves:
    """Points (step, value) of each name under `kind`: ``losses`` or ``metrics``."""
    curves: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in lines:
        for name, value in line.get(kind, {}).items():
            curves[name].append((line["step"], value))
    return dict(curves)
