"""The GPU measurement itself, on a CPU: what it finds wrong, how it survives, and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import (
    checking,
    contenders,
    data,
    gpu,
    roofline,
    sanitizing,
    shapes,
    supervising,
    tasks,
    timing,
    worker,
)
from bench.contenders import Contender
from bench.shapes import Check, Shape
from bench.supervising import Setting, supervise
from mplug_kernels import ops, results
from mplug_kernels.variants import Variant

CPU = torch.device("cpu")
SHAPE = Shape(name="some", images=3, beams=2, tokens=3, keys=37, width=128, ragged=True)
EVEN = Shape(name="even", images=2, beams=2, tokens=2, keys=33, width=128, dtype="float32")


def some_check(variant: Variant, *, kind: str = "white", splits: int = 1) -> Check:
    return Check(variant=variant, shape=SHAPE, kind=kind, splits=splits)


@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("kind", shapes.KINDS)
def test_what_is_right_passes(variant: Variant, kind: str) -> None:
    record = checking.check(some_check(variant, kind=kind, splits=3), CPU, seed=1)
    assert record["passed"], record


def wrong_results(kind: str, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    out, lse = out.clone(), lse.clone()
    if kind == "one element":
        out[0, 0, 0, 0] += 0.5
    elif kind == "everything a little":
        out *= 1.03
    elif kind == "unwritten":
        out[-1, -1] = torch.nan
    elif kind == "lse":
        lse += 0.01
    elif kind == "lse of nothing":
        lse[lse.isneginf()] = 0.0
    else:
        out += 1e-3 * torch.randn(out.shape)
    return out, lse


@pytest.mark.parametrize(
    "kind",
    ["one element", "everything a little", "unwritten", "lse", "lse of nothing", "different every time"],
)
def test_what_is_wrong_does_not_pass(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = ops.xattn_kv
    monkeypatch.setattr(ops, "xattn_kv", lambda *given: wrong_results(kind, *operator(*given)))
    shape = Shape(name="some", images=3, beams=4, tokens=3, keys=37, width=128, ragged=True)
    case = Check(variant=Variant.KV, shape=shape, kind="white", splits=1)
    seeds = [seed for seed in range(20) if 2 in data.draw(shape, "white", CPU, seed).image_index]
    assert not checking.check(case, CPU, seeds[0])["passed"]


def test_splits_that_disagree_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = ops.xattn_kv

    def shifted(q: Tensor, k: Tensor, v: Tensor, plan: ops.Plan, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = operator(q, k, v, plan, scale)
        return (out if plan.splits == 1 else out * (1 + 2**-6)), lse

    monkeypatch.setattr(ops, "xattn_kv", shifted)
    record = checking.check(some_check(Variant.KV, splits=2), CPU, seed=1)
    assert record["split_ulps"] > 1
    assert not record["passed"]


def test_data_is_of_its_seed_and_kind() -> None:
    first, again, other = (data.draw(SHAPE, "white", CPU, seed).memory for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    norms = {kind: data.draw(SHAPE, kind, CPU, 1).memory.float().norm() for kind in shapes.KINDS}
    assert norms["outliers"] > 2 * norms["white"]
    assert norms["mean"] > 2 * norms["white"]
    assert data.draw(SHAPE, "peaky", CPU, 1).query.float().std() > 5


def test_ragged_images_hold_everything_and_nothing() -> None:
    inputs = data.draw(SHAPE, "white", CPU, 3)
    assert inputs.kv_lens[0] == SHAPE.keys
    assert inputs.kv_lens[-1] == 0


@pytest.mark.parametrize("variant", list(Variant))
def test_every_kernel_is_checked_in_both_types_on_all_sorts_of_data(variant: Variant) -> None:
    found = shapes.checks(variant, tiny=False)
    assert len({check.key for check in found}) == len(found) > 100
    assert {check.kind for check in found} == set(shapes.KINDS)
    assert {check.shape.dtype for check in found} == {"bfloat16", "float16"}
    assert {check.splits for check in found} >= {1, 2, 3, 4, 5, 8}
    assert {check.shape.width for check in found} == {384, 768, 1024}
    assert {shape.name for shape in shapes.TIMED} <= {check.shape.name for check in found}


def by_family(shape: Shape) -> dict[str, list[Contender]]:
    families: dict[str, list[Contender]] = {}
    for contender in contenders.contenders(shape, Variant):
        families.setdefault(contender.family, []).append(contender)
    return families


@pytest.mark.parametrize("family", ["cached", "absorbed", "whole"])
@torch.inference_mode()
def test_contenders_of_a_family_compute_the_same(family: str) -> None:
    results_by_name = {}
    for contender in by_family(EVEN)[family]:
        inputs = data.draw(EVEN, "white", CPU, 5)
        # In one order, whoever asks for what first.
        _ = inputs.query, inputs.folded, inputs.key, inputs.value, inputs.memory
        _ = inputs.key_weight, inputs.value_weight
        inputs.bias = torch.zeros(EVEN.width)
        try:
            results_by_name[contender.name] = contender.prepare(inputs)()
        except RuntimeError as error:
            assert "backend" in str(error)
    assert len(results_by_name) > 3
    first, *others = results_by_name.values()
    for other in others:
        assert torch.allclose(first.reshape(other.shape), other, atol=1e-4)


def test_time_is_that_of_one_call() -> None:
    calls = []
    result = timing.time_calls([lambda: calls.append(1), lambda: calls.append(2)], CPU)
    assert result.how == "clock"
    assert len(calls) == 2 + 3 * 2
    slow = timing.time_calls([lambda: torch.mm(torch.ones(300, 300), torch.ones(300, 300))], CPU)
    assert slow.seconds > 5 * result.seconds


def test_the_floor_is_the_longer_of_arithmetic_and_traffic() -> None:
    ceilings = roofline.Ceilings(copy_bytes_per_second=2.4e12, read_bytes_per_second=3e12, flops=790e12)
    decode = shapes.TIMED[1]
    # 64 images' keys and values of 577 rows: 113 MB; queries and context are small beside them.
    assert roofline.cached_work(decode).moved == pytest.approx(4 * 64 * 577 * 768, rel=0.01)
    assert ceilings.floor(roofline.cached_work(decode)) == pytest.approx(113e6 / 3e12, rel=0.02)
    fusion = shapes.TIMED[0]
    assert ceilings.floor(roofline.absorbed_work(fusion)) == pytest.approx(
        4 * 64 * 577 * 768 * 360 / 790e12, rel=0.3
    )


def tiny_keys(*starts: str) -> list[str]:
    return [task.key for task in tasks.all_tasks(CPU, tiny=True) if task.key.startswith(starts)]


SETTING = Setting("cpu", tiny=True, environment={"OMP_NUM_THREADS": "1"})


def test_tasks_are_done_in_a_child() -> None:
    keys = tiny_keys("check:kv:tiny-one:bfloat16", "merge")
    records = supervise(keys, SETTING, time.monotonic() + 50)
    assert set(records) == set(keys)
    assert all(record["passed"] for record in records.values())


def broken_child(tmp_path: Path, action: str) -> Setting:
    """A program that stands before the child and makes it end in the middle of its second task."""
    wrapper = tmp_path / "wrapper.py"
    wrapper.write_text(
        "import os, runpy, sys, time\n"
        "from bench import worker\n"
        "work = worker.work\n"
        "def wrapped(task, device, log):\n"
        "    if task.key.endswith('mean:2'):\n"
        "        worker._write(log, {'key': task.key, 'state': 'begun'})\n"
        f"        {action}\n"
        "    work(task, device, log)\n"
        "worker.work = wrapped\n"
        "arguments = sys.argv[4:]\n"
        "sys.exit(worker.main(arguments))\n"
    )
    return Setting("cpu", tiny=True, prefix=(sys.executable, str(wrapper)), patience=30.0)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("action", "said"), [("os._exit(9)", "exit status 9"), ("time.sleep(600)", "no news for 30 s")]
)
def test_a_child_that_ends_or_hangs_costs_one_record(tmp_path: Path, action: str, said: str) -> None:
    keys = tiny_keys("check:kv:tiny-one:bfloat16")
    assert len(keys) == 4
    records = supervise(keys, broken_child(tmp_path, action), time.monotonic() + 170)
    assert set(records) == set(keys)
    failed = {key: record["failed"] for key, record in records.items() if "failed" in record}
    assert list(failed) == ["check:kv:tiny-one:bfloat16:mean:2"]
    assert said in failed["check:kv:tiny-one:bfloat16:mean:2"]


def test_the_deadline_leaves_the_rest_undone() -> None:
    keys = tiny_keys("check:kv")
    assert supervise(keys, SETTING, time.monotonic()) == {}


def test_a_failing_task_is_recorded_and_the_next_is_done(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("bad thing in /some/where/file.py\nmore")

    with open(tmp_path / "log", "w") as log:
        worker.work(tasks.Task("check:a", fail), CPU, log)
        worker.work(tasks.Task("check:b", lambda: {"passed": True}), CPU, log)
    records = supervising._read(tmp_path / "log", "exit status 0;")
    assert records["check:a"]["failed"] == "RuntimeError: bad thing in ..."
    assert records["check:b"]["passed"]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_whole_run_writes_a_result_and_a_short_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    assert results.problems(content) == []
    assert content["complete"]
    assert content["failures"] == content["not_reached"] == []
    assert {record["variant"] for record in content["checks"]} == {variant.value for variant in Variant}
    assert {record["skipped"] for record in content["sanitizer"]} == {"no compute-sanitizer"}
    assert {record["key"] for record in content["wholes"]} >= {"whole:caption", "whole:rerank"}
    # Nothing of a trial may choose a kernel.
    assert all(results.wrong(variant, results.read(path)) for variant in Variant)
    lines = done.stdout.splitlines()
    assert len(lines) < 40
    assert any(line.startswith("tiny-decode") for line in lines)


def test_what_is_not_reached_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "cpu", "--tiny", "--out", str(tmp_path), "--minutes", "0", "--only", "check"]
    assert gpu.main(arguments) == 1
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    assert len(content["not_reached"]) == len(tiny_keys("check:"))
    assert not content["complete"]
    assert f"not reached: {len(content['not_reached'])}" in capsys.readouterr().out


RACE = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at /somewhere/csrc/xattn.cuh:31 and Read access
=========     at xattn::kernel
some output of the program
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


def test_what_the_checker_says_of_a_fault_is_kept() -> None:
    assert sanitizing.faults(RACE) == [
        "Error: Race reported between Write access at ...:31 and Read access",
        "at xattn::kernel",
        "RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)",
    ]
    assert sanitizing.faults("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n") == []


@pytest.mark.parametrize(
    ("end", "records", "passed"),
    [
        ("exit status 0; 0 errors", {"a": {}, "b": {}}, True),
        ("exit status 86; 1 hazard", {"a": {}, "b": {}}, False),
        ("exit status 0; 0 errors", {"a": {}, "b": {"failed": "context is destroyed"}}, False),
        ("exit status 0; 0 errors", {"a": {}}, False),
    ],
)
def test_only_a_whole_run_without_faults_is_clean(
    end: str, records: dict[str, dict[str, Any]], passed: bool
) -> None:
    watched = Setting("cuda", tiny=True, ends=[end], outputs=[RACE])
    record = sanitizing.judged(["a", "b"], records, watched)
    assert record["passed"] is passed
    assert ("faults" in record) is not passed


def test_a_checker_that_was_stopped_has_found_nothing_yet() -> None:
    watched = Setting("cuda", tiny=True, ends=["out of time; ..."], outputs=[""])
    assert sanitizing.judged(["a", "b"], {"a": {}}, watched) == {"skipped": "out of time after 1 of 2 cases"}


def test_the_checker_sees_every_kernel() -> None:
    keys = [task.key for task in tasks.sanitizer_tasks(CPU)]
    records = sanitizing.sanitize(keys, SETTING, time.monotonic())
    assert {(record["tool"], record["variant"]) for record in records} == {
        (tool, variant) for tool in sanitizing.TOOLS for variant in (None, *(v.value for v in Variant))
    }
    for variant in Variant:
        assert {int(key.split(":")[-1]) for key in keys if variant.value in key} >= {1, 2, 3, 4, 5, 8}


def test_each_way_to_a_whole_layer_is_held_against_its_own_floor() -> None:
    fusion, decode = shapes.TIMED[0], shapes.TIMED[1]
    # A text of 30 tokens absorbs with half the arithmetic of projecting, a step of five beams with a twelfth.
    assert 0.4 < roofline.folding_work(fusion).flop / roofline.projecting_work(fusion).flop < 0.6
    assert 0.05 < roofline.folding_work(decode).flop / roofline.projecting_work(decode).flop < 0.1
    for contender in contenders.contenders(fusion, Variant):
        if contender.name.endswith("with_folding"):
            assert contender.work is roofline.folding_work
