"""Finding and loading the compiled operators: `$MPLUG_KERNELS_LIBRARY`, else the packaged file, else none.

Never compiles: that is `make kernels`, or `python -m mplug_kernels.build`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

VARIABLE = "MPLUG_KERNELS_LIBRARY"
"""Path of a library to load instead of the packaged one; empty: load none."""
HASH_SUFFIX = ".sha256"


@dataclass(frozen=True, slots=True)
class Library:
    """What became of loading."""

    path: Path | None
    """Of the library that was loaded."""
    reason: str
    """Why none was, or where it came from."""

    @property
    def loaded(self) -> bool:
        """Whether the operators are compiled ones."""
        return self.path is not None


def hash_of(path: Path) -> str | None:
    """The hash of the sources that a library was made of, where a file beside it says so; see `build.source_hash`."""
    try:
        return path.with_suffix(HASH_SUFFIX).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


def mark(path: Path, source_hash: str) -> None:
    """Write down beside a library what it was made of."""
    path.with_suffix(HASH_SUFFIX).write_text(source_hash + "\n", encoding="ascii")


def load() -> Library:
    """Load the library, if there is one; what cannot be loaded costs a warning and no more."""
    path, reason = find()
    if path is None:
        return Library(None, reason)
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        logger.warning("cannot load the compiled kernels %s: %s; plain torch runs instead", path, error)
        return Library(None, f"{path} cannot be loaded: {error}")
    return Library(path, reason)


def find() -> tuple[Path | None, str]:
    """The library to load, and where it was found; or None and where it was not."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return (Path(named), f"named by {VARIABLE}") if named else (None, f"{VARIABLE} is empty")
    packaged = sorted(Path(__file__).parent.glob("libmplug_kernels*.so"))
    if packaged:
        return packaged[-1], "packaged"
    return None, "no compiled library is packaged; `make kernels` compiles one where nvcc is"
