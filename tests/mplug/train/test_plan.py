"""The planner against tables made by hand, and against what a real step keeps and computes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mplug.config import TextEncoderConfig
from mplug.errors import MplugError
from mplug.text_encoder import TextEncoder
from mplug.train.plan import Device, ModelSize, Workload, memory, operations, plan

GPT3 = ModelSize(parameters=1.3e9, layers=24, hidden=2048, vocab=25600)
WORK = Workload(tokens=1e9, sequence=1024, batch=2)
A100 = Device(peak=312e12, memory=80 * 2**30, utilisation=0.4)


@pytest.mark.parametrize(
    ("changes", "table"),
    [
        # 4 P + 2 P; 4 P; 8 P; 34 x 2048 tokens x 2048 x 24 + 10 x 2048 x 25600
        ({}, (7.8e9, 5.2e9, 10.4e9, 3_422_552_064 + 524_288_000, 0)),
        # 66 instead of 34 and 8 instead of 10, no copies
        ({"precision": "float32"}, (5.2e9, 5.2e9, 10.4e9, 6_643_777_536 + 419_430_400, 0)),
        # 4 x 2048 x 2048 x 24 + 34 x 2048 x 2048
        ({"recompute": True}, (7.8e9, 5.2e9, 10.4e9, 402_653_184 + 142_606_336 + 524_288_000, 0)),
        # a quarter each; 8 x (25600 x 2048 + 2 x (1.3e9 - 25600 x 2048) / 24) + 2 P gathered
        (
            {"sharding": "full"},
            (1.3e9, 1.3e9, 2.6e9, 3_422_552_064 + 524_288_000, 1_251_144_533.33 + 2.6e9),
        ),
    ],
)
def test_memory_is_as_computed_by_hand(changes: dict[str, object], table: tuple[float, ...]) -> None:
    found = memory(GPT3, _work(**changes), devices=4)
    parts = (found.weights, found.gradients, found.optimizer, found.activations, found.gathered)
    assert parts == pytest.approx(table)
    assert found.total == pytest.approx(sum(table))


def _work(**changes: object) -> Workload:
    values = {name: getattr(WORK, name) for name in WORK.__slots__}
    return Workload(**{**values, **changes})


def test_operations_and_time_are_as_computed_by_hand() -> None:
    # (6 x 1.3e9 + 12 x 24 x 2048 x 1024) x 1e9 = 8.404e18; / (312e12 x 0.4) = 67,339 s
    assert operations(GPT3, WORK) == pytest.approx(8.40398e18, rel=1e-5)
    assert plan(GPT3, WORK, A100).seconds == pytest.approx(67_339.6, rel=1e-4)
    assert plan(GPT3, WORK, A100, devices=8).seconds == pytest.approx(67_339.6 / 8, rel=1e-4)
    assert operations(GPT3, _work(recompute=True)) == pytest.approx(4 / 3 * 8.40398e18, rel=1e-5)


def test_the_fewest_devices_that_end_in_time() -> None:
    found = plan(GPT3, WORK, A100, seconds=10_000)
    assert found.devices == 7
    assert found.seconds <= 10_000


def test_the_fewest_devices_that_hold_the_run() -> None:
    large = ModelSize(parameters=7e9, layers=32, hidden=3072)
    work = _work(sharding="full")
    found = plan(large, work, A100)
    assert found.memory.total <= A100.memory < memory(large, work, found.devices - 1).total


def test_frozen_parameters_cost_a_forward_pass_and_their_weights() -> None:
    frozen = ModelSize(parameters=1e9, layers=1, hidden=1, trained_share=0.1)
    assert operations(frozen, _work(tokens=1, sequence=1)) == pytest.approx(2e9 * 2.1, rel=1e-6)
    assert memory(frozen, WORK).optimizer == pytest.approx(8e8)


def test_a_run_that_does_not_fit_says_what_would_help() -> None:
    huge = ModelSize(parameters=13e9, layers=40, hidden=5120)
    with pytest.raises(MplugError, match=r"a smaller batch, recomputed layers, sharding='full'"):
        plan(huge, WORK, A100)


@pytest.mark.parametrize(
    ("size", "work", "said"),
    [
        (GPT3, _work(batch=0), "batch=0"),
        (GPT3, _work(precision="int4"), "bfloat16, float32"),
        (ModelSize(parameters=1, layers=1, hidden=1, trained_share=2.0), WORK, "trained_share=2.0"),
    ],
)
def test_impossible_values_are_named(size: ModelSize, work: Workload, said: str) -> None:
    with pytest.raises(MplugError, match=said):
        plan(size, work, A100)


@given(devices=st.integers(1, 512), batch=st.integers(1, 4))
def test_more_devices_never_take_longer_nor_more_memory_each(devices: int, batch: int) -> None:
    work = _work(sharding="full", batch=batch)
    few, many = (plan(GPT3, work, A100, devices=n) for n in (devices + 1, devices + 2))
    assert many.seconds < few.seconds
    assert many.memory.total < few.memory.total


class Kept:
    """Bytes of the tensors that a forward pass leaves for the backward one, weights aside."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.storages: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor


def test_a_real_step_computes_and_keeps_about_what_is_planned() -> None:
    config = TextEncoderConfig(vocab_size=50, hidden=128, layers=4, heads=4, ffn=512, positions=64)
    encoder = TextEncoder(config).train()
    layers = sum(p.numel() for p in encoder.layers.parameters())
    size = ModelSize(parameters=layers, layers=4, hidden=128)
    work = Workload(tokens=512, sequence=64, batch=8, precision="float32")
    kept = Kept(encoder)
    ids = torch.randint(0, 50, (8, 64))
    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t),
    ):
        states = encoder(ids, torch.ones(8, 64, dtype=torch.bool))
        states.sum().backward()

    attention = 12 * 4 * 128 * 64 * 512  # the counter knows none for attention on a CPU
    assert counter.get_total_flops() == pytest.approx(operations(size, work) - attention, rel=0.05)
    assert sum(kept.storages.values()) == pytest.approx(memory(size, work).activations, rel=0.35)
    assert math.isfinite(plan(size, work, A100).seconds)
