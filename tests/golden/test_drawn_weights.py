"""The weights that are drawn anew are the reference's, and whatever is not is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden.drawn_weights import (
    GOLDEN,
    Manifest,
    check,
    check_rank,
    draw,
    drawn_weights,
    fingerprint,
    read_manifest,
)
from golden.mplug_cases import CASES, WEIGHTS_OF

MANIFESTS = sorted(
    (file.parent.name, file.name.removesuffix(".weights.json")) for file in GOLDEN.glob("*/*.weights.json")
)
PARALLEL = [("gpt3", rank) for rank in (0, 1)] + [("plug", rank) for rank in (0, 1)]


def manifest() -> Manifest:
    return read_manifest("gpt3", "base")


def test_every_case_has_its_manifest() -> None:
    assert {case for family, case in MANIFESTS if family == "mplug"} == {
        WEIGHTS_OF.get(case, case) for case in CASES
    }
    stored = {(file.parent.name, file.name.split(".")[0]) for file in GOLDEN.glob("*/*.io.safetensors")}
    assert {(family, WEIGHTS_OF.get(case, case)) for family, case in stored} == set(MANIFESTS)


@pytest.mark.parametrize(("family", "case"), MANIFESTS)
def test_draws_the_weights_that_the_reference_ran_with(family: str, case: str) -> None:
    weights = drawn_weights(family, case)
    stored = read_manifest(family, case)
    assert len(weights) == len(stored.draws) + len(stored.fixed) + len(stored.tied)


def test_each_call_gives_tensors_of_its_own() -> None:
    drawn_weights("gpt3", "base")["language_model.position_embeddings.weight"].zero_()
    assert drawn_weights("gpt3", "base")["language_model.position_embeddings.weight"].all()


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw(manifest())
    assert torch.equal(torch.get_rng_state(), before)


def moved_seed(stored: Manifest) -> Manifest:
    return replace(stored, seed=stored.seed + 1)


def swapped_order(stored: Manifest) -> Manifest:
    first, second, *rest = stored.draws
    return replace(stored, draws=[second, first, *rest])


def other_scale(stored: Manifest) -> Manifest:
    *rest, last = stored.draws
    return replace(stored, draws=[*rest, last._replace(scale=last.scale * 1.001)])


@pytest.mark.parametrize("plant", [moved_seed, swapped_order, other_scale])
def test_a_planted_change_of_the_recipe_is_found(plant: Callable[[Manifest], Manifest]) -> None:
    planted = plant(manifest())
    with pytest.raises(
        AssertionError, match=r"gpt3/base: \d+ of 40 tensors are not those that the reference ran"
    ):
        check(planted, draw(planted), "gpt3/base")


def test_a_tensor_that_ends_generation_is_checked_as_changed() -> None:
    stored = read_manifest("palm", "roberta")
    planted = replace(stored, changes=stored.changes[:-1])
    with pytest.raises(AssertionError, match=r"1 of 97 tensors .* 'palm\.generator\.dense\.bias'"):
        check(planted, draw(planted))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), error=st.floats(0, 2e-6))
def test_last_bits_may_differ_and_more_may_not(seed: int, error: float) -> None:
    stored = manifest()
    weights = draw(stored)
    generator = torch.Generator().manual_seed(seed)
    other = {
        name: tensor * (1 + error * (2 * torch.rand(tensor.shape, generator=generator) - 1))
        for name, tensor in weights.items()
    }
    check(stored, other)
    name = stored.draws[seed % len(stored.draws)].name
    other[name] = other[name] + 0.01 * other[name].abs()
    with pytest.raises(AssertionError, match=f"1 of 40 .*{name}"):
        check(stored, other)


def test_the_fingerprint_sees_names_shapes_and_bytes() -> None:
    tensor = torch.arange(6.0)
    prints = {
        fingerprint(weights)
        for weights in (
            {"a": tensor},
            {"b": tensor},
            {"a": tensor.view(2, 3)},
            {"a": tensor.int()},
            {"a": tensor.nextafter(tensor + 1)},
        )
    }
    assert len(prints) == 5
    assert fingerprint({"a": tensor, "b": tensor}) == fingerprint({"b": tensor, "a": tensor})


def described(family: str) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((GOLDEN / family / "ckpt_tp2.json").read_text())
    return stored


def strides(family: str, case: str) -> dict[str, int]:
    """Of how many stacked tensors a parameter is made, each split on its own: query, key and value."""
    info = json.loads((GOLDEN / family / f"{case}.json").read_text()).get("tp2_partition_info", {})
    return {name: split["partition_stride"] for name, split in info.items()}


def split_of(family: str, rank: int) -> dict[str, dict[str, Tensor]]:
    """The part of a rank: half of each tensor, along the side that the stored shape says is halved."""
    stored = described(family)
    weights, stacked = drawn_weights(family, stored["case"]), strides(family, stored["case"])
    module = {}
    for name, (_, shape, *_) in stored["ranks"][rank]["module"].items():
        halved = [side for side, size in enumerate(shape) if size != weights[name].shape[side]]
        parts = 2 * stacked.get(name, 1)
        chosen = weights[name].chunk(parts, halved[0])[rank::2] if halved else [weights[name]]
        module[name] = torch.cat(list(chosen), halved[0] if halved else 0)
    return {"module": module}


@pytest.mark.parametrize(("family", "rank"), PARALLEL)
def test_ranks_hold_the_halves_of_a_cases_weights(family: str, rank: int) -> None:
    check_rank(family, rank, split_of(family, rank))


def test_another_part_of_a_rank_is_found() -> None:
    state = split_of("plug", 0)
    with pytest.raises(AssertionError, match=r"plug/ckpt_tp2, rank 1: module: .* other numbers"):
        check_rank("plug", 1, state)
    name, tensor = state["module"].popitem()
    with pytest.raises(AssertionError, match=f"rank 0: module: other keys, .'{name}'"):
        check_rank("plug", 0, state)
    state["module"][name] = tensor[:-1]
    with pytest.raises(AssertionError, match=f"{name}: torch.float32 "):
        check_rank("plug", 0, state)
