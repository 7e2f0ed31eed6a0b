from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mplug_index import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "db") as database:
        yield database
