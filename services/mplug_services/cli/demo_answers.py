"""The demo's second half: captions in two languages, and answers to questions about single pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mplug_services.cli.demo_queries import PROMPT_ZH, DemoPicture
from mplug_services.client import Client, Question


@dataclass(frozen=True, slots=True)
class Told:
    """What the server says of one picture."""

    picture: Path
    english: str
    chinese: str
    answers: tuple[tuple[str, str], ...]
    """Each question with its answer."""


def tell(client: Client, folder: Path, pictures: Sequence[DemoPicture], console: Console) -> list[Told]:
    """Captions pictures of a folder, asks what is to be asked about them, and prints both as tables.

    Raises:
        ClientError: The server cannot, or refuses a picture.
    """
    paths = [folder / each.picture for each in pictures]
    english = [each.text for each in client.caption(paths)]
    chinese = [each.text for each in client.caption(paths, prompt=PROMPT_ZH)]
    answers = _ask(client, paths, pictures)
    told = list(map(Told, paths, english, chinese, answers))
    console.print(_captions_table(told))
    console.print(_answers_table(told))
    return told


def _ask(
    client: Client, paths: Sequence[Path], pictures: Sequence[DemoPicture]
) -> list[tuple[tuple[str, str], ...]]:
    asked = [
        Question(path, question)
        for path, each in zip(paths, pictures, strict=True)
        for question in each.questions
    ]
    found = iter([each.text for each in client.answer(asked)])
    return [tuple((question, next(found)) for question in each.questions) for each in pictures]


def _captions_table(told: Sequence[Told]) -> Table:
    table = plain_table(
        "captions, in English and in Chinese", "picture", "caption", f"caption after {PROMPT_ZH}"
    )
    for each in told:
        table.add_row(each.picture.stem, escape(each.english), escape(each.chinese), end_section=True)
    return table


def _answers_table(told: Sequence[Told]) -> Table:
    table = plain_table("questions", "picture", "question", "answer")
    for each in told:
        for number, (question, answer) in enumerate(each.answers):
            last = number == len(each.answers) - 1
            name = "" if number else each.picture.stem
            table.add_row(name, escape(question), escape(answer), end_section=last)
    return table


def plain_table(title: str, *columns: str) -> Table:
    """A table as the demo prints them."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", expand=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
