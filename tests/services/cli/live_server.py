"""A real server in a process of its own, with a tiny model of random weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from golden.mplug_cases import small_vocab, tiny_config, tiny_model
from mplug.checkpoints import native
from mplug_services.cli.server_process import ServerProcess

WORDS = dict(
    enumerate(["red", "green", "blue", "picture", "a", "of", "dog", "cat", "car", "猫", "狗"], start=7)
)
NO_MODELS = [*(f"--{task}-model=" for task in ("rerank", "caption", "vqa", "text")), "--more-models="]
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "grey": (128, 128, 128)}


def write_model(folder: Path) -> Path:
    """Writes the tiny model in our own layout."""
    pieces = [WORDS.get(number, piece) for number, piece in enumerate(small_vocab(130))]
    native.save(tiny_model(tiny_config(licence="for tests only"), vocab=pieces), folder)
    return folder


@contextmanager
def live_server(folder: Path, *arguments: str) -> Iterator[ServerProcess]:
    """Runs a server with its model and data in a folder; a second run finds both again."""
    model = folder / "tiny"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_model(model)
    with ServerProcess(folder / "data", ["--model", str(model), *NO_MODELS, *arguments]) as server:
        yield server


def write_pictures(folder: Path, count: int = 4) -> list[Path]:
    """Writes pictures that differ: a colour each, with a square that wanders."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (name, colour) in zip(range(count), _names(), strict=False):
        image = Image.new("RGB", (48, 40), colour)
        image.paste((250, 250, 250), (number % 40, 5, number % 40 + 8, 13))
        path = folder / f"{name}.png"
        image.save(path)
        paths.append(path)
    return paths


def _names() -> Iterator[tuple[str, tuple[int, int, int]]]:
    yield from COLOURS.items()
    number = 0
    while True:
        number += 1
        for name, (red, green, blue) in COLOURS.items():
            yield f"{name}-{number}", (red // 2 + number % 100, green, blue)
