"""Train or fine-tune a model by a recipe.

`mplug train list` names the recipes, `mplug train plan` says what a run would need. Under torchrun the same command
trains on several processes: torchrun --nproc-per-node=2 -m mplug_services.cli train RECIPE --set accumulate=2 …
With --server HOST:PORT a server trains, and serves what comes out (see `mplug jobs`).
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from mplug_services.cli import train_plan, train_remote
from mplug_services.cli.common import EXIT_OK, CliError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("recipe", metavar="RECIPE", help="the recipe's name, or `list` or `plan`")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DATA[=WEIGHT]",
        help="for mplug-mini a folder of pictures with captions.jsonl; for the others rows of pictures and texts: a "
        ".jsonl, .csv, .parquet or .tar file, a quoted pattern of them, or a Hugging Face-style folder. May be given "
        "several times; rows of DATA=2 come twice as often as those of a DATA without a weight",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="checkpoints, logs and the trained model"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change one value of the recipe, e.g. --set epochs=3; may be given several times",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the output's last checkpoint; without it an output that holds a run is refused",
    )
    train_remote.add_arguments(parser)
    train_plan.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    if options.recipe == "plan":
        return train_plan.run(options)
    if options.server is not None:
        return train_remote.run(options)
    if find_spec("torch") is None:
        raise CliError("training needs the server half: pip install 'mplug-serve[server]'")
    from mplug import train as training
    from mplug.errors import MplugError

    if options.recipe == "list":
        print("\n".join(training.recipe_names()))
        return EXIT_OK
    _check(options, training.recipe_names())
    try:
        training.run(
            options.recipe, options.overrides, data=options.data, output=options.output, resume=options.resume
        )
    except MplugError as error:
        raise CliError(str(error)) from error
    return EXIT_OK


def _check(options: argparse.Namespace, recipes: list[str]) -> None:
    if options.recipe not in recipes:
        raise UsageError(f"no recipe is named {options.recipe!r}; there are: {', '.join(recipes)}")
    if options.model is not None or options.detach:
        raise UsageError("--model and --detach go with --server")
    if not options.data or options.output is None:
        raise UsageError("training takes --data DATA and --output FOLDER")
    _check_data(options.data)
    for override in options.overrides:
        if "=" not in override:
            raise UsageError(f"--set takes KEY=VALUE, not {override!r}")


def _check_data(data: list[str]) -> None:
    from mplug.errors import MplugError
    from mplug.train.readers.parts import parts_of

    try:
        places = [str(part.where) for part in parts_of(data)]
    except MplugError as error:
        raise UsageError(f"--data: {error}") from error
    for place in places:
        is_pattern = any(sign in place for sign in "*?[{")
        if not is_pattern and not Path(place).exists():
            raise UsageError(f"--data {place} does not exist")
