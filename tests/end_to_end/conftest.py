"""Servers that several files of tests talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mplug.checkpoints import native
from services.rerank_servers import (
    Stubs,
    make_rerank_model,
    rerank_server,
)
from services.serving import (
    build_model,
)


@pytest.fixture(scope="session")
def rerank_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    native.save(build_model(), folder / "retrieval")
    native.save(make_rerank_model(), folder / "rerank")
    return folder


@pytest.fixture(scope="session")
def slow_rerank_models(rerank_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reranker has a vision tower of 1025 tokens: some ten times slower to rerank than to search."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "retrieval").symlink_to(rerank_models / "retrieval")
    native.save(make_rerank_model(side=512, depth=6), folder / "rerank")
    return folder


@pytest.fixture
async def rerank_stubs(tmp_path: Path, rerank_models: Path) -> AsyncIterator[Stubs]:
    async with rerank_server(tmp_path, rerank_models, token_cache="none") as stubs:
        yield stubs
