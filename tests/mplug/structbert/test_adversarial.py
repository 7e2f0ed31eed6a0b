from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golden.structbert_cases import tiny, tiny_config
from mplug.structbert import AdversarialConfig, Classifier, Tagger
from mplug.structbert.adversarial import adversarial_term, symmetric_divergence

IDS = torch.tensor([[101, 5, 6, 102], [101, 7, 102, 0]])
MASK = IDS != 0
LOUD = AdversarialConfig(factor=0.05, sigma=0.05, bound=0.04)
"""So large that float32 shows what happens."""


def test_divergence_is_both_ways() -> None:
    a, b = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    kl_ab = F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="none").sum(-1)
    kl_ba = F.kl_div(b.log_softmax(-1), a.softmax(-1), reduction="none").sum(-1)
    both = (kl_ab + kl_ba) / 5
    assert symmetric_divergence(a, b).item() == pytest.approx(both.mean().item())
    mask = torch.tensor([True, False, True])
    assert symmetric_divergence(a, b, mask).item() == pytest.approx(both[mask].mean().item())


def test_the_step_follows_the_gradient_within_its_bound() -> None:
    """By hand: noise, gradient of the divergence, step, divergence."""
    seen: list[Tensor] = []
    matrix = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))

    def logits_of(words_BLD: Tensor) -> Tensor:
        seen.append(words_BLD.detach().clone())
        return words_BLD.flatten(1) @ matrix

    words = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(2)).requires_grad_()
    logits = words.flatten(1) @ matrix
    term = adversarial_term(logits_of, words, logits, LOUD, generator=torch.Generator().manual_seed(3))
    noise = 0.05 * torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(3))
    noisy = (words.detach() + noise).requires_grad_()
    assert torch.allclose(seen[0], noisy.detach())
    (gradient,) = torch.autograd.grad(symmetric_divergence(logits.detach(), noisy.flatten(1) @ matrix), noisy)
    scaled = gradient / (gradient.abs().flatten(1).max(dim=1).values[:, None, None] + 1e-6)
    step = (0.05 * scaled).clamp(-0.04, 0.04)
    assert step.abs().max().item() == pytest.approx(0.04)
    assert torch.allclose(seen[1], noisy.detach() + step, atol=1e-6)
    moved = logits_of((noisy + step).detach())
    assert term.item() == pytest.approx(symmetric_divergence(logits, moved).item(), rel=1e-4)


@pytest.mark.parametrize("kind", [Classifier, Tagger])
def test_only_training_has_the_term(kind: type[Classifier] | type[Tagger]) -> None:
    labels = torch.tensor([0, 2]) if kind is Classifier else torch.ones_like(IDS)
    loud, none = AdversarialConfig(factor=0.5, sigma=0.5, bound=1.0), AdversarialConfig(factor=None)
    losses = {}
    for name, config in {"loud": loud, "none": none}.items():
        model = tiny(kind, tiny_config(adversarial=config))
        losses[name, "eval"] = model.loss(IDS, MASK, labels).item()
        generator = torch.Generator().manual_seed(0)
        losses[name, "train"] = model.train().loss(IDS, MASK, labels, generator=generator).item()
    assert losses["loud", "eval"] == losses["none", "eval"] == losses["none", "train"]
    assert losses["loud", "train"] > losses["loud", "eval"] + 1e-3


def test_padding_of_tags_has_no_part_in_the_term() -> None:
    model = tiny(Tagger, tiny_config(adversarial=AdversarialConfig(factor=0.0, sigma=0.5, bound=1.0))).train()
    labels = torch.ones_like(IDS)
    real, noise = IDS[1:, :3], torch.Generator()
    alone = model.loss(real, real != 0, labels[1:, :3], generator=noise.manual_seed(0)).item()
    padded = model.loss(IDS[1:], MASK[1:], labels[1:], generator=noise.manual_seed(0)).item()
    assert padded == pytest.approx(alone, abs=1e-4)


def test_a_gradient_that_is_no_number_leaves_the_term_out() -> None:
    words = torch.zeros(1, 2, 2, requires_grad=True)
    term = adversarial_term(lambda w: w.flatten(1) * torch.nan, words, torch.zeros(1, 4), LOUD)
    assert term.item() == 0
