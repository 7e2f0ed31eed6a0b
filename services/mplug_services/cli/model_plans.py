"""`mplug models --fits`: which published sizes run on a machine, in which type; `--agreement`: what the type costs."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mplug_services.cli.common import CliError

if TYPE_CHECKING:
    from mplug.memory_plan import Place, Use

UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([MG]i?B)", re.IGNORECASE)
_GB = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of both."""
    parser.add_argument(
        "--fits", metavar="SIZE", help="plan the published sizes for so much memory, such as 24GB"
    )
    plans = parser.add_argument_group("with --fits")
    plans.add_argument("--on", choices=("cpu", "cuda"), default="cpu", help="a processor, or a GPU")
    plans.add_argument("--batch", type=int, default=1, help="texts at once (default: 1)")
    plans.add_argument("--sequences", type=int, default=1, help="beams or samples of each (default: 1)")
    plans.add_argument("--prompt", type=int, default=128, help="tokens of each prompt (default: 128)")
    plans.add_argument(
        "--written", type=int, default=128, help="most tokens written behind it (default: 128)"
    )
    compared = parser.add_argument_group("with MODEL, one that writes texts")
    compared.add_argument(
        "--agreement", metavar="TEXTS", help="a file of a text a line: compare types on them"
    )
    compared.add_argument("--dtype", default="int8", help="compared with float32: bfloat16, int8, int4")


def parse_size(text: str) -> int:
    """Bytes of a size such as 24GB or 80GiB."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise CliError(f"--fits is {text!r}; write a number and a unit, such as 24GB or 80GiB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def plans(options: argparse.Namespace) -> dict[str, dict[str, dict[str, object]]]:
    """Of each published size in each type: what it takes, and on how many devices it fits."""
    from mplug.memory_plan import WEIGHT_TYPES, Use
    from mplug.planned_models import named_models

    memory = parse_size(options.fits)
    use = Use(
        batch=options.batch, sequences=options.sequences, prompt=options.prompt, written=options.written
    )
    models = named_models()
    return {
        name: {
            dtype: _facts(name, dtype, use, memory, options.on)
            for dtype in WEIGHT_TYPES
            if models[name].quantizes or not dtype.startswith("int")
            if (dtype, options.on) != ("int4", "cuda")
        }
        for name in models
    }


def table(options: argparse.Namespace, planned: dict[str, dict[str, dict[str, object]]]) -> Table:
    """The same for people, in GB."""
    title = (
        f"{options.fits} on {options.on}: {options.batch} x {options.sequences} texts, {options.prompt} tokens read "
        f"and {options.written} written; in GB, and on how many devices it fits"
    )
    shown = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("model", "type"):
        shown.add_column(column, no_wrap=True)
    for column in ("weights", "copies", "cache", "workspace", "total"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("devices", justify="right", no_wrap=True)
    for name, types in planned.items():
        for dtype, facts in types.items():
            parts = [_in_gb(facts[key]) for key in ("weights", "copies", "cache", "workspace", "total")]
            shown.add_row(name, dtype, *parts, _verdict(facts))
        shown.add_row()
    return shown


def agreement(model: str, texts: str, dtype: str) -> str:
    """Load a model twice and say how far the two agree."""
    from mplug.agreement import agreement as compare
    from mplug.freezing import freeze
    from mplug.loading import load

    try:
        lines = [line for line in Path(texts).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"--agreement is {texts}, which cannot be read: {error}") from error
    exact = load(model, task="text-generation")
    other = load(model, task="text-generation", dtype=dtype)
    return str(compare(freeze(exact), freeze(other), lines))


def _facts(name: str, dtype: str, use: "Use", memory: int, place: "Place") -> dict[str, object]:
    from mplug.memory_plan import devices_needed, plan
    from mplug.planned_models import named_models

    model = named_models()[name]
    one = plan(model, dtype, use, place=place)
    return {
        "weights": one.weights,
        "copies": one.copies,
        "cache": one.cache,
        "workspace": one.workspace,
        "total": one.total,
        "fits": one.total <= memory,
        "devices": devices_needed(model, dtype, use, memory, place=place),
    }


def _verdict(facts: dict[str, object]) -> str:
    if facts["fits"]:
        return "1"
    return "none" if facts["devices"] is None else str(facts["devices"])


def _in_gb(size: object) -> str:
    assert isinstance(size, int)
    return f"{size / _GB:,.2f}"
