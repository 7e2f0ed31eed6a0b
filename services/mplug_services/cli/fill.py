"""Fill the [MASK]s of texts.

The text is printed with the best candidate at each mask; with --json each result is a JSON object a line:
{"text", "masks": [[{"piece", "score"}]]}, the candidates of each mask, best first, or {"error"}.
"""

import argparse
from dataclasses import asdict
from typing import Any

from mplug_services.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    Refusal,
    UsageError,
    messages,
    report_refusals,
)
from mplug_services.cli.texts import add_text_arguments, open_judge, print_json, read_lines
from mplug_services.client import FillOutcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--top-k", type=int, default=5, metavar="K", help="candidates for each mask (default: %(default)s)"
    )
    add_text_arguments(parser, "StructBERT")


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    lines = read_lines(options)
    if not lines:
        raise UsageError("give a TEXT, or --input FILE")
    if options.top_k < 1:
        raise UsageError(f"--top-k takes a number of candidates from 1 on, not {options.top_k}")
    judge = open_judge(options, "fill-mask")
    try:
        outcomes = judge.fill_mask(
            [line.text for line in lines], top_k=options.top_k, model=options.served_model
        )
    finally:
        judge.close()
    refusals = []
    for line, outcome in zip(lines, outcomes, strict=True):
        if outcome.error is not None:
            refusals.append(Refusal(line.id or line.text[:40], str(outcome.error)))
        if options.json:
            print_json(line.facts(**_facts(outcome)))
        elif outcome.error is None:
            print(outcome.filled)
    report_refusals(messages(), refusals, "refused")
    return EXIT_REFUSED if refusals else EXIT_OK


# Any: JSON.
def _facts(outcome: FillOutcome) -> dict[str, Any]:
    if outcome.error is not None:
        return {"error": str(outcome.error)}
    facts = {"text": outcome.filled, "masks": [[asdict(one) for one in mask] for mask in outcome.masks]}
    return {**facts, "truncated": True} if outcome.truncated else facts
