"""Prompts by name (`mplug.prompts`), with their slots from the command line."""

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import replace

from mplug.errors import MplugError
from mplug.prompts import PROMPTS, few_shot, prompt, slots, written_length
from mplug_services.cli.common import UsageError
from mplug_services.cli.texts import Line, read_json_lines

_FLAGS = {"true": True, "false": False}


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a prompt's name and its slots."""
    known = "; ".join(f"{name}: {', '.join(slots(name))}" for name in PROMPTS)
    parser.add_argument(
        "--template",
        choices=list(PROMPTS),
        metavar="NAME",
        help=f"put each TEXT into a prompt's first slot that is not given; prompts and their slots are {known}",
    )
    parser.add_argument(
        "--slot",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a slot of the prompt; may be given several times, of keywords each with one",
    )
    parser.add_argument(
        "--examples",
        metavar="FILE",
        help='show how it is done: JSON lines {"source", "target"}, which stand before each TEXT',
    )
    parser.add_argument("--instruction", metavar="TEXT", help="with --examples: stands in front of them")


def with_prompt(lines: Sequence[Line], options: argparse.Namespace) -> list[Line]:
    """The texts in the prompt that was named, behind the examples; without a text, the prompt of its slots alone.

    Raises:
        UsageError: Slots that the prompt does not have or cannot do without, slots without a prompt, an instruction
            without examples, or a file of examples that is none.
    """
    filled = _filled(lines, options)
    if options.examples is None:
        if options.instruction is not None:
            raise UsageError("--instruction stands before examples; give --examples FILE")
        return filled
    shown = _examples(options.examples)
    return [
        replace(line, text=few_shot(shown, line.text, instruction=options.instruction or ""))
        for line in filled
    ]


def _filled(lines: Sequence[Line], options: argparse.Namespace) -> list[Line]:
    if options.template is None:
        if options.slot:
            raise UsageError("--slot is of a prompt; name it with --template")
        return list(lines)
    given = _slots(options.slot)
    if not lines:
        return [_fill(Line(""), options.template, given)]
    free = next((slot for slot in slots(options.template) if slot not in given), None)
    if free is None:
        raise UsageError(f"all slots of {options.template} are given; there is none for a TEXT")
    return [_fill(line, options.template, {free: [line.text], **given}) for line in lines]


def _examples(file: str) -> list[tuple[str, str]]:
    found = []
    for place, value in read_json_lines(file):
        pair = (value.get("source"), value.get("target")) if isinstance(value, dict) else (None, None)
        source, target = pair
        if not isinstance(source, str) or not isinstance(target, str):
            raise UsageError(f'{place} is no object with "source" and "target"')
        found.append((source, target))
    if not found:
        raise UsageError(f"{file} holds no examples")
    return found


def _slots(pairs: Sequence[str]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise UsageError(f"--slot takes NAME=VALUE, not {pair!r}")
        given.setdefault(name, []).append(value)
    return given


def _fill(line: Line, name: str, given: dict[str, list[str]]) -> Line:
    """The line with the prompt for its text."""
    slots_given = {slot: _value(name, slot, values) for slot, values in given.items()}
    try:
        return replace(line, text=prompt(name, **slots_given), length=written_length(name, **slots_given))
    except MplugError as error:
        raise UsageError(str(error)) from error


def _value(name: str, slot: str, values: Sequence[str]) -> str | bool | list[str]:
    parameter = inspect.signature(PROMPTS[name]).parameters.get(slot)
    kind = "" if parameter is None else str(parameter.annotation)
    if kind.startswith("Sequence"):
        return list(values)
    if len(values) > 1:
        raise UsageError(f"--slot {slot} is given {len(values)} times, and {name} takes one")
    if kind == "bool":
        if values[0] not in _FLAGS:
            raise UsageError(f"--slot {slot} takes true or false, not {values[0]!r}")
        return _FLAGS[values[0]]
    return values[0]
