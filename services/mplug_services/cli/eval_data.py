"""What the evaluations of a model share: which pictures of a data folder, run in batches, and how examples are kept."""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeVar

from mplug.errors import MplugError
from mplug.evaluation.examples import Example
from mplug.evaluation.noise import noise_pixels
from mplug.pipelines import Input, Outcome, Runner, image_bytes
from mplug_services.cli.common import CliError, UsageError, messages, progress_bar
from mplug_services.cli.explanations import write_picture

SPLITS = ("val", "dev", "held_out", "unseen_style", "train")
"""Of `mplug.train.data.Split`, which is imported when it is needed."""


class InSplit(Protocol):
    """A picture or a question of a data folder."""

    @property
    def split(self) -> str:
        """What it may be used for."""
        ...


R = TypeVar("R", bound=InSplit)


@dataclass(frozen=True, slots=True)
class Item:
    """One picture, and what a text about it begins with, or a question about it."""

    id: str
    image: Path
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One example of a sheet."""

    example: Example
    image: Path
    heading: str
    """A question; empty where there is none."""
    text: str
    """The model's."""
    references: tuple[str, ...]
    """People's."""


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what every evaluation of a model takes."""
    parser.add_argument("--data", required=True, type=Path, metavar="FOLDER", help="the data, see above")
    parser.add_argument(
        "--split", choices=SPLITS, default="val", help="which of its pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only N of them, evenly spaced in the order of the file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what evaluations of models that write take."""
    parser.add_argument(
        "--noise",
        action="store_true",
        help="run a second time with noise for pictures, and tell how many texts are other ones",
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FOLDER", help="draw 20 examples there; git is told to ignore them"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="pictures at a time (default: %(default)s)"
    )


def check_arguments(options: argparse.Namespace) -> None:
    """Refuses what cannot be, before a model is loaded.

    Raises:
        UsageError: A number that is none, or a folder that is not there.
        CliError: The server half is not installed.
    """
    if find_spec("torch") is None:
        raise CliError("evaluating a model needs the server half: pip install 'mplug-serve[server]'")
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit takes a number from 1 on, not {options.limit}")
    if getattr(options, "batch_size", 1) < 1:
        raise UsageError(f"--batch-size takes a number of pictures from 1 on, not {options.batch_size}")
    if not options.data.is_dir():
        raise UsageError(f"--data {options.data} is not a folder")


def chosen(rows: Sequence[R], options: argparse.Namespace) -> list[R]:
    """The rows of the split, at most --limit of them.

    Raises:
        UsageError: There are none; it says which splits have some.
    """
    found = [row for row in rows if row.split == options.split]
    if not found:
        counts = ", ".join(f"{name} {count}" for name, count in Counter(row.split for row in rows).items())
        raise UsageError(f"--split {options.split}: {options.data} has none of it; it has {counts or 'none'}")
    count = min(options.limit or len(found), len(found))
    return [found[number * len(found) // count] for number in range(count)]


def generate_texts(
    runner: Runner, items: Sequence[Item], options: argparse.Namespace, *, noise: bool = False
) -> list[str]:
    """The model's best text for each item, in order, with a progress bar.

    Raises:
        CliError: A picture cannot be read, or the model refuses an item.
    """

    def run(batch: Sequence[Item], start: int) -> list[str]:
        outcomes = _run(batch, runner.run, start if noise else None)
        return [outcome.texts[0].text for outcome in outcomes]

    return _in_batches(run, items, "with noise" if noise else "texts", options)


def rank_texts(
    runner: Runner, items: Sequence[Item], answers: Sequence[str], options: argparse.Namespace
) -> list[str]:
    """The likeliest of given answers for each item, likewise; `options.rank_k` are scored in full."""

    def run(batch: Sequence[Item], start: int) -> list[str]:
        outcomes = _run(batch, lambda inputs: runner.rank(inputs, answers, options.rank_k))
        return [outcome.ranked[0].text for outcome in outcomes]

    return _in_batches(run, items, "ranked answers", options)


def _in_batches(
    run: Callable[[Sequence[Item], int], list[str]],
    items: Sequence[Item],
    what: str,
    options: argparse.Namespace,
) -> list[str]:
    texts: list[str] = []
    with progress_bar(messages()) as progress:
        bar = progress.add_task(what, total=len(items))
        for start in range(0, len(items), options.batch_size):
            batch = items[start : start + options.batch_size]
            texts += run(batch, start)
            progress.advance(bar, len(batch))
    return texts


def _run(
    batch: Sequence[Item],
    call: Callable[[Sequence[Input]], list[Outcome]],
    noise_seed: int | None = None,
) -> list[Outcome]:
    try:
        inputs = [Input(image_bytes(item.image), item.text) for item in batch]
        if noise_seed is not None:
            inputs = [_noise(each, noise_seed + number) for number, each in enumerate(inputs)]
        outcomes = call(inputs)
    except OSError as error:
        raise CliError(f"a picture cannot be read: {error}") from error
    except MplugError as error:
        raise CliError(str(error)) from error
    for item, outcome in zip(batch, outcomes, strict=True):
        if outcome.error is not None:
            raise CliError(f"{item.image}: {outcome.error}") from outcome.error
    return outcomes


def _noise(item: Input, seed: int) -> Input:
    """The item with noise of the picture's own size."""
    from PIL import Image

    from mplug.images import decode_image

    width, height = decode_image(item.image).size
    return Input(image_bytes(Image.fromarray(noise_pixels((height, width, 3), seed))), item.text)


def write_examples(folder: Path, title: str, shown: Sequence[Shown]) -> None:
    """Writes the examples as a picture and as lines of JSON, in a folder that git is told to ignore.

    Raises:
        CliError: It cannot be written.
    """
    from mplug_services.cli.example_sheet import draw_examples
    from mplug_services.cli.heat_sheet import png

    lines = [
        {
            "group": each.example.group,
            "score": round(each.example.score, 4),
            "id": each.example.id,
            "text": each.text,
            "references": each.references,
            **({"question": each.heading} if each.heading else {}),
        }
        for each in shown
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_picture(folder / ".gitignore", b"*\n")
    write_picture(folder / "examples.jsonl", text.encode())
    write_picture(folder / "sheet.png", png(draw_examples(shown, title)))
    messages().print(f"{len(shown)} examples are in {folder}", soft_wrap=True)
