"""Turn texts or pictures into vectors.

The result is one JSON object a line, {"input", "vector", "truncated"} or {"input", "error"}, or with
--output FILE.npy a float32 array (items, width) in which what was refused is a row of NaN.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mplug_services.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    CliError,
    UsageError,
    add_connection_arguments,
    add_served_model_argument,
    connect,
    messages,
)
from mplug_services.client import EmbedOutcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", nargs="+", metavar="TEXT", help="texts")
    what.add_argument("--text-file", type=Path, metavar="FILE", help="texts, one a line; - is standard input")
    what.add_argument("--image", nargs="+", type=Path, metavar="FILE", help="pictures")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=".jsonl or .npy (default: JSON lines here)"
    )
    add_served_model_argument(parser)
    add_connection_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    if options.output is not None and options.output.suffix not in (".jsonl", ".npy"):
        raise UsageError(f"--output takes a .jsonl or .npy file, not {options.output}")
    texts = _texts(options)
    with connect(options) as client:
        model = options.served_model
        outcomes = (
            client.embed_images(options.image, model=model)
            if options.image
            else client.embed_texts(texts, model=model)
        )
    inputs = [str(path) for path in options.image] if options.image else texts
    _write(options.output, inputs, outcomes)
    refused = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in refused:
        messages().print(f"refused {inputs[outcome.index]}: {outcome.error}", style="yellow", markup=False)
    return EXIT_REFUSED if refused else EXIT_OK


def _texts(options: argparse.Namespace) -> list[str]:
    if options.text_file is None:
        return list(options.text or [])
    if str(options.text_file) == "-":
        return sys.stdin.read().splitlines()
    try:
        return str(options.text_file.read_text(encoding="utf-8")).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text-file {options.text_file} cannot be read: {error}") from error


def _write(output: Path | None, inputs: Sequence[str], outcomes: Sequence[EmbedOutcome]) -> None:
    if output is None:
        print("\n".join(_json_line(inputs[outcome.index], outcome) for outcome in outcomes))
        return
    try:
        if output.suffix == ".npy":
            np.save(output, _array(outcomes))
        else:
            lines = [_json_line(inputs[outcome.index], outcome) + "\n" for outcome in outcomes]
            output.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise CliError(f"{output} cannot be written: {error.strerror}") from error


def _json_line(text: str, outcome: EmbedOutcome) -> str:
    if outcome.vector is None:
        return json.dumps({"input": text, "error": str(outcome.error)}, ensure_ascii=False)
    vector = [float(f"{number:.8g}") for number in outcome.vector]
    line = {"input": text, "vector": vector, "truncated": outcome.truncated}
    return json.dumps(line, ensure_ascii=False)


def _array(outcomes: Sequence[EmbedOutcome]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    width = next((len(outcome.vector) for outcome in outcomes if outcome.vector is not None), 0)
    rows = np.full((len(outcomes), width), np.nan, dtype=np.float32)
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome.vector is not None:
            row[:] = outcome.vector
    return rows
