"""The reference's ranking of answers (X-PLUG's `rank_answer`), asked of a real server by the client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor

from golden.mplug_cases import GOLDEN
from mplug_services.client import AsyncClient, Question
from services.generation_servers import golden_image, golden_model, model_server


def words(ids: Tensor, mask: Tensor) -> list[str]:
    """Stored token ids as texts, whose vocabulary's words are their ids; without the special tokens."""
    rows = zip(ids, mask.bool(), strict=True)
    return [" ".join(f"piece{token}" for token in row[real].tolist()[1:-1]) for row, real in rows]


@pytest.mark.parametrize("k", [2, 4])
async def test_answers_are_ranked_as_the_reference_does(k: int, tmp_path: Path) -> None:
    stored = json.loads((GOLDEN / "mplug" / "vqa_large_rank_answer.json").read_text())[f"k{k}"]
    case, model = golden_model("vqa_large", tmp_path, "vqa")
    asked = words(case.io["question_input_ids"], case.io["question_attention_mask"])
    answers = words(case.io["rank_candidate_ids"], case.io["rank_candidate_mask"])
    questions = [Question(golden_image(place).data, text) for place, text in enumerate(asked)]
    async with (
        model_server(tmp_path, {"vqa": model}, services=("vqa", "model")) as (server, _),
        AsyncClient(server.address) as client,
    ):
        together = await client.rank_answers(questions, answers, k=k)
        alone = [(await client.rank_answers([question], answers, k=k))[0] for question in questions]
    for found in (together, alone):
        ranked = [one.answers for one in found]
        assert [[each.index for each in one] for one in ranked] == stored["topk_answer_index"]
        assert [[each.text for each in one] for one in ranked] == [
            [answers[index] for index in indices] for indices in stored["topk_answer_index"]
        ]
        for one, probabilities in zip(ranked, stored["topk_probs"], strict=True):
            assert [each.probability for each in one] == pytest.approx(probabilities, rel=1e-4, abs=1e-8)
