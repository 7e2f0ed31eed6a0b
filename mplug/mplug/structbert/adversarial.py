"""Smoothness-inducing adversarial training, a term beside the loss of fine-tuning (Jiang et al. 2020, section 3.1).

Noise is put on the word embeddings, the gradient of the noisy outputs' divergence from the clean ones is followed for a
step within a bound, and the divergence there is the term. As ModelScope's `compute_adv_loss` does it: the divergence is
also divided by the number of labels, and the gradient of a text by its largest coordinate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.structbert.config import AdversarialConfig


def adversarial_term(
    logits_of: Callable[[Tensor], Tensor],
    words_BLD: Tensor,
    logits: Tensor,
    config: AdversarialConfig,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How far a small change of the word embeddings moves the outputs; to be added to the loss.

    Args:
        logits_of: word embeddings (B, L, D) to logits of the same shape as `logits`; differentiable.
        words_BLD: of the batch.
        logits: (..., labels), what `logits_of` gave for them.
        config: step, noise and bound.
        mask: bool, the shape of logits without the last, True = counts; None = all do.
        generator: draws the noise; None = torch's own.

    Returns:
        A scalar; zero where the configuration has no such term, or where the gradient is not a number (ModelScope
        leaves the term out then, too).
    """
    if config.factor is None:
        return logits.new_zeros(())
    noise_BLD = torch.empty_like(words_BLD).normal_(0, config.sigma, generator=generator)
    noisy_BLD = words_BLD + noise_BLD
    divergence = symmetric_divergence(logits, logits_of(noisy_BLD), mask)
    (gradient_BLD,) = torch.autograd.grad(divergence, noisy_BLD)
    largest_B11 = gradient_BLD.abs().amax(dim=(1, 2), keepdim=True)
    if bool(largest_B11.isnan().any()):
        return logits.new_zeros(())
    step_BLD = config.factor * gradient_BLD / (largest_B11 + 1e-6)
    moved_BLD = noisy_BLD + step_BLD.clamp(-config.bound, config.bound)
    return symmetric_divergence(logits, logits_of(moved_BLD), mask)


def symmetric_divergence(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence both ways between the distributions of two logits, per label.

    Args:
        a: (..., labels).
        b: likewise.
        mask: bool, the shape without the last, True = counts; None = all do.

    Returns:
        The mean over what counts, divided by the number of labels; a scalar.
    """
    log_a, log_b = F.log_softmax(a, dim=-1), F.log_softmax(b, dim=-1)
    both = ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(dim=-1)
    mean = both.mean() if mask is None else both[mask.bool()].mean()
    return mean / a.shape[-1]
