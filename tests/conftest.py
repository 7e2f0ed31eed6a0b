"""Fixtures that tests of several folders ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch with one thread, here and in processes of the test: toy models are done before several have met.

    Sums come out alike then, so that what two processes trained can be compared to the bit.
    """
    import torch  # most folders' tests do without

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
