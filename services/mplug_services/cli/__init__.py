"""The `mplug` command: one module for each of its commands, with `add_arguments` and `run`."""

import argparse
import sys
from collections.abc import Sequence

from mplug_index.errors import IndexStoreError
from mplug_services.cli import (
    ask,
    caption,
    classify,
    demo,
    embed,
    evaluate,
    fill,
    generate,
    info,
    ingest,
    jobs,
    models,
    search,
    serve,
    train,
    verify,
)
from mplug_services.cli.common import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE, CliError, describe
from mplug_services.client import ClientError

COMMANDS = {
    "serve": serve,
    "ingest": ingest,
    "search": search,
    "caption": caption,
    "ask": ask,
    "generate": generate,
    "classify": classify,
    "fill": fill,
    "info": info,
    "models": models,
    "embed": embed,
    "train": train,
    "jobs": jobs,
    "verify": verify,
    "eval": evaluate,
    "demo": demo,
}

_EPILOG = """\
exit codes:
  0    done
  1    failed: the message says why
  2    the command was used wrongly
  3    done, but some items were refused; each is named with its reason
  130  interrupted

environment:
  MPLUG_ADDRESS  the server that the commands talk to (default: localhost:50051)
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="mplug",
        description="Search pictures by text, by picture and by both; write and judge texts; through gRPC.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary, _, details = (module.__doc__ or "").partition("\n\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip("."),
            description=f"{summary}\n\n{details}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the result is the process's exit code."""
    options = build_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except CliError as error:
        print(f"mplug {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except ClientError as error:
        print(f"mplug {options.command}: {describe(error, options)}", file=sys.stderr)
        return EXIT_FAILURE
    except IndexStoreError as error:
        # A filter that contradicts itself is refused before anything is sent.
        print(f"mplug {options.command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code
