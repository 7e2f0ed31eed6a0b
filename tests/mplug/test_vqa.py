"""The answering model beyond the golden numbers of test_golden.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from golden.mplug_cases import some_pixels, some_text, tiny, tiny_config, tiny_whole_config
from mplug.errors import ConfigError
from mplug.vqa import VqaModel


@pytest.fixture(scope="module")
def model() -> VqaModel:
    return tiny(VqaModel)


@pytest.fixture(scope="module")
def tokens(model: VqaModel) -> Tensor:
    with torch.inference_mode():
        return model.encode_image(some_pixels())


@torch.inference_mode()
def test_memory_is_the_whole_picture_and_the_question_without_padding(
    model: VqaModel, tokens: Tensor
) -> None:
    ids, mask = some_text()
    memory, memory_mask = model.decoder_memory(tokens, ids, mask)
    image, text = model.fusion_encoder(tokens, model.encode_text(ids, mask), text_mask_BL=mask)
    assert torch.equal(memory, torch.cat([image, text], 1))
    count = tokens.shape[1]
    assert memory_mask.dtype == torch.bool
    assert memory_mask[:, :count].all()
    assert torch.equal(memory_mask[:, count:], mask)


@torch.inference_mode()
def test_padding_to_25_tokens_changes_no_logit(model: VqaModel, tokens: Tensor) -> None:
    ids, mask = some_text()
    padded, padded_mask = (torch.nn.functional.pad(each, (0, 25 - each.shape[1])) for each in (ids, mask))
    answers = torch.tensor([[101, 5, 6, 102], [101, 9, 8, 102]])
    logits = [
        model.text_decoder(answers, memory, memory_mask_BN=memory_mask)
        for memory, memory_mask in (
            model.decoder_memory(tokens, ids, mask),
            model.decoder_memory(tokens, padded, padded_mask),
        )
    ]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_decoding_starts_from_the_memory(model: VqaModel, tokens: Tensor) -> None:
    ids, mask = some_text()
    state = model.start_decoding(tokens, ids, mask)
    assert state.memory_lengths() == (tokens.shape[1] + 5, tokens.shape[1] + 3), "the mask is a prefix"
    first = model.text_decoder.step(torch.tensor([[101], [101]]), state)
    memory, memory_mask = model.decoder_memory(tokens, ids, mask)
    forced = model.text_decoder(torch.tensor([[101], [101]]), memory, memory_mask_BN=memory_mask)
    torch.testing.assert_close(first, forced[:, 0], rtol=1e-4, atol=1e-5)


def test_models_without_its_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="no fusion_encoder, which the task 'vqa' needs"):
        tiny(VqaModel, tiny_config())
    with pytest.raises(ConfigError, match="no text_decoder, which the task 'vqa' needs"):
        tiny(VqaModel, tiny_whole_config(text_decoder=None))
