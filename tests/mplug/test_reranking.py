"""The matching model beyond the golden numbers of test_golden.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden.mplug_cases import read_case, some_pixels, some_text, tiny, tiny_config
from mplug.errors import ConfigError
from mplug.loading import load
from mplug.reranking import RerankModel


@pytest.fixture(scope="module")
def model() -> RerankModel:
    return tiny(RerankModel)


@pytest.fixture(scope="module")
def tokens(model: RerankModel) -> Tensor:
    with torch.inference_mode():
        return model.encode_image(some_pixels())


@torch.inference_mode()
def test_scores_are_the_second_of_the_softmax(model: RerankModel, tokens: Tensor) -> None:
    ids, mask = some_text()
    scores = model.itm_scores(tokens, ids, mask)
    logits = model.itm_logits(tokens, ids, mask)
    assert scores.shape == (2,)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.sigmoid(logits[:, 1] - logits[:, 0]))


@torch.inference_mode()
def test_a_batch_of_one_and_a_batch_of_two_agree(model: RerankModel, tokens: Tensor) -> None:
    ids, mask = some_text()
    together = model.itm_scores(tokens, ids, mask)
    alone = [
        model.itm_scores(tokens[row : row + 1], ids[row : row + 1], mask[row : row + 1]) for row in (0, 1)
    ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_padding_to_25_tokens_changes_no_score(model: RerankModel, tokens: Tensor) -> None:
    ids, mask = some_text()
    padded, padded_mask = (torch.nn.functional.pad(each, (0, 25 - each.shape[1])) for each in (ids, mask))
    torch.testing.assert_close(
        model.itm_scores(tokens, padded, padded_mask),
        model.itm_scores(tokens, ids, mask),
        rtol=1e-5,
        atol=1e-6,
    )


@torch.inference_mode()
def test_scores_of_half_precision_are_float32(tokens: Tensor) -> None:
    ids, mask = some_text()
    full, half = tiny(RerankModel), tiny(RerankModel).to(torch.bfloat16)
    scores = half.itm_scores(tokens.bfloat16(), ids, mask)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, full.itm_scores(tokens, ids, mask), rtol=0, atol=0.05)


@torch.inference_mode()
def test_base_width_checkpoints_rerank(tmp_path: Path) -> None:
    # Without a bridge the reference's own inference crashes.
    case = read_case("vqa_base")
    generator = torch.Generator().manual_seed(3)
    head = {
        "itm_head.weight": torch.randn(2, 64, generator=generator),
        "itm_head.bias": torch.randn(2, generator=generator),
    }
    model = load(case.write_modelscope(tmp_path, {**case.weights, **head}), task="rerank")
    assert model.config.image_encoder.adapter_width is None
    tokens = model.image_encoder.backbone(case.io["image"])
    ids, mask = case.io["question_input_ids"], case.io["question_attention_mask"].bool()
    logits = case.io["fusion_text"][:, 0] @ head["itm_head.weight"].T + head["itm_head.bias"]
    torch.testing.assert_close(
        model.itm_scores(tokens, ids, mask), logits.softmax(-1)[:, 1], rtol=1e-5, atol=1e-6
    )


def test_a_model_without_fusion_is_refused() -> None:
    with pytest.raises(ConfigError, match="no fusion_encoder, which the task 'rerank' needs"):
        tiny(RerankModel, tiny_config())
