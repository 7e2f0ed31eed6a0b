"""Plans against what models really hold, and the published sizes against their own counts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.memory import measure_memory
from golden.gpt3_cases import tiny_generator
from golden.palm_cases import tiny_palm
from golden.plug_cases import tiny_plug
from mplug import freeze, gpt3, palm, plug
from mplug.errors import MplugError
from mplug.memory_plan import (
    WEIGHT_TYPES,
    PlannedModel,
    Shape,
    Use,
    cache_bytes,
    cache_slots,
    devices_needed,
    plan,
    weight_bytes,
)
from mplug.planned_models import named_models, of_gpt3, of_palm, of_plug
from mplug.quantized_linear import GROUP

GIB = 2**30


def drawn(family: str, **changes: Any) -> tuple[Any, PlannedModel, Any]:
    """A random model, its plan, its package."""
    if family == "gpt3":
        generator = tiny_generator("plain", hidden=64, ffn=256, vocab_size=416, **changes)
        return generator, of_gpt3(generator.config), gpt3
    if family == "plug":
        model = tiny_plug(hidden=64, heads=8, ffn=256, **changes)
        return model, of_plug(model.config), plug
    other = tiny_palm(**changes)
    return other, of_palm(other.config), palm


@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
@pytest.mark.parametrize("family", ["gpt3", "palm", "plug"])
def test_planned_weights_are_the_real_ones(family: str, dtype: str, tmp_path: Path) -> None:
    model, planned, package = drawn(family)
    package.save(model, tmp_path)
    loaded = package.load(tmp_path, dtype=WEIGHT_TYPES[dtype])
    found = plan(planned, dtype, Use()).weights
    assert found == pytest.approx(weight_bytes(loaded), rel=0.01)
    assert weight_bytes(freeze(loaded)) == pytest.approx(found, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(prompt=st.integers(1, 40), written=st.integers(1, 90))
def test_slots_are_those_of_a_decoder(prompt: int, written: int) -> None:
    decoder = tiny_generator("plain", positions=256, layers=1).decoder
    state = decoder.start(1)
    decoder.step(torch.ones(1, prompt, dtype=torch.int64), state)
    for _ in range(written - 1):
        decoder.step(torch.ones(1, 1, dtype=torch.int64), state)
    assert state.cache_TC2SHK.shape[0] == cache_slots(prompt, written)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt3", "palm", "plug"])
def test_planned_cache_is_the_state_s(family: str, dtype: str) -> None:
    model, planned, _ = drawn(family)
    model = model.to(WEIGHT_TYPES[dtype])
    use = Use(batch=3, sequences=2, prompt=12, written=9)
    text = model.read("天" * 40)
    first = text.first if family != "gpt3" else (*text.first, *range(5, 20))[:12]
    source = (*text.source, *range(5, 20))[:12] if text.source else ()
    prompt = type(text)(tuple(first), tuple(source))
    state = model.start([prompt] * 3)
    state.repeat(2)
    model.decoder.step(torch.tensor([first] * 6), state)
    for _ in range(8):
        model.decoder.step(torch.full((6, 1), 7), state)
    kept = [
        state.cache_TC2SHK,
        *itertools.chain.from_iterable((each.key_BHNK, each.value_BHNK) for each in state.cross),
    ]
    itemsize = WEIGHT_TYPES[dtype].itemsize
    assert cache_bytes(planned.shape, itemsize, use) == sum(tensor.numel() * itemsize for tensor in kept)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("prompt", [4, 64])
def test_no_pass_takes_more_than_is_planned(dtype: str, prompt: int, tmp_path: Path) -> None:
    generator = tiny_generator("plain", hidden=256, ffn=1024, vocab_size=4096, positions=256, layers=3)
    gpt3.save(generator, tmp_path)
    decoder = freeze(gpt3.load(tmp_path, dtype=WEIGHT_TYPES[dtype])).decoder
    use = Use(batch=4, prompt=prompt, written=8)

    def run() -> None:
        state = decoder.start(4)
        decoder.step(torch.ones(4, prompt, dtype=torch.int64), state)
        for _ in range(7):
            logits = decoder.step(torch.ones(4, 1, dtype=torch.int64), state)
            logits.float().log_softmax(-1)

    planned = plan(of_gpt3(generator.config), dtype, use)
    assert measure_memory(run).peak <= planned.cache + planned.workspace


def test_published_sizes_are_planned_as_they_are_counted() -> None:
    models = named_models()
    counted = {
        "gpt3-1.3B": gpt3.count_parameters(gpt3.SIZES["1.3B"]),
        "gpt3-13B": gpt3.count_parameters(gpt3.SIZES["13B"]),
        "plug-27B": plug.count_parameters(plug.SIZES["27B"]),
        "palm-chinese-base": palm.count_parameters(palm.SIZES["chinese-base"]),
    }
    for name, parameters in counted.items():
        assert plan(models[name], "float32", Use()).weights == 4 * parameters
        assert plan(models[name], "bfloat16", Use()).weights == 2 * parameters
        # Besides a byte a number: norms, biases, tables that are looked up, and the scales.
        assert 1 <= plan(models[name], "int8", Use()).weights / parameters < (1.1 if name[0] == "p" else 1.02)
        least = 0.5 + 4 / GROUP / 1
        assert least - 0.01 <= plan(models[name], "int4", Use()).weights / parameters < 0.85


def test_13b_and_27b_fit_on_24_gb_in_int4_alone_or_on_two_devices() -> None:
    models, use, memory = named_models(), Use(), 24 * 10**9
    assert plan(models["gpt3-13B"], "int8", use).total < memory
    assert devices_needed(models["gpt3-13B"], "bfloat16", use, memory, place="cuda") == 2
    assert devices_needed(models["plug-27B"], "int4", use, memory) == 1
    assert devices_needed(models["plug-27B"], "int8", use, memory) is None
    assert devices_needed(models["plug-27B"], "bfloat16", use, memory, place="cuda") == 4
    assert devices_needed(models["gpt3-1.3B"], "float32", use, memory) == 1


def test_parted_plans_add_up() -> None:
    model, use = named_models()["gpt3-2.7B"], Use(batch=4)
    one, two, four = (plan(model, "bfloat16", use, place="cuda", devices=n) for n in (1, 2, 4))
    assert one.weights > two.weights > four.weights > one.weights / 4
    assert (four.cache, two.copies) == (one.cache // 4, one.copies // 2)


@pytest.mark.parametrize(
    ("name", "dtype", "place", "devices", "message"),
    [
        ("gpt3-base", "float64", "cpu", 1, "dtype is 'float64'; known are float32"),
        ("gpt3-base", "float32", "tpu", 1, "place is 'tpu'"),
        ("mplug-base", "int8", "cpu", 1, "only text models can be quantized"),
        ("gpt3-base", "int4", "cuda", 1, "int4 matrices are for CPUs"),
        ("gpt3-base", "int8", "cpu", 2, "12 heads in int8 cannot be parted among 2 devices"),
        ("gpt3-base", "float32", "cpu", 8, "12 heads in float32 cannot be parted among 8 devices"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    name: str, dtype: str, place: Any, devices: int, message: str
) -> None:
    with pytest.raises(MplugError, match=message):
        plan(named_models()[name], dtype, Use(), place=place, devices=devices)


def test_a_use_of_nothing_is_refused() -> None:
    with pytest.raises(MplugError, match="written is 0; it must be at least 1"):
        Use(written=0)


def test_a_model_that_writes_nothing_has_no_cache() -> None:
    shape = Shape(width=64, ffn=256, heads=4)
    assert cache_bytes(shape, 4, Use()) == 0
    assert plan(named_models()["structbert-base-zh"], "float32", Use()).copies == 0
