"""Loading takes little more memory than the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden.gpt3_cases import tiny_generator
from loading_memory import HAS_PEAK, peak_of_loading
from mplug import gpt3


@pytest.mark.long
@pytest.mark.skipif(not HAS_PEAK, reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(("ranks", "dtype"), [(1, torch.float32), (2, torch.float32), (8, torch.float16)])
def test_the_peak_is_a_tenth_above_the_weights(ranks: int, dtype: torch.dtype, tmp_path: Path) -> None:
    gpt3.save(tiny_generator(), tmp_path / "tiny", ranks=2)
    large = tiny_generator(hidden=768, heads=8, ffn=3072, vocab_size=4096, layers=4)
    gpt3.save(large.to(dtype), tmp_path / "large", ranks=ranks)
    peak, weights = peak_of_loading("mplug.gpt3", tmp_path / "tiny", tmp_path / "large")
    assert weights > 100e6
    assert peak <= 1.1 * weights
