"""Which labels count."""

from __future__ import annotations

import pytest
import torch

from mplug.gpt3.losses import loss_mask, masked_loss, mean_loss, token_losses


def test_a_text_to_be_continued_counts_up_to_sep() -> None:
    # Tokens a b c <sep> pad pad: labels are b c <sep> pad pad.
    assert loss_mask(5, torch.tensor([3, 5])).tolist() == [
        [True, True, True, False, False],
        [True, True, True, True, True],
    ]


def test_of_an_input_and_its_output_the_output_and_sep_count() -> None:
    # Tokens a b | x y <sep> pad: labels are b x y <sep> pad; 2 tokens of input, 5 in all.
    assert loss_mask(5, torch.tensor([2]), torch.tensor([5])).tolist() == [[False, True, True, True, False]]


def test_the_mean_is_over_the_tokens_of_all_texts() -> None:
    logits, labels = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0)), torch.ones(2, 4).long()
    losses = token_losses(logits, labels)
    assert torch.allclose(losses, -logits.log_softmax(-1)[..., 1])
    assert torch.allclose(mean_loss(logits, labels), losses.mean())
    wanted = torch.cat([losses[0, :1], losses[1, :3]]).mean()
    assert torch.allclose(masked_loss(logits, labels, torch.tensor([1, 3])), wanted)


def test_a_batch_in_which_no_label_counts() -> None:
    logits = torch.randn(1, 3, 9, requires_grad=True)
    loss = masked_loss(logits, torch.zeros(1, 3).long(), torch.tensor([3]), torch.tensor([2]))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_half_precision_is_summed_in_float32() -> None:
    logits = torch.zeros(1, 2, 30000, dtype=torch.float16)
    labels = torch.zeros(1, 2).long()
    assert mean_loss(logits, labels).item() == pytest.approx(10.309, abs=1e-3)
