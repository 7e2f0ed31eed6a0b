"""mPLUG's golden numbers once more, cross-attention computed by each of the kernels' operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from generation_cases import GOLDEN_DECODERS, golden_decoder
from golden.mplug_cases import GoldenCase
from mplug.checkpoints import modelscope
from mplug.generation import GenerationConfig, generate
from mplug.itm_scoring import ItmScorer
from mplug.reranking import RerankModel
from mplug_kernels import ops
from mplug_kernels.dispatch import forcing
from mplug_kernels.rates import Rates
from mplug_kernels.variants import Variant

EVEN = {"project_flops": 1e11, "attend_flops": 1e11, "bytes_per_second": 1e10, "call_seconds": 1e-9}
ABSORBING, PROJECTING = Rates(absorb_flops=1e18, **EVEN), Rates(absorb_flops=1.0, **EVEN)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operators that ran."""
    ran: list[str] = []
    for name in ("xattn_kv", "xattn_absorbed"):
        operator = getattr(ops, name)

        def noted(*arguments: Any, name: str = name, operator: Any = operator) -> Any:
            ran.append(name)
            return operator(*arguments)

        monkeypatch.setattr(ops, name, noted)
    return ran


@pytest.mark.parametrize("variant", list(Variant))
def test_scores_are_those_of_the_reference(
    variant: Variant, retrieval_case: GoldenCase, retrieval_folder: Path, calls: list[str]
) -> None:
    model = modelscope.load(retrieval_folder, RerankModel)
    scorer = ItmScorer(model, machine=ABSORBING if variant.absorbed else PROJECTING)
    io = retrieval_case.io
    for row, image in enumerate(io["image_embeds"]):
        ids, mask = io["text_input_ids"][row : row + 1], io["text_attention_mask"][row : row + 1]
        with forcing(variant):
            score = scorer.score(ids, [image], mask_1L=mask)
        assert torch.allclose(score, io["itm_scores"][row : row + 1, 1], atol=1e-5)
    assert set(calls) == {"xattn_absorbed" if variant.absorbed else "xattn_kv"}


@pytest.mark.parametrize("name", [name for name in GOLDEN_DECODERS if name.startswith("caption")])
def test_captions_are_those_of_the_reference(name: str, tmp_path: Path, calls: list[str]) -> None:
    golden = golden_decoder(name, tmp_path / name)
    for stored in golden.case.described["generation"].values():
        config = GenerationConfig(
            beam_size=stored["beam_size"],
            min_length=stored["min_length"],
            max_length=stored["max_length"],
            num_results=stored["out_size"],
        )
        with forcing(Variant.KV):
            found = generate(golden.decoder, golden.start, [[101], [101]], config)
        assert [[list(one.ids) for one in texts] for texts in found] == stored["ids"]
    assert set(calls) == {"xattn_kv"}
