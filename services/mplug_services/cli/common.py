"""What the commands share: exit codes, the connection, and how errors read."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mplug_services.client import Client, ClientError, RetryPolicy, TlsOptions, UnavailableError

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_INTERRUPTED = 130

DEFAULT_ADDRESS = "localhost:50051"

RETRY = RetryPolicy(max_attempts=4, initial_backoff=0.2)
"""A person waits: a server that is not there is reported after about a second."""


_SHOWN_REFUSALS = 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that cannot be done as an item, and why."""

    id: str
    reason: str


class CliError(Exception):
    """A command cannot do what it was asked to; the message is for the person who typed it."""

    exit_code = EXIT_FAILURE


class UsageError(CliError):
    """The command was used wrongly."""

    exit_code = EXIT_USAGE


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what every command that talks to a server takes."""
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--address",
        default=os.environ.get("MPLUG_ADDRESS") or DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help="the server (default: %(default)s)",
    )
    group.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="for each request (default: 60)"
    )
    group.add_argument("--tls", action="store_true", help="encrypt, trusting the system's certificates")
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help="encrypt, trusting these (PEM)")


def add_served_model_argument(parser: argparse.ArgumentParser) -> None:
    """Adds which of a server's models is asked."""
    parser.add_argument(
        "--served-model",
        default="",
        metavar="NAME",
        help="a model that a job has trained (see `mplug jobs`), in the place of the server's own",
    )


def connect(options: argparse.Namespace) -> Client:
    """A client for the server that the options name."""
    tls = TlsOptions(root_certificates=options.tls_ca) if options.tls or options.tls_ca else None
    try:
        return Client(options.address, timeout=options.timeout, retry=RETRY, tls=tls)
    except OSError as error:
        raise UsageError(f"--tls-ca {options.tls_ca} cannot be read: {error.strerror}") from error


def describe(error: ClientError, options: argparse.Namespace) -> str:
    """An error of a call, with what to do about it where that is known; `options` are those of the command."""
    if isinstance(error, UnavailableError):
        example = getattr(options, "runs_here", "")  # set by what adds --model
        does_without = f" Or do without a server: --model {example}." if example else ""
        return (
            f"no server answers at {getattr(options, 'address', '')} ({error}). Start one with `mplug serve`, "
            f"or name another with --address or MPLUG_ADDRESS.{does_without}"
        )
    if error.reason == "COLLECTION_NOT_FOUND":
        return f"{error}. `mplug ingest FOLDER --collection NAME` makes one; `mplug info` lists them."
    return f"{error} ({error.code})"


def messages() -> Console:
    """Where progress and messages go: standard error, so that standard output is the result alone."""
    return Console(stderr=True, highlight=False)


def results() -> Console:
    """Where the result goes."""
    return Console(highlight=False)


def progress_bar(console: Console) -> Progress:
    """How far a batch of many items is, and how long it will take."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def report_refusals(
    console: Console, refusals: Sequence[Refusal], verb: str, *, remedy: str = "the results name them all"
) -> None:
    """Names the first items that were refused, or failed, with their reasons."""
    for refusal in refusals[:_SHOWN_REFUSALS]:
        console.print(f"{verb} {refusal.id}: {refusal.reason}", style="yellow", markup=False, soft_wrap=True)
    if len(refusals) > _SHOWN_REFUSALS:
        console.print(f"… and {len(refusals) - _SHOWN_REFUSALS} more; {remedy}", style="yellow")
