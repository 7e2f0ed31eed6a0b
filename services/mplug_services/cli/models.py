"""Say what each task of a model needs: modules, parameters, memory.

Without MODEL: the sizes that mPLUG was published in. With MODEL: what a folder on this machine, or a model that
ships with the package (mplug-mini), can do; only names and shapes are read. Memory is that of the weights; decoding
on a CPU keeps the output matrix a second time, in the layout that it reads fastest. --fits says which published
sizes run in so much memory, in which type, and on how many devices otherwise (arithmetic, no memory is taken).
--agreement says how far a text generator in fewer bits decides as in float32.
"""

import argparse
import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.table import Table

from mplug_services.cli import model_plans
from mplug_services.cli.common import EXIT_OK, CliError, results

if TYPE_CHECKING:
    from mplug.tasks import TaskSize

DTYPES = ("float32", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a folder, or mplug-mini")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    model_plans.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    if find_spec("torch") is None:
        raise CliError("looking into models needs the server half: pip install 'mplug-serve[server]'")
    from mplug.errors import MplugError

    try:
        return _print(options)
    except MplugError as error:
        raise CliError(str(error)) from error


def _print(options: argparse.Namespace) -> int:
    if options.fits:
        planned = model_plans.plans(options)
        if options.json:
            print(json.dumps(planned))
        else:
            results().print(model_plans.table(options, planned))
        return EXIT_OK
    if options.agreement:
        if options.model is None:
            raise CliError("--agreement compares the types of a model; name its folder")
        print(model_plans.agreement(options.model, options.agreement, options.dtype))
        return EXIT_OK
    models = _published() if options.model is None else _of_folder(options.model)
    if options.json:
        facts = {
            name: {task: size_facts(size) for task, size in tasks.items()} for name, tasks in models.items()
        }
        print(json.dumps(facts, ensure_ascii=False))
        return EXIT_OK
    for name, tasks in models.items():
        results().print(_table(name, tasks))
    return EXIT_OK


def size_facts(size: "TaskSize | str") -> dict[str, object]:
    """What a task needs, or why it cannot be done, as JSON values."""
    if isinstance(size, str):
        return {"not here": size}
    return {
        "modules": dict(size.modules),
        "parameters": size.parameters,
        "bytes": {dtype: size.memory(dtype) for dtype in DTYPES},
    }


def _published() -> "dict[str, dict[str, TaskSize | str]]":
    from mplug.checkpoints.published import PUBLISHED
    from mplug.tasks import TASKS, task_size

    return {
        name: {task: task_size(settings.to_config(), task) for task in TASKS}
        for name, settings in PUBLISHED.items()
    }


def _of_folder(source: str) -> "dict[str, dict[str, TaskSize | str]]":
    from mplug.loading import survey

    return {source: survey(source)}


def _table(name: str, tasks: "Mapping[str, TaskSize | str]") -> Table:
    table = Table("task", "modules", title=name, title_justify="left")
    for column in ("parameters", *DTYPES):
        table.add_column(column, justify="right", no_wrap=True)
    for task, size in tasks.items():
        if isinstance(size, str):
            table.add_row(task, f"not here: {size}")
            continue
        modules = "\n".join(f"{module} {count:,}" for module, count in size.modules.items())
        memory = [f"{size.memory(dtype) / 2**20:,.1f} MiB" for dtype in DTYPES]
        table.add_row(task, modules, f"{size.parameters:,}", *memory, end_section=True)
    return table
