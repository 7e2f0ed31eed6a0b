"""Measure how good a model's or a server's answers are."""

import argparse

from mplug_services.cli import eval_captions, eval_clue, eval_retrieval, eval_search, eval_text, eval_vqa

EVALUATIONS = {
    "search": eval_search,
    "retrieval": eval_retrieval,
    "captions": eval_captions,
    "vqa": eval_vqa,
    "text": eval_text,
    "clue": eval_clue,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what can be evaluated, with its arguments."""
    evaluations = parser.add_subparsers(dest="evaluation", metavar="WHAT", required=True)
    for name, module in EVALUATIONS.items():
        summary, _, details = (module.__doc__ or "").partition("\n\n")
        evaluation = evaluations.add_parser(
            name,
            help=summary.rstrip("."),
            description=f"{summary}\n\n{details}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(evaluation)
        evaluation.set_defaults(evaluate=module.run)


def run(options: argparse.Namespace) -> int:
    """Runs the evaluation that was asked for."""
    code: int = options.evaluate(options)
    return code
