"""mPLUG's golden numbers once more, cross-attention computed by each of the kernels' operators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generation_cases import GOLDEN_DECODERS, golden_decoder
from golden.mplug_cases import GOLDEN, GoldenCase
from golden.palm_cases import CASES as PALM_CASES
from golden.palm_cases import read_palm_case
from golden.plug_cases import CASES as PLUG_CASES
from golden.plug_cases import read_plug_case
from mplug import palm, plug
from mplug.checkpoints import modelscope
from mplug.generation import GenerationConfig, generate, rank_answers
from mplug.itm_scoring import ItmScorer
from mplug.palm import PalmGenerator
from mplug.plug import PlugGenerator
from mplug.reranking import RerankModel
from mplug.text_generator import Prompt
from mplug_kernels import ops
from mplug_kernels.dispatch import forcing
from mplug_kernels.rates import Rates
from mplug_kernels.variants import Variant

EVEN = {"project_flops": 1e11, "attend_flops": 1e11, "bytes_per_second": 1e10, "call_seconds": 1e-9}
ABSORBING, PROJECTING = Rates(absorb_flops=1e18, **EVEN), Rates(absorb_flops=1.0, **EVEN)

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize("name", GOLDEN_DECODERS)
def test_texts_are_those_of_the_reference(name: str, tmp_path: Path, calls: list[str]) -> None:
    golden = golden_decoder(name, tmp_path / name)
    is_masked = golden.memory_mask is not None and not bool(golden.memory_mask.all())
    assert is_masked == name.startswith("vqa"), "a question is shorter than the other"
    for stored in golden.case.described["generation"].values():
        config = GenerationConfig(
            beam_size=stored["beam_size"],
            min_length=stored["min_length"],
            max_length=stored["max_length"],
            num_results=stored["out_size"],
        )
        calls.clear()
        with forcing(Variant.KV):
            found = generate(golden.decoder, golden.start, [[101], [101]], config)
        assert [[list(one.ids) for one in texts] for texts in found] == stored["ids"]
        assert set(calls) == {"xattn_kv"}


@pytest.mark.parametrize("k", [2, 4])
def test_ranks_are_those_of_the_reference(k: int, tmp_path: Path, calls: list[str]) -> None:
    golden = golden_decoder("vqa_large", tmp_path / "vqa_large")
    stored = json.loads((GOLDEN / "mplug" / "vqa_large_rank_answer.json").read_text())[f"k{k}"]
    io = golden.case.io
    rows = zip(io["rank_candidate_ids"], io["rank_candidate_mask"], strict=True)
    answers = [ids[mask.bool()].tolist() for ids, mask in rows]
    with forcing(Variant.KV):
        found = rank_answers(golden.decoder, golden.start, answers, num_items=2, k=k)
    assert [[one.index for one in ranked] for ranked in found] == stored["topk_answer_index"]
    for ranked, probabilities in zip(found, stored["topk_probs"], strict=True):
        assert [one.probability for one in ranked] == pytest.approx(probabilities, rel=1e-5, abs=1e-9)
    assert set(calls) == {"xattn_kv"}


def written(
    model: PalmGenerator | PlugGenerator, prompts: Sequence[Prompt], config: GenerationConfig
) -> list[list[list[int]]]:
    """Each source's texts as ids without the starting token, the kernels' operator forced."""
    with forcing(Variant.KV):
        texts = generate(
            model.decoder,
            lambda items: model.start([prompts[item] for item in items]),
            [prompt.first for prompt in prompts],
            config,
        )
    return [[list(one.ids[1:]) for one in some] for some in texts]


def prompts_of(bos_id: int, ids_BN: Tensor, mask_BN: Tensor) -> list[Prompt]:
    rows = zip(ids_BN.tolist(), mask_BN.sum(1).tolist(), strict=True)
    prompts = [Prompt((bos_id,), tuple(ids[:length])) for ids, length in rows]
    assert len({len(prompt.source) for prompt in prompts}) > 1, "sources are padded"
    return prompts


@pytest.mark.parametrize("name", PALM_CASES)
def test_palm_writes_what_the_reference_does(name: str, tmp_path: Path, calls: list[str]) -> None:
    case = read_palm_case(name)
    model = palm.load(case.write(tmp_path / name))
    prompts = prompts_of(case.described["info"]["symbols"]["BOS"], case.io["src"], case.io["src_mask"])
    for stored in case.described["generation"].values():
        config = model.generation_config(
            beam_size=stored["beam_size"],
            min_length=stored["min_length"],
            max_length=stored["max_length"],
            length_penalty=stored["alpha"],
        )
        calls.clear()
        assert written(model, prompts, config) == stored["ids"]
        assert set(calls) == {"xattn_kv"}


@pytest.mark.parametrize("name", PLUG_CASES)
def test_plug_writes_what_the_reference_does(name: str, tmp_path: Path, calls: list[str]) -> None:
    case = read_plug_case(name)
    model = plug.load(case.write(tmp_path / name))
    prompts = prompts_of(101, case.io["input_ids"], case.io["attention_mask"])
    searches = {key: stored for key, stored in case.described["generation"].items() if "beam" in key}
    assert len(searches) == 3
    for stored in searches.values():
        config = model.generation_config(
            method="beam",
            beam_size=stored["beam_size"],
            min_length=stored["min_length"],
            max_length=stored["max_length"],
        )
        calls.clear()
        assert written(model, prompts, config) == stored["ids"]
        assert set(calls) == {"xattn_kv"}
