"""What ModelScope's models draw from: its own filters of top-k and top-p, run on the same logits."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden.mplug_cases import GOLDEN
from mplug.generation import GenerationConfig
from mplug.generation.sampling import draw, probabilities

OF_GPT3 = load_file(GOLDEN / "gpt3" / "base.io.safetensors")
OF_OTHERS = load_file(GOLDEN / "extras" / "filters.safetensors")
CASES = [
    ("gpt3", "filter_top_k5", 5, 1.0),
    ("gpt3", "filter_top_p0p9", 0, 0.9),
    ("others", "mplug_palm.top_k0.top_p0.9", 0, 0.9),
    ("others", "mplug_palm.top_k1.top_p1.0", 1, 1.0),
    ("others", "mplug_palm.top_k10.top_p1.0", 10, 1.0),
    ("others", "mplug_palm.top_k5.top_p0.8", 5, 0.8),
    ("others", "plug.top_k0.top_p0.9", 0, 0.9),
    ("others", "plug.top_k5.top_p0.0", 5, 1.0),
    ("others", "plug.top_k5.top_p0.8", 5, 0.8),
]


def stored(source: str, name: str) -> tuple[Tensor, Tensor]:
    filtered = OF_GPT3[name] if source == "gpt3" else OF_OTHERS[name]
    logits = OF_GPT3["filter_in"] if source == "gpt3" else OF_OTHERS["logits"]
    return logits[: len(filtered)], filtered


def test_every_stored_filter_is_here() -> None:
    names = {name for source, name, *_ in CASES if source == "others"}
    assert names == OF_OTHERS.keys() - {"logits"}
    assert {name for source, name, *_ in CASES if source == "gpt3"} == {
        name for name in OF_GPT3 if name.startswith("filter_") and name != "filter_in"
    }


@pytest.mark.parametrize(("source", "name", "top_k", "top_p"), CASES)
def test_the_same_tokens_are_kept_with_the_same_probabilities(
    source: str, name: str, top_k: int, top_p: float
) -> None:
    logits, filtered = stored(source, name)
    config = GenerationConfig(method="sample", top_k=top_k, top_p=top_p)
    found = probabilities(logits.log_softmax(-1), config)
    kept = filtered > -1e9  # ModelScope's models have minus infinity or a large number
    assert torch.equal(found > 0, kept)
    assert torch.allclose(found / found.sum(-1, keepdim=True), filtered.softmax(-1), atol=1e-6)


def test_what_is_filtered_out_is_never_drawn() -> None:
    logits, filtered = stored("gpt3", "filter_top_p0p9")
    config = GenerationConfig(method="sample", top_p=0.9)
    for uniform in (0.0, 0.25, 0.5, 0.75, 1 - 1e-16):
        tokens = draw(logits.log_softmax(-1), [uniform] * len(logits), config)
        assert torch.isfinite(filtered.gather(1, tokens[:, None])).all()
