"""Run ModelScope's package and ours on the same folder, and say where they first differ.

FOLDER is a ModelScope checkpoint folder. ModelScope runs in a process of its own, on the CPU, with the Python that
--reference-python names; both get the same picture and text. Exit code 0: every stage is equal. 1: one is not, or
ModelScope could not be run.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mplug_services.cli.common import EXIT_FAILURE, EXIT_OK, CliError, UsageError, messages, results

if TYPE_CHECKING:
    from mplug.verification import StageComparison, Verification

TASKS = ("caption", "vqa", "retrieval")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a ModelScope checkpoint folder")
    parser.add_argument("--task", choices=TASKS, help="default: what the folder says it is for")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a picture (default: a drawn one)")
    parser.add_argument(
        "--question", metavar="TEXT", help="what is asked, or matched with the picture (vqa, retrieval)"
    )
    parser.add_argument(
        "--reference-python",
        default=sys.executable,
        metavar="PATH",
        help="Python of the environment that has ModelScope (default: this one)",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-5,
        metavar="T",
        help="largest difference, relative to a stage's largest value (default: %(default)g); ids must be equal",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    _check(options)
    if find_spec("torch") is None:
        raise CliError("comparing models needs the server half: pip install 'mplug-serve[server]'")
    from mplug.errors import MplugError
    from mplug.verification import verify

    try:
        with messages().status("running ModelScope's mPLUG, then ours"):
            found = verify(
                options.folder,
                task=options.task,
                image=options.image,
                text=options.question,
                reference_python=options.reference_python,
                tolerance=options.tolerance,
            )
    except (MplugError, OSError) as error:
        raise CliError(str(error)) from error
    if options.json:
        print(json.dumps(facts(found), ensure_ascii=False))
    else:
        _print(found)
    return EXIT_OK if found.equal else EXIT_FAILURE


def facts(found: "Verification") -> dict[str, object]:
    """What was found, as JSON values; an infinite difference is null."""
    return {
        "task": found.task,
        "equal": found.equal,
        "stages": [
            {
                "stage": one.stage,
                "shape": one.shape,
                "difference": one.difference if math.isfinite(one.difference) else None,
                "limit": one.limit,
                "ok": one.ok,
            }
            for one in found.comparisons
        ],
        "first difference": None
        if found.first is None
        else {name: getattr(found.first, name) for name in found.first.__slots__},
        "not reached": found.missing,
        "stopped": found.stopped,
        "notes": found.notes,
        "versions": {"ours": found.versions, "reference": found.reference_versions},
    }


def _print(found: "Verification") -> None:
    console = results()
    console.print(_table(found))
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"ours: {_listed(found.versions)}", style="dim", markup=False, soft_wrap=True)
    console.print(
        f"ModelScope's: {_listed(found.reference_versions)}", style="dim", markup=False, soft_wrap=True
    )
    console.print(conclusion(found), markup=False, soft_wrap=True)


def conclusion(found: "Verification") -> str:
    """The last line: equal, or the first difference, or where ModelScope stopped."""
    if found.first is not None:
        return f"first difference: {found.first}"
    if found.missing:
        return f"equal so far, but ModelScope stopped before {found.missing[0]}: {found.stopped}"
    return f"all {len(found.comparisons)} stages are equal"


def _table(found: "Verification") -> Table:
    table = Table("stage", "shape", title=found.task, title_justify="left")
    for column in ("difference", "limit"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("ok")
    for one in found.comparisons:
        table.add_row(*_cells(one))
    return table


def _cells(one: "StageComparison") -> tuple[str, ...]:
    shape = " x ".join(map(str, one.shape)) or "1"
    return (one.stage, shape, f"{one.difference:.1e}", f"{one.limit:.0e}", "yes" if one.ok else "NO")


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _check(options: argparse.Namespace) -> None:
    if not options.folder.is_dir():
        raise UsageError(f"{options.folder} is not a folder; give a ModelScope checkpoint folder")
    if options.image is not None and not options.image.is_file():
        raise UsageError(f"--image {options.image} is not a file")
    if options.task == "caption" and options.question is not None:
        raise UsageError("--question is for vqa and retrieval; a caption is made of the picture alone")


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value
