"""Golden cases as fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest

from golden.mplug_cases import GoldenCase, read_case


@pytest.fixture(scope="session")
def retrieval_case() -> GoldenCase:
    return read_case("retrieval_large")


@pytest.fixture
def retrieval_folder(retrieval_case: GoldenCase, tmp_path: Path) -> Path:
    """The golden retrieval model as a ModelScope folder, to be spoilt at will."""
    return retrieval_case.write_modelscope(tmp_path / "mplug_image-text-retrieval_large_en")
