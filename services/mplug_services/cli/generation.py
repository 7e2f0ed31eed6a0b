"""What the commands share that have texts made: where the model is, how texts are generated, by what."""

import argparse
import os
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from mplug.errors import MplugError
from mplug.pipelines import PIPELINE_TASKS, Runner, make_runner
from mplug_services.cli.common import (
    CliError,
    UsageError,
    add_connection_arguments,
    add_served_model_argument,
    connect,
)
from mplug_services.client import GenerationOptions
from mplug_services.client.pipelines import RemoteRunner

_NUMBERS: dict[str, tuple[type, str]] = {
    "max_length": (int, "most tokens to generate"),
    "min_length": (int, "tokens to generate before the end is allowed"),
    "num_results": (int, "texts for each item"),
    "beam_size": (int, "beams of the search"),
    "length_penalty": (float, "exponent of the length penalty"),
    "temperature": (float, "sample: logits are divided by it"),
    "top_k": (int, "sample: from the k likeliest tokens"),
    "top_p": (float, "sample: from the likeliest tokens with this much probability"),
    "seed": (int, "sample: the same seed draws the same text"),
    "repetition_penalty": (float, "weakens tokens that the text has already; 1 is off"),
    "no_repeat_ngram_size": (int, "no run of so many tokens comes twice; 0 is off"),
}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where a model that sees pictures is: in a folder here, or on a server."""
    group = add_place_arguments(
        parser, "mplug-mini, a checkpoint folder, or to caption open_clip:coca_NAME", example="mplug-mini"
    )
    group.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="side in pixels of the pictures that the model sees (default: the checkpoint's own)",
    )


# Any: argparse keeps the type of its groups to itself.
def add_place_arguments(parser: argparse.ArgumentParser, models: str, *, example: str) -> Any:
    """Adds where a model is: in a folder here, or on a server; the group of the former."""
    group = parser.add_argument_group("model on this machine")
    group.add_argument("--model", metavar="MODEL", help=f"{models}, used here instead of a server")
    group.add_argument("--device", default="cpu", help="default: %(default)s")
    group.add_argument("--dtype", default="float32", help="default: %(default)s")
    parser.set_defaults(runs_here=example)
    add_served_model_argument(parser)
    add_connection_arguments(parser)
    return group


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how texts are generated."""
    group = parser.add_argument_group("generation (what is not given is the model's own)")
    group.add_argument("--method", choices=["beam", "greedy", "sample"])
    for name, (kind, help) in _NUMBERS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=help)
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="decode every item alone, so that bits do not depend on its neighbours",
    )


def generation_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given. Any: numbers, a name, a flag."""
    names = ["method", *_NUMBERS]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return {**given, "deterministic": True} if options.deterministic else given


def wire_options(options: argparse.Namespace) -> GenerationOptions | None:
    """The settings that were given, as clients take them.

    Raises:
        UsageError: Settings of two methods together.
    """
    settings = generation_settings(options)
    try:
        return GenerationOptions(**settings) if settings else None
    except ValueError as error:
        raise UsageError(str(error)) from error


def of_length(options: GenerationOptions | None, length: int | None) -> GenerationOptions | None:
    """Options for texts of so many tokens, unless they say themselves how long; None: of any length."""
    given = options or GenerationOptions()
    if length is None or given.min_length is not None or given.max_length is not None:
        return options
    return replace(given, min_length=length, max_length=length)


def check_place(options: argparse.Namespace) -> None:
    """Refuses a --model on this machine that cannot be.

    Raises:
        UsageError: It is an address, or a model of a server is named as well.
        CliError: The package's server half is not installed.
    """
    if options.served_model:
        raise UsageError("--served-model is a server's, --model is used here: give one of both")
    if find_spec("torch") is None:
        raise CliError("a model on this machine needs the server half: pip install 'mplug-serve[server]'")
    is_address = ":" in options.model and not options.model.startswith("open_clip:")
    if is_address and not os.path.exists(options.model):
        raise UsageError(f"--model takes a folder, not {options.model}; an address is given with --address")


def open_runner(task: str, options: argparse.Namespace) -> Runner:
    """What does one of ModelScope's tasks: a model here, or a server's.

    Raises:
        UsageError: Settings that cannot be.
        CliError: No such model, or the package's server half is not installed.
    """
    settings = generation_settings(options)
    if options.model is None:
        if options.image_size is not None:
            raise UsageError(
                "--image-size is for a --model on this machine; a server's models have the sizes it was started with"
            )
        return RemoteRunner(
            PIPELINE_TASKS[task], connect(options), wire_options(options), options.served_model
        )
    check_place(options)
    try:
        return make_runner(
            task,
            options.model,
            device=options.device,
            dtype=options.dtype,
            image_size=options.image_size,
            generation=settings,
        )
    except MplugError as error:
        raise CliError(str(error)) from error
