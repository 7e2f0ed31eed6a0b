"""Say what a server or a model is.

Without MODEL: the server, its models with their licences, its limits and its collections. With MODEL: a
model on this machine, by its folder or by the name of one that ships with the package, such as mplug-mini.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import cast

from rich.table import Table

from mplug_services.cli.common import EXIT_OK, CliError, add_connection_arguments, connect, results
from mplug_services.client import CollectionInfo, ServedModel, ServerInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a folder, a shipped model's name, or open_clip:NAME"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_connection_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    if options.model is not None:
        facts = {**model_facts(options.model), "attention kernels": _kernels_here()}
        print(json.dumps(facts, ensure_ascii=False)) if options.json else results().print(_table(facts))
        return EXIT_OK
    with connect(options) as client:
        info, collections = client.server_info(), client.list_collections()
    if options.json:
        print(
            json.dumps({**server_facts(info, options.address), "collections": collection_facts(collections)})
        )
        return EXIT_OK
    _print_server(info, collections, options.address)
    return EXIT_OK


def model_facts(source: str) -> dict[str, str | int]:
    """What a model on this machine is.

    Raises:
        CliError: The package's server half is not installed, or nothing loadable is there.
    """
    if find_spec("torch") is None:
        raise CliError("looking into a model needs the server half: pip install 'mplug-serve[server]'")
    from mplug.errors import MplugError
    from mplug.loading import load

    try:
        if (facts := _text_facts(source)) is not None:
            return facts
        model = load(source)
        tasks = _tasks(source)
    except MplugError as error:
        raise CliError(str(error)) from error
    size = model.preprocess.image_size
    mebibytes = model.num_parameters * model.dtype.itemsize / 2**20
    return {
        "name": model.name,
        "tasks": tasks,
        "parameters": model.num_parameters,
        "memory": f"{mebibytes:.1f} MiB as {str(model.dtype).removeprefix('torch.')}",
        "image size": f"{size} x {size}",
        "longest text": f"{model.tokenizer.max_length} tokens",
        "embedding width": model.embed_dim,
        "fingerprint": model.fingerprint,
        "licence": model.licence or "not stated",
        "checkpoint": str(model.report),
    }


def _kernels_here() -> str:
    """What would compute a model's cross-attention on this machine, as a text."""
    from mplug_services.runners.kernels import kernels_here

    return _kernel_lines((kernel.name, kernel.explanation) for kernel in kernels_here())


def _kernel_lines(said: Iterable[tuple[str, str]]) -> str:
    """A line for each thing that is said of kernels, behind the names of those that it is said of."""
    names: dict[str, list[str]] = {}
    for name, explanation in said:
        names.setdefault(explanation, []).append(name)
    return "\n".join(f"{', '.join(those)}: {explanation}" for explanation, those in names.items())


def _text_facts(source: str) -> dict[str, str | int] | None:
    """What a model of texts is; None: it is none. Errors are those of `mplug.load`."""
    from mplug.loading import find_folder
    from mplug.text_loading import module_of, own_task, text_family
    from mplug_services.runners.text_models import describe_text_model, load_text_model

    if source.startswith("open_clip:") or text_family(folder := find_folder(source)) is None:
        return None
    task = own_task(folder)
    model = load_text_model(task, source, "cpu", "float32")
    served = describe_text_model(task, model)
    return {
        "name": served.name,
        "tasks": _tasks(source),
        "parameters": served.num_parameters,
        "memory": f"{served.num_parameters * 4 / 2**20:.1f} MiB as {served.dtype}",
        "longest text": f"{served.tokenizer.max_length} tokens",
        "fingerprint": served.fingerprint,
        "licence": served.licence or "not stated",
        "checkpoint": str(module_of(model).report),
    }


def _tasks(source: str) -> str:
    """What a model can do; of open_clip's, what all of them can. The other facts are those of its retrieval half."""
    if source.startswith("open_clip:"):
        return "retrieval"
    from mplug.loading import survey
    from mplug.tasks import TaskSize

    return ", ".join(task for task, size in survey(source).items() if isinstance(size, TaskSize))


def server_facts(info: ServerInfo, address: str) -> dict[str, object]:
    """What a server is, as JSON values."""
    models = [
        {
            "name": model.name,
            "task": model.task,
            "device": model.device,
            "dtype": model.dtype,
            "parameters": model.parameter_count,
            "embedding width": model.embedding_dimension,
            "longest text": model.max_text_tokens,
            "fingerprint": model.embedding_fingerprint,
            "licence": model.licence,
        }
        for model in info.models
    ]
    limits = {name: getattr(info.limits, name) for name in info.limits.__slots__}
    return {
        "address": address,
        "version": info.version,
        "started": _time(info.start_time),
        "services": list(info.services),
        "models": models,
        "limits": limits,
        "attention kernels": [
            {"name": kernel.name, "compiled": kernel.compiled, "explanation": kernel.explanation}
            for kernel in info.kernels
        ],
    }


def collection_facts(collections: list[CollectionInfo]) -> list[dict[str, object]]:
    """What each collection is, as JSON values."""
    return [
        {
            "name": collection.name,
            "points": collection.point_count,
            "dimension": collection.dimension,
            "metric": str(collection.metric),
            "fingerprint": collection.fingerprint,
            "aliases": list(collection.aliases),
            "created": _time(collection.create_time),
        }
        for collection in collections
    ]


def _print_server(info: ServerInfo, collections: list[CollectionInfo], address: str) -> None:
    facts = server_facts(info, address)
    console = results()
    head = {key: facts[key] for key in ("address", "version", "started")}
    if info.kernels:
        said = ((kernel.name, kernel.explanation) for kernel in info.kernels)
        head["attention kernels"] = _kernel_lines(said)
    console.print(_table(head))
    console.print(_models_table(info.models) if info.models else "no models")
    for name, licence in {model.name: model.licence for model in info.models if model.licence}.items():
        console.print(f"licence of {name}: {licence}", markup=False)
    console.print(_table(cast(dict[str, object], facts["limits"]), title="limits"))
    table = Table(
        "name", "points", "dimension", "metric", "aliases", title="collections", title_justify="left"
    )
    for collection in collections:
        aliases = ", ".join(collection.aliases)
        cells = (collection.point_count, collection.dimension, str(collection.metric))
        table.add_row(collection.name, *map(str, cells), aliases)
    console.print(table if collections else "no collections yet")


def _models_table(models: Sequence[ServedModel]) -> Table:
    """Which model does what; --json has the fingerprints whole."""
    table = Table("task", title="models", title_justify="left")
    table.add_column("model", overflow="fold", min_width=10)
    for column in ("parameters", "width"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("device", "dtype", "fingerprint"):
        table.add_column(column, no_wrap=True)
    for model in models:
        width = str(model.embedding_dimension or "")
        numbers = (f"{model.parameter_count:,}", width)
        table.add_row(
            model.task, model.name, *numbers, model.device, model.dtype, model.embedding_fingerprint[:8]
        )
    return table


def _table(facts: "dict[str, str | int] | dict[str, object]", title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, expand=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    return table


def _time(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
