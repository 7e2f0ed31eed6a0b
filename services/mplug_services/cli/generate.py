"""Write from texts.

A text is continued, or made into another: that depends on the model; --template puts it into a prompt (a couplet's
second line is then as long as the first, unless a length is given). One alone is shown as it is written; several, or
--json, are written together, and are printed one after the other. With --json each is a JSON object a line: {"text",
"score", "finish_reason", "token_ids"}, with "log_probs" and "seed" where there are some, and "texts" where several were
asked for; or {"error"}.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from mplug_services.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    Refusal,
    UsageError,
    messages,
    report_refusals,
)
from mplug_services.cli.generation import add_generation_arguments, of_length, wire_options
from mplug_services.cli.prompt import add_prompt_arguments, with_prompt
from mplug_services.cli.texts import Line, Writes, add_text_arguments, open_writer, print_json, read_lines
from mplug_services.client import GeneratedText, TextOutcome

BATCH_SIZE = 64
"""Texts that are sent at a time, so that results of a long file come while it is read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this; may be given several times",
    )
    parser.add_argument("--log-probs", action="store_true", help="say how likely each token was; prints JSON")
    add_prompt_arguments(parser)
    add_generation_arguments(parser)
    add_text_arguments(parser, "GPT-3, PALM or PLUG")


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    lines = with_prompt(read_lines(options), options)
    if not lines:
        raise UsageError("give a TEXT, --input FILE, or a --template with its slots")
    wire_options(options)  # before the model is loaded
    as_json = options.json or options.log_probs
    writer = open_writer(options)
    try:
        if len(lines) == 1 and not as_json and (options.num_results or 1) == 1:
            return _stream(writer, lines[0], options)
        refusals = [
            refusal for batch in _batches(lines) for refusal in _write(writer, batch, options, as_json)
        ]
    finally:
        writer.close()
    report_refusals(messages(), refusals, "refused")
    return EXIT_REFUSED if refusals else EXIT_OK


def _batches(lines: Sequence[Line]) -> list[Sequence[Line]]:
    """Neighbours that are to be of one length."""
    runs = [list(run) for _, run in groupby(lines, lambda line: line.length)]
    return [run[start : start + BATCH_SIZE] for run in runs for start in range(0, len(run), BATCH_SIZE)]


def _stream(writer: Writes, line: Line, options: argparse.Namespace) -> int:
    shown = ""
    for step in writer.stream_generate(
        line.text,
        options=of_length(wire_options(options), line.length),
        stop=options.stop,
        model=options.served_model,
    ):
        if not step.text.startswith(shown):  # beams may think again
            print()
            shown = ""
        print(step.text[len(shown) :], end="", flush=True)
        shown = step.text
        if step.truncated:
            print("\nthe text was longer than the model reads; its end was left out", file=sys.stderr)
    print()
    return EXIT_OK


def _write(
    writer: Writes, lines: Sequence[Line], options: argparse.Namespace, as_json: bool
) -> list[Refusal]:
    """Writes from some texts and prints the results; those that there are none of."""
    outcomes = writer.generate(
        [line.text for line in lines],
        options=of_length(wire_options(options), lines[0].length),
        stop=options.stop,
        log_probs=options.log_probs,
        model=options.served_model,
    )
    refusals = []
    for number, (line, outcome) in enumerate(zip(lines, outcomes, strict=True), start=1):
        if outcome.error is not None:
            refusals.append(Refusal(line.id or f"text {number}", str(outcome.error)))
        if as_json:
            print_json(line.facts(**_facts(outcome)))
        elif outcome.error is None:
            print("\n".join(each.text for each in outcome.texts), flush=True)
    return refusals


# Any: JSON.
def _facts(outcome: TextOutcome) -> dict[str, Any]:
    if outcome.error is not None:
        return {"error": str(outcome.error)}
    texts = [_text_facts(each) for each in outcome.texts]
    facts = {**texts[0], **({"texts": texts} if len(texts) > 1 else {})}
    if outcome.seed is not None:
        facts["seed"] = outcome.seed
    return {**facts, "truncated": True} if outcome.truncated else facts


def _text_facts(text: GeneratedText) -> dict[str, Any]:
    facts = {
        "text": text.text,
        "score": round(text.score, 6),
        "finish_reason": text.finish_reason,
        "token_ids": list(text.token_ids),
    }
    return {**facts, "log_probs": [round(each, 6) for each in text.log_probs]} if text.log_probs else facts
