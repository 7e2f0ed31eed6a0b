"""Files that are whole or not there, whenever the machine stops."""

from __future__ import annotations

import os
from pathlib import Path

from mplug_index.storage import sync_directory


def write_whole(file: Path, text: str) -> None:
    """Put a file in the place of another; durable when it returns."""
    temporary = file.with_name(f"{file.name}.new")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    sync_directory(file.parent)


def sync_tree(folder: Path) -> None:
    """Make everything in a folder durable."""
    for place, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(place, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(place))
