from __future__ import annotations

import subprocess
import sys

import pytest

import mplug_index

LOADED = """
import sys
import {module}
heavy = ("numpy", "faiss", "sqlite3", "torch", "grpc", "google.protobuf")
print(*sorted(name for name in heavy if name in sys.modules))
"""


@pytest.mark.parametrize(
    "module", ["mplug_index", "mplug_index.types", "mplug_index.filters", "mplug_index.errors"]
)
def test_the_types_bring_numpy_only(module: str) -> None:
    script = LOADED.format(module=module)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["numpy"]


def test_public_names_are_these_and_are_there() -> None:
    assert mplug_index.__all__ == sorted(mplug_index.__all__)
    assert all(getattr(mplug_index, name) is not None for name in mplug_index.__all__)
    assert mplug_index.Database.__module__ == "mplug_index.database"
    assert mplug_index.PictureRoot.__module__ == mplug_index.PictureStore.__module__ == "mplug_index.pictures"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        mplug_index.Nothing  # noqa: B018  # the access is the test
