import math

import pytest
import torch
import torch.nn.functional as F

from mplug.train.losses import identity_numbers, itc_loss


def unit(rows: int, width: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)), dim=-1)


def test_distinct_items_give_the_usual_contrastive_loss() -> None:
    left, right, labels = unit(6), unit(6).roll(1, 0), torch.arange(6)
    sim = 10 * left @ right.T
    expected = (F.cross_entropy(sim, labels) + F.cross_entropy(sim.T, labels)) / 2
    torch.testing.assert_close(itc_loss(left, right, labels, torch.tensor(10.0)), expected)


def test_items_of_one_identity_share_the_target() -> None:
    same = torch.zeros(4, dtype=torch.long)
    embeds = unit(1).expand(4, -1)
    assert itc_loss(embeds, embeds, same, torch.tensor(5.0)).item() == pytest.approx(math.log(4))


def test_equal_names_get_equal_numbers() -> None:
    assert identity_numbers(["b", "a", "b"]).tolist() == [0, 1, 0]
