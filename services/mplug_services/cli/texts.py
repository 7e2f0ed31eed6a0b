"""What the commands of texts share: where texts come from, and who does something with them."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mplug_services.cli.common import UsageError, connect
from mplug_services.cli.generation import add_place_arguments, check_place
from mplug_services.client import (
    ClassifyOutcome,
    FillOutcome,
    GenerationOptions,
    KnownQuestion,
    TextOutcome,
    TextProgress,
    TextSource,
)

MODELS = "a folder of {}, or the name of a model that ships with the package"


@dataclass(frozen=True, slots=True)
class Line:
    """One text that was given."""

    text: str
    pair: str | None = None
    """A second one, to be judged with it."""
    id: str | None = None
    """What a file calls it."""
    length: int | None = None
    """Tokens that what is written of it should have."""

    @property
    def source(self) -> TextSource:
        """Both, where there are two."""
        return self.text if self.pair is None else (self.text, self.pair)

    # Any: JSON.
    def facts(self, **facts: Any) -> dict[str, Any]:
        """Facts about it, with its name."""
        return facts if self.id is None else {"id": self.id, **facts}


class Writes(Protocol):
    """What is asked to write: a `Client`, or a model on this machine."""

    def generate(
        self,
        texts: Sequence[str],
        *,
        options: GenerationOptions | None = None,
        stop: Sequence[str] = (),
        log_probs: bool = False,
        model: str = "",
    ) -> list[TextOutcome]:
        """As of `Client`."""
        ...

    def stream_generate(
        self,
        text: str,
        *,
        options: GenerationOptions | None = None,
        stop: Sequence[str] = (),
        log_probs: bool = False,
        model: str = "",
    ) -> Iterator[TextProgress]:
        """As of `Client`."""
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


class Judges(Protocol):
    """What is asked to judge: a `Client`, or a model on this machine."""

    def classify(
        self,
        texts: Sequence[TextSource],
        *,
        labels: Sequence[str] = (),
        template: str = "{}",
        multi_label: bool = False,
        known_questions: Sequence[KnownQuestion] = (),
        model: str = "",
    ) -> list[ClassifyOutcome]:
        """As of `Client`."""
        ...

    def fill_mask(
        self, texts: Sequence[str], *, top_k: int | None = None, model: str = ""
    ) -> list[FillOutcome]:
        """As of `Client`."""
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


def add_text_arguments(parser: argparse.ArgumentParser, families: str) -> None:
    """Adds texts, the form of the result, and where the model is."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="- is standard input, as one text")
    parser.add_argument(
        "--input",
        metavar="FILE",
        help='JSON lines: a text each, or an object with "text" and perhaps "id"; - is standard input',
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each text")
    add_place_arguments(parser, MODELS.format(families), example="FOLDER")


def open_writer(options: argparse.Namespace) -> Writes:
    """Who writes: the model on this machine that the options name, or a server.

    Raises:
        UsageError: Options that cannot be.
        CliError: No such model, or the package's server half is not installed.
    """
    if options.model is None:
        return connect(options)
    check_place(options)
    from mplug_services.cli.local_texts import LocalWriter  # it imports torch

    return LocalWriter(options.model, device=options.device, dtype=options.dtype)


def open_judge(options: argparse.Namespace, task: str = "") -> Judges:
    """Who judges, likewise; a model on this machine by a task, without one by what its folder was made for."""
    if options.model is None:
        return connect(options)
    check_place(options)
    from mplug_services.cli.local_texts import LocalJudge  # it imports torch

    return LocalJudge(options.model, task, device=options.device, dtype=options.dtype)


def read_lines(options: argparse.Namespace) -> list[Line]:
    """The texts that the options name.

    Raises:
        UsageError: There are none, or a file cannot be read or is of another form.
    """
    lines = [Line(sys.stdin.read() if text == "-" else text) for text in options.texts]
    if options.input is not None:
        lines += list(_file_lines(options.input))
    return lines


# Any: JSON.
def print_json(facts: Any) -> None:
    """One line."""
    print(json.dumps(facts, ensure_ascii=False), flush=True)


def read_json_lines(file: str) -> Iterator[tuple[str, Any]]:
    """Each line's place, for messages, and its value. Any: JSON.

    Raises:
        UsageError: The file cannot be read, or a line is no JSON.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield f"{file}:{number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{file}:{number} is no JSON: {error}") from error


def _file_lines(file: str) -> Iterator[Line]:
    for place, value in read_json_lines(file):
        fields = {"text": value} if isinstance(value, str) else value
        if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
            raise UsageError(f'{place} is neither a text nor an object with a "text"')
        pair, id = fields.get("text2"), fields.get("id")
        if not isinstance(pair, str | None) or not isinstance(id, str | int | None):
            raise UsageError(f'{place}: "text2" is a text and "id" a name')
        yield Line(fields["text"], pair, None if id is None else str(id))
