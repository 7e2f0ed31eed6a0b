"""Nothing compiled runs by default that no committed result speaks for; and what is committed is whole."""

from __future__ import annotations

import json
import math
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mplug_kernels import absorbed, build, cached, dispatch, ops, results
from mplug_kernels.dispatch import forcing
from mplug_kernels.results import Call, Run
from mplug_kernels.types import CrossWeights
from mplug_kernels.variants import Variant

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "kernels" / "bench" / "results").glob("*.json"))
SOURCES = "5" * 64
H100 = (9, 0)
SHAPE = {"images": 64, "beams": 5, "tokens": 1, "keys": 577, "width": 768, "dtype": "bfloat16"}


def timing(
    contender: str, family: str, variant: str | None, seconds: float, shape: str = "decode"
) -> dict[str, Any]:
    return {
        "key": f"time:{contender}",
        "shape": shape,
        "contender": contender,
        "family": family,
        "variant": variant,
        "seconds": seconds,
        "warm_seconds": seconds,
        "floor_seconds": seconds / 2,
        "share": 0.5,
    }


def checked(variant: str, *, passed: bool = True) -> dict[str, Any]:
    names = ("shape", "kind", "splits", "seed", "error", "same_type_error", "lse_error")
    return {"key": f"check:{variant}:a", "variant": variant, "passed": passed, **dict.fromkeys(names, 0)}


def content() -> dict[str, Any]:
    """A run in which kv is faster, absorbed_two slower, and absorbed_one the fastest but wrong."""
    return {
        "schema": results.SCHEMA,
        "source_hash": SOURCES,
        "device": {"name": "NVIDIA H100", "capability": [9, 0]},
        "versions": {"torch": "2.11.0"},
        "date": "2026-11-24",
        "tiny": False,
        "shapes": {"decode": SHAPE, "larger": SHAPE | {"images": 100}},
        "complete": False,
        "checks": [checked("kv"), checked("absorbed_two"), checked("absorbed_one", passed=False)],
        "sanitizer": [{"key": "sanitize:memcheck", "tool": "memcheck", "passed": True}],
        "timings": [
            timing("sdpa_folded_flash", "cached", None, 5e-5),
            timing("kv_splits_1", "cached", "kv", 4e-5),
            timing("kv_splits_4", "cached", "kv", 3e-5),
            timing("bmm", "absorbed", None, 4e-5),
            timing("absorbed_two_splits_1", "absorbed", "absorbed_two", 6e-5),
            timing("absorbed_one_splits_1", "absorbed", "absorbed_one", 1e-5),
        ],
        "wholes": [],
        "skipped": [],
        "failures": [],
        "not_reached": [],
    }


def call(**changes: Any) -> Call:
    values: dict[str, Any] = {
        "absorbed": False,
        "images": 64,
        "rows": 60,
        "keys": 577,
        "width": 768,
        "dtype": torch.bfloat16,
    }
    return Call(**(values | changes))


def decide(
    run: dict[str, Any], asked: Call, capability: tuple[int, int] = H100, sources: str | None = SOURCES
) -> Any:
    assert results.problems(run) == []
    return results.decide(asked, capability, sources, [Run("h100.json", run)])


def test_a_kernel_that_is_right_and_faster_runs_with_its_best_splits() -> None:
    decision = decide(content(), call())
    assert (decision.variant, decision.splits) == (Variant.KV, 4)
    assert decision.reason == "decode: 30.0 us, torch 50.0 us (h100.json)"


def test_neither_a_slower_nor_a_wrong_kernel_runs() -> None:
    decision = decide(content(), call(absorbed=True))
    assert decision.variant is None
    assert "absorbed_two: decode: 60.0 us, torch 40.0 us" in decision.reason
    assert "absorbed_one: h100.json: 1 checks failed, 0 broke, 0 were not reached" in decision.reason


def spoil(run: dict[str, Any], what: str) -> None:
    if what == "failed":
        run["checks"].append(checked("kv", passed=False))
    elif what == "broken":
        run["failures"].append({"key": "check:kv:b", "failed": "illegal memory access"})
    elif what == "missed":
        run["not_reached"].append("check:kv:b")
    elif what == "faults":
        run["sanitizer"].append({"key": "sanitize:racecheck", "tool": "racecheck", "passed": False})
    elif what == "tiny":
        run["tiny"] = True
    elif what == "unchecked":
        run["checks"] = [record for record in run["checks"] if record["variant"] != "kv"]
    else:
        run["timings"] = [record for record in run["timings"] if record["variant"] is not None]


@pytest.mark.parametrize(
    "what", ["failed", "broken", "missed", "faults", "tiny", "unchecked", "nothing to beat"]
)
def test_a_result_that_is_not_whole_brings_nothing_about(what: str) -> None:
    run = content()
    spoil(run, what)
    assert decide(run, call()).variant is None


def test_a_failure_of_one_kernel_is_not_another_s() -> None:
    run = content()
    fault = {"key": "sanitize:racecheck:absorbed_one", "tool": "racecheck", "variant": "absorbed_one"}
    run["sanitizer"].append(fault | {"passed": False})
    run["failures"].append({"key": "check:absorbed_one:b", "failed": "illegal memory access"})
    run["not_reached"].append("time:decode:kv_splits_8")
    assert decide(run, call()).variant is Variant.KV


@pytest.mark.parametrize(
    ("capability", "sources", "reason"),
    [
        ((8, 0), SOURCES, "no committed result on sm_80 at all"),
        ((9, 0), "6" * 64, "no committed result on sm_90 but of other sources"),
        ((9, 0), None, "the library does not say what it was compiled from"),
    ],
)
def test_another_architecture_or_other_sources_prove_nothing(
    capability: tuple[int, int], sources: str | None, reason: str
) -> None:
    decision = decide(content(), call(), capability, sources)
    assert decision.variant is None
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("changes", "near"),
    [
        ({"images": 128}, True),
        ({"images": 129}, False),
        ({"rows": 30, "keys": 1154}, True),
        ({"rows": 29}, False),
        ({"keys": 1200}, False),
        ({"width": 1024}, False),
        ({"dtype": torch.float16}, False),
    ],
)
def test_only_shapes_near_a_timed_one_count(changes: dict[str, Any], near: bool) -> None:
    assert (decide(content(), call(**changes)).variant is Variant.KV) is near


def test_of_several_shapes_the_nearest_decides() -> None:
    run = content()
    run["timings"] += [
        timing("sdpa_folded_flash", "cached", None, 1e-5, shape="larger"),
        timing("kv_splits_1", "cached", "kv", 2e-5, shape="larger"),
    ]
    assert decide(run, call(images=70)).variant is Variant.KV
    assert decide(run, call(images=95)).variant is None


@pytest.mark.parametrize(
    "changes", [{"dtype": torch.float32}, {"width": 100}, {"width": 512, "absorbed": True}]
)
def test_what_is_not_compiled_is_plain_torch(changes: dict[str, Any]) -> None:
    decision = decide(content(), call(**changes))
    assert decision.variant is None
    assert decision.reason.startswith("not compiled for")


def test_a_cpu_runs_plain_torch_and_says_why() -> None:
    cpu = torch.device("cpu")
    assert dispatch.kernel_for(call(), cpu).reason == "compiled for CUDA, not for cpu"
    said = dispatch.explain(cpu)
    assert set(said) == {variant.value for variant in Variant}
    assert {str(each) for each in said.values()} == {"plain torch: compiled for CUDA, not for cpu"}
    assert not any(each.compiled for each in said.values())


def test_an_architecture_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "committed", lambda: (Run("h100.json", content()),))
    said = dispatch.explain_capability(H100, SOURCES)
    assert said["kv"].compiled
    assert str(said["kv"]) == "compiled, where it was measured to be faster: right on sm_90: h100.json"
    assert not said["absorbed_one"].compiled
    assert str(said["absorbed_one"]).startswith("plain torch: h100.json: 1 checks failed")
    unknown = dispatch.explain_capability((8, 6), SOURCES)
    assert str(unknown["kv"]) == "plain torch: no committed result on sm_86 at all"


def some_weights(seed: int) -> CrossWeights:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])

    return CrossWeights(
        random(128, 128),
        random(128),
        random(128, 128),
        random(128),
        random(128, 128),
        random(128),
        num_heads=2,
    )


@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("sequences", [2, 6])
@torch.inference_mode()
def test_forms_through_the_operators_are_the_forms(
    variant: Variant, sequences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, generator = some_weights(0), torch.Generator().manual_seed(1)
    x = torch.randn(sequences, 3, 128, generator=generator)
    memory = torch.randn(2, 17, 128, generator=generator)

    def attend() -> Tensor:
        if variant.absorbed:
            return absorbed.attend(x, memory, weights)
        return cached.attend(x, cached.project(memory, weights), weights)

    plain = attend()
    ran: list[str] = []
    name = "xattn_absorbed" if variant.absorbed else "xattn_kv"
    operator = getattr(ops, name)

    def noted(*arguments: Any) -> Any:
        ran.append(name)
        return operator(*arguments)

    monkeypatch.setattr(ops, name, noted)
    with forcing(variant):
        forced = attend()
    assert ran == [name]
    assert torch.allclose(forced, plain, atol=1e-5)
    with forcing():
        attend()
    assert ran == [name]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"broken.json is no JSON"):
        results.read(path)
    for key in ("schema", "checks", "timings"):
        spoiled = content()
        del spoiled[key]
        path.write_text(json.dumps(spoiled))
        with pytest.raises(ValueError, match=f"broken.json is no result file: {key} is missing"):
            results.read(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 99}, "schema is 99"),
        ({"timings": [{"key": "a"}]}, "a lacks shape, contender"),
        ({"timings": [timing("b", "cached", None, -1.0)]}, "has a time or share that cannot be"),
    ],
)
def test_problems_are_named(change: dict[str, Any], problem: str) -> None:
    assert any(problem in found for found in results.problems(deepcopy(content()) | change))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_committed_results_are_whole(path: Path) -> None:
    run = results.read(path)
    assert run.capability is not None, "taken on a GPU"
    assert not run.content["tiny"]
    assert re.fullmatch(r"[0-9a-f]{64}", run.content["source_hash"]), "of a library that says what it is of"
    assert run.content["source_hash"][:12] in path.name
    assert not re.search(r"/(home|root|work|tmp|usr|opt)/", path.read_text()), "names no place of one machine"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_committed_results_are_of_these_sources_or_choose_nothing(path: Path) -> None:
    run, current = results.read(path), build.source_hash()
    decision = results.decide(call(), run.capability or H100, current, [run])
    if run.content["source_hash"] != current:
        assert decision.variant is None


# A figure taken on a GPU: a number with a unit of speed or time beside the name of one.
GPU = re.compile(r"\b(H100|H200|A100|B200|L40S?|RTX|V100|T4|GPU)\b")
FIGURE = re.compile(
    r"\d(?:[\d.,]*)\s?(?:µs|us|ms|TFLOP/s|TB/s|GB/s|GiB/s|tokens/s|×|x faster|times faster|times as fast)"
)
LINK = re.compile(r"\]\([^)]*kernels/bench/results/([\w.-]+\.json)\)")


def figures_without_result(text: str, known: set[str]) -> list[str]:
    """Paragraphs and tables with a figure of a GPU that neither link to a committed result nor say "modelled"."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        if GPU.search(block) and FIGURE.search(block) and "modelled" not in block:
            linked = LINK.findall(block)
            if not linked or not set(linked) <= known:
                found.append(block)
    return found


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("On an H100 the decoder's step takes 31 µs.", False),
        ("31 µs on an H100 ([result](../kernels/bench/results/h100.json))", True),
        ("31 µs on an H100 ([result](../kernels/bench/results/other.json))", False),
        ("modelled: 31 µs on an H100", True),
        ("| H100 | step |\n|---|---|\n| 5 beams | 31 µs |", False),
        ("a step takes 31 ms on this CPU", True),
        ("runs on an H100 with torch 2.11", True),
    ],
)
def test_a_planted_figure_is_found(line: str, allowed: bool) -> None:
    assert (figures_without_result(line, {"h100.json"}) == []) is allowed


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_figures_of_gpus_come_from_committed_results(path: Path) -> None:
    assert figures_without_result(path.read_text(), {result.name for result in RESULTS}) == []
