"""The losses against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.palm_cases import tiny_palm
from mplug.palm import plain_loss, smoothed_loss


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    labels=st.lists(st.integers(0, 8), min_size=1, max_size=6),
    pad_id=st.integers(0, 8),
    smoothing=st.floats(0.01, 0.9),
)
def test_smoothed_is_a_divergence_from_smoothed_labels(
    seed: int, labels: list[int], pad_id: int, smoothing: float
) -> None:
    logits = torch.randn(
        1, len(labels), 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    wanted = 0.0
    for label, row in zip(labels, logits[0].float().log_softmax(-1), strict=True):
        if label == pad_id:
            continue
        target = torch.full((9,), smoothing / 7)
        target[pad_id], target[label] = 0, 1 - smoothing
        wanted += F.kl_div(row, target, reduction="sum").item()
    found = smoothed_loss(logits, torch.tensor([labels]), pad_id=pad_id, smoothing=smoothing)
    assert found.item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_a_model_without_smoothing_has_the_plain_loss() -> None:
    model = tiny_palm(label_smoothing=0.0)
    source, text = torch.tensor([[101, 5, 102]]), torch.tensor([[101, 6, 102, 0]])
    logits = model(source, text[:, :-1])
    wanted = -logits.log_softmax(-1)[0, [0, 1], [6, 102]].sum()
    assert model.loss(source, text).item() == pytest.approx(wanted.item(), rel=1e-6)
    assert plain_loss(logits, text[:, 1:], pad_id=0).item() == pytest.approx(wanted.item(), rel=1e-6)
