"""Operations and seconds of a step, and the peak they are compared with."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mplug.train.throughput import Meter, measure_peak


def test_operations_are_counted_once_forward_and_backward() -> None:
    layer = nn.Linear(8, 16)
    meter = Meter(peak=1e9)
    values: dict[str, float] = {}
    for _ in range(2):
        with meter.step():
            layer(torch.ones(4, 8)).sum().backward()
        meter.add({"tokens": 10})
        values = meter.take()
        assert values["tokens_per_second"] == pytest.approx(10 / values["seconds_per_step"])
    # The product and its gradient in the weights; the input needs none.
    flops = 2 * (2 * 4 * 8 * 16)
    assert values["mfu"] == pytest.approx(flops / values["seconds_per_step"] / 1e9)


def test_attention_on_a_cpu_is_counted() -> None:
    meter = Meter(peak=1.0)
    states = torch.ones(2, 3, 16, 8, requires_grad=True)
    with meter.step():
        F.scaled_dot_product_attention(states, states, states).sum().backward()  # type: ignore[no-untyped-call]
    meter.take()
    with meter.step():
        pass
    product = 2 * 2 * 3 * 16 * 16 * 8
    values = meter.take()
    assert values["mfu"] * values["seconds_per_step"] == pytest.approx((2 + 5) * product)


def test_no_share_of_the_peak_is_given_for_a_step_that_was_counted() -> None:
    meter = Meter(peak=1e9)
    with meter.step():
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert "mfu" not in meter.take()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_more_than_a_thousand_small_products_reach(dtype: torch.dtype) -> None:
    assert measure_peak(torch.device("cpu"), dtype) > 1e8
