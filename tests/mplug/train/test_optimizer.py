"""Parameter groups, the schedule they share, and the length of gradients."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mplug.errors import MplugError
from mplug.train.config import OptimizerConfig
from mplug.train.experiment import ParameterGroup
from mplug.train.optimizer import build_optimizer, clip_gradients, freeze_the_rest, rate_factor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(3, 2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 2))
        self.tower = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.scale = nn.Parameter(torch.tensor(1.0))


def groups(net: Net) -> list[ParameterGroup]:
    tower = [(name, p) for name, p in net.named_parameters() if name.startswith("tower")]
    rest = [(name, p) for name, p in net.named_parameters() if not name.startswith("tower")]
    return [ParameterGroup("tower", tower, 1e-5), ParameterGroup("rest", rest, 1e-4)]


def test_only_matrices_decay_and_each_group_has_its_rate() -> None:
    net = Net()
    optimizer = build_optimizer(groups(net), OptimizerConfig(weight_decay=0.1, betas=(0.8, 0.9)))
    name_of = {id(p): name for name, p in net.named_parameters()}
    found = {
        name_of[id(p)]: (group["peak_lr"], group["weight_decay"], group["betas"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    plain = (1e-4, 0.0, (0.8, 0.9))
    assert found == {
        "tower.weight": (1e-5, 0.1, (0.8, 0.9)),
        "tower.bias": (1e-5, 0.0, (0.8, 0.9)),
        **dict.fromkeys(("word_embeddings.weight", "pos_embed", "norm.weight", "norm.bias", "scale"), plain),
    }


def test_a_parameter_of_two_groups_is_named() -> None:
    net = Net()
    twice = [*groups(net), ParameterGroup("again", [("tower.bias", net.tower.bias)], 1.0)]
    with pytest.raises(MplugError, match=r"tower\.bias is in two parameter groups, tower and again"):
        build_optimizer(twice, OptimizerConfig())


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(MplugError, match="nothing to train"):
        build_optimizer([ParameterGroup("empty", [], 1.0)], OptimizerConfig())


def test_parameters_of_no_group_get_no_gradients() -> None:
    net = Net()
    trained = freeze_the_rest(net, groups(net)[:1])
    assert [id(p) for p in trained] == [id(net.tower.weight), id(net.tower.bias)]
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {"tower.weight", "tower.bias"}


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.25),
        (1, 0.5 * 0.5 * (1 + math.cos(math.pi / 10))),
        (5, 0.5),
        (9, 0.5 * (1 + math.cos(math.pi * 0.9))),
        (10, 0.0),
    ],
)
def test_warm_up_and_cosine_are_as_computed_by_hand(step: int, factor: float) -> None:
    assert rate_factor(OptimizerConfig(warmup_steps=4), step, 10) == pytest.approx(factor)


@given(warmup=st.integers(0, 50), share=st.floats(0, 1), num_steps=st.integers(1, 200))
def test_after_warm_up_rates_only_fall_and_end_at_their_share(
    warmup: int, share: float, num_steps: int
) -> None:
    config = OptimizerConfig(warmup_steps=warmup, final_lr_share=share)
    factors = [rate_factor(config, step, num_steps) for step in range(num_steps + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    falling = factors[max(0, warmup - 1) :]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(falling))
    if warmup <= num_steps:
        assert factors[-1] == pytest.approx(share)


@given(limit=st.floats(0.1, 10))
def test_long_gradients_are_shortened_and_short_ones_left(limit: float) -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([2.0, 3.0]), torch.tensor([6.0])
    assert clip_gradients(parameters, limit) == pytest.approx(7.0)
    left = math.hypot(*(x for p in parameters if p.grad is not None for x in p.grad.tolist()))
    assert left == pytest.approx(min(7.0, limit), rel=1e-5)


def test_no_limit_leaves_gradients_as_they_are() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([1e6])
    assert clip_gradients([parameter], 0.0) == 1e6
    assert parameter.grad.item() == 1e6
