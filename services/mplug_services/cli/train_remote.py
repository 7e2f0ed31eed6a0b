"""`mplug train --server`: the same training, as a job of a server."""

import argparse
from collections.abc import Sequence
from typing import Any, overload

from mplug_services.cli.common import (
    EXIT_OK,
    RETRY,
    CliError,
    UsageError,
    messages,
)
from mplug_services.cli.jobs import watch_job
from mplug_services.client import Client, Job, TrainRow, TrainText

Row = TrainRow | TrainText
ON_SERVER = "server:"
"""What --data begins with where the rows are on the server."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where else it may be trained."""
    group = parser.add_argument_group(
        "on a server",
        "rows are sent to it, or named as it knows them: --data server:NAME/PATH, under one of its job roots",
    )
    group.add_argument("--server", metavar="HOST:PORT", help="train there, and serve what comes out there")
    group.add_argument("--model", metavar="NAME", help="what requests will call it (default: a name is made)")
    group.add_argument("--detach", action="store_true", help="say the job's id and leave it to the server")


def run(options: argparse.Namespace) -> int:
    """Makes the job, and watches it."""
    if options.output is not None or options.resume:
        raise UsageError("--output and --resume are for training here; a server's jobs go on by themselves")
    options.address = options.server  # as errors name it
    with Client(options.server, retry=RETRY) as client:
        job = _create(client, options)
        if options.detach:
            print(job.id)
            return EXIT_OK
        messages().print(f"job {job.id}", markup=False)
        try:
            return watch_job(client, job.id, as_json=False)
        except KeyboardInterrupt:
            messages().print(f"the job goes on: mplug jobs watch {job.id[:8]} --address {options.server}")
            raise


def _create(client: Client, options: argparse.Namespace) -> Job:
    given: list[str] = options.data
    there = [each.removeprefix(ON_SERVER) for each in given if each.startswith(ON_SERVER)]
    here = [each for each in given if not each.startswith(ON_SERVER)]
    if len(here) > 1 or bool(here) == bool(there):
        raise UsageError(f"with --server give one --data to be sent, or such as begin with {ON_SERVER}")
    names, model = options.overrides, options.model or ""
    if there:
        data = [_with_weight(each) for each in there]
        return client.jobs.train(options.recipe, data=data, settings=names, model=model)
    return client.jobs.train(options.recipe, _rows(here[0]), settings=names, model=model)


def _with_weight(given: str) -> str | tuple[str, float]:
    name, equals, weight = given.rpartition("=")
    try:
        return (name, float(weight)) if equals else given
    except ValueError:
        return given


def _rows(where: str) -> "_LocalRows":
    from mplug.errors import MplugError
    from mplug.train.readers import open_source

    try:
        return _LocalRows(open_source(where))
    except MplugError as error:
        raise CliError(str(error)) from error


class _LocalRows(Sequence[Row]):
    """Rows of a file here, each read when it is sent.

    Args:
        source: of `mplug.train.readers`. Any: how it refers to its rows.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._references = list(source.references())

    def __len__(self) -> int:
        return len(self._references)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        from mplug.errors import MplugError

        try:
            return _row(self._source.read(self._references[place]))
        except MplugError as error:
            raise CliError(str(error)) from error


# Any: an Example, whose module is not there for a thin client before it is asked for.
def _row(example: Any) -> Row:
    if example.text:
        return TrainText(text=example.text, target=example.target, split=example.split)
    try:
        image = example.image.read() if example.image is not None else b""
    except OSError as error:
        raise CliError(f"{example.origin}: its picture cannot be read: {error}") from error
    return TrainRow(
        image=image,
        name=example.image_name,
        captions=example.captions,
        captions_zh=example.captions_zh,
        question=example.question,
        answers=[(answer.text, answer.weight) for answer in example.answers],
        type=example.kind,
        split=example.split,
        set=example.set_name,
        identity="" if example.identity == example.image_name else example.identity,
    )
