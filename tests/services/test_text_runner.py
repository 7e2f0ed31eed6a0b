"""Texts that are written together, whoever comes and goes: each is what it is alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest
import torch
from torch import Tensor

from golden.gpt3_cases import tiny_generator
from golden.palm_cases import tiny_palm
from mplug.gpt3 import Gpt3Generator
from mplug.text_writing import WrittenText
from mplug_services.engine import ModelWorker
from mplug_services.runners import text as text_runner
from mplug_services.scheduler import Scheduler
from mplug_services.work import DeadlineExceededError, NonFiniteError, ResultFuture, WorkKind, WorkResult
from services.generation_servers import Gate
from services.text_servers import alone, write_item, writer_gate

WAIT = 30.0
# Any: fields of GenerationConfig
LONG: dict[str, Any] = {"method": "greedy", "min_length": 30, "max_length": 30}
SHORT: dict[str, Any] = {"method": "greedy", "min_length": 2, "max_length": 2}
BUDGET = 1000


@pytest.fixture
def model() -> Gpt3Generator:
    return tiny_generator("plain")


@pytest.fixture
def serve() -> Iterator[Callable[..., ModelWorker]]:
    """Starts a worker of one model, ready when it is returned."""
    workers: list[ModelWorker] = []

    def start(model: Any, budget: int = BUDGET) -> ModelWorker:
        scheduler = Scheduler(64, {WorkKind.GENERATE: budget})
        worker = ModelWorker(lambda: {"text-generation": model}, scheduler)
        worker.start()
        worker.ready.result(WAIT)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        assert worker.stop(WAIT)


def results(futures: Sequence[Any]) -> list[WorkResult]:
    return [future.result(WAIT) for future in futures]


def texts(result: WorkResult) -> list[tuple[int, ...]]:
    return [text.token_ids for text in written(result)]


def written(result: WorkResult) -> tuple[WrittenText, ...]:
    return result.expect(tuple)


def hold(gate: Gate) -> None:
    """Shut the gate, forgetting what came before."""
    while gate.arrived.acquire(blocking=False):
        pass
    gate.rows.clear()
    gate.open.clear()


def let_pass(gate: Gate) -> None:
    """Let the step at the gate through, and wait for the next one to stand there."""
    rows = len(gate.rows)
    gate.shut_at = None
    gate.open.set()
    while len(gate.rows) == rows:
        assert gate.arrived.acquire(timeout=WAIT)
    gate.open.clear()


def arrive(gate: Gate) -> None:
    assert gate.arrived.acquire(timeout=WAIT)


def test_a_short_text_joins_a_long_one_and_is_done_first(
    model: Gpt3Generator, serve: Callable[..., ModelWorker]
) -> None:
    expected = [alone(model, "piece5 piece6", **LONG), alone(model, "piece7", **SHORT)]
    gate = writer_gate(model)
    worker = serve(model)
    hold(gate)
    (long,) = worker.submit([write_item(model, "piece5 piece6", **LONG)])
    arrive(gate)
    (short,) = worker.submit([write_item(model, "piece7", **SHORT)])
    gate.open.set()
    early = short.result(WAIT)
    late = long.result(WAIT)
    assert late.quantum == early.quantum, "they were one batch"
    assert late.forward_seconds > early.forward_seconds
    assert [texts(late), texts(early)] == [[one.token_ids for one in each] for each in expected]
    # The long prompt, a step at most, the short prompt, a step of both, and the rest of the long one.
    assert gate.rows.count(2) == 1
    assert len(gate.rows) <= 30 + 2


def test_whatever_the_settings_texts_run_together_and_are_what_they_are_alone(
    model: Gpt3Generator, serve: Callable[..., ModelWorker]
) -> None:
    settings: list[dict[str, Any]] = [
        {"method": "greedy", "max_length": 9},
        {"method": "sample", "max_length": 12, "top_k": 5},
        {"method": "sample", "max_length": 7, "temperature": 2.0},
        {"method": "greedy", "max_length": 14, "repetition_penalty": 1.3},
        {"method": "greedy", "max_length": 5, "no_repeat_ngram_size": 2},
    ]
    prompts = ["piece5", "piece6 piece7 piece8", "piece9 piece5", "piece11", "piece12 piece13"]
    expected = [
        alone(model, text, seed=seed, **each)
        for seed, (text, each) in enumerate(zip(prompts, settings, strict=True))
    ]
    gate = writer_gate(model)
    worker = serve(model)
    hold(gate)
    items = [
        write_item(model, text, seed=seed, **each)
        for seed, (text, each) in enumerate(zip(prompts, settings, strict=True))
    ]
    futures = worker.submit(items)
    gate.open.set()
    found = results(futures)
    assert [texts(each) for each in found] == [[one.token_ids for one in each] for each in expected]
    for result, each in zip(found, expected, strict=True):
        for one, other in zip(written(result), each, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
            assert one.finish_reason == other.finish_reason
    assert max(gate.rows) == len(items)


def test_beams_have_a_batch_of_their_own(model: Gpt3Generator, serve: Callable[..., ModelWorker]) -> None:
    beams: dict[str, Any] = {
        "method": "beam",
        "beam_size": 3,
        "num_results": 2,
        "max_length": 6,
        "min_length": 6,
    }
    expected = [alone(model, "piece5", **beams), alone(model, "piece6", **LONG)]
    gate = writer_gate(model)
    worker = serve(model)
    hold(gate)
    futures = worker.submit([write_item(model, "piece5", **beams), write_item(model, "piece6", **LONG)])
    gate.open.set()
    found = results(futures)
    assert [texts(each) for each in found] == [[one.token_ids for one in each] for each in expected]
    assert found[0].quantum != found[1].quantum
    assert set(gate.rows) == {1, 3}


def test_a_deterministic_text_has_no_company(model: Gpt3Generator, serve: Callable[..., ModelWorker]) -> None:
    gate = writer_gate(model)
    worker = serve(model)
    hold(gate)
    items = [write_item(model, f"piece{5 + n}", deterministic=n != 1, **LONG) for n in range(3)]
    futures = worker.submit(items)
    gate.open.set()
    assert len({result.quantum for result in results(futures)}) == 3
    assert set(gate.rows) == {1}


def test_what_is_beyond_the_budget_waits_for_its_place(
    model: Gpt3Generator, serve: Callable[..., ModelWorker]
) -> None:
    items = [write_item(model, f"piece{5 + n}", **each) for n, each in enumerate([LONG, SHORT, SHORT, SHORT])]
    gate = writer_gate(model)
    worker = serve(model, budget=2 * items[0].cost)
    gate.rows.clear()
    assert len({result.quantum for result in results(worker.submit(items))}) == 1
    # Both prompts, their second tokens; the prompt and second token of each that takes the place of one that is done.
    assert gate.rows == [2, 2, 1, 2, 1, 2, *[1] * 26]


def test_who_leaves_gives_his_place_to_another(
    model: Gpt3Generator, serve: Callable[..., ModelWorker]
) -> None:
    items = [write_item(model, f"piece{5 + n}", **LONG) for n in range(3)]
    gate = writer_gate(model)
    worker = serve(model, budget=2 * items[0].cost)
    hold(gate)
    first, second, third = worker.submit(items)
    arrive(gate)  # both prompts
    let_pass(gate)  # the first step of both
    assert first.cancel() is False
    let_pass(gate)  # the third one's prompt, in the place of the first
    gate.open.set()
    assert second.result(WAIT).quantum == third.result(WAIT).quantum
    with pytest.raises(CancelledError):
        first.result(WAIT)
    assert gate.rows[:3] == [2, 2, 1]
    assert set(gate.rows[3:]) == {2, 1}


def test_a_text_past_its_deadline_ends_and_the_others_go_on(
    model: Gpt3Generator, serve: Callable[..., ModelWorker]
) -> None:
    expected = alone(model, "piece6", **LONG)
    gate = writer_gate(model)
    worker = serve(model)
    hold(gate)
    hurried = write_item(model, "piece5", deadline=time.monotonic() + 0.2, **LONG)
    late, other = worker.submit([hurried, write_item(model, "piece6", **LONG)])
    arrive(gate)
    while time.monotonic() < (hurried.deadline or 0.0):
        time.sleep(0.01)
    gate.open.set()
    with pytest.raises(DeadlineExceededError):
        late.result(WAIT)
    assert texts(other.result(WAIT)) == [one.token_ids for one in expected]
    assert gate.rows == [2, *[1] * 29]


def let_fail(model: Any, fails: Callable[[Tensor], bool]) -> None:
    """Let a generator's decoder fail at steps of such ids. Any: its method is replaced."""
    step = model.decoder.step

    def faulty(ids_SL: Tensor, state: Any, **options: Any) -> Tensor:
        if fails(ids_SL):
            raise RuntimeError("cannot bear it")
        logits: Tensor = step(ids_SL, state, **options)
        return logits

    model.decoder.step = faulty


def test_a_prompt_that_the_model_cannot_bear_harms_no_other(
    model: Gpt3Generator, serve: Callable[..., ModelWorker]
) -> None:
    prompts = ["piece5", "piece77", "piece7"]
    expected = [alone(model, text, **LONG) for text in prompts]
    let_fail(model, lambda ids_SL: bool((ids_SL == 77).any()))
    good, bad, other = serve(model).submit([write_item(model, text, **LONG) for text in prompts])
    with pytest.raises(RuntimeError, match="cannot bear it"):
        bad.result(WAIT)
    assert texts(good.result(WAIT)) == [one.token_ids for one in expected[0]]
    assert texts(other.result(WAIT)) == [one.token_ids for one in expected[2]]


def test_after_a_step_that_failed_each_text_is_tried_alone(
    model: Gpt3Generator, serve: Callable[..., ModelWorker]
) -> None:
    prompts = ["piece5", "piece6", "piece7"]
    expected = [alone(model, text, **LONG) for text in prompts]
    steps: list[int] = []

    def third_step_of_several(ids_SL: Tensor) -> bool:
        steps.append(len(ids_SL))
        return len(ids_SL) > 1 and steps.count(len(ids_SL)) > 4

    let_fail(model, third_step_of_several)
    futures = serve(model).submit([write_item(model, text, **LONG) for text in prompts])
    found = [texts(result) for result in results(futures)]
    assert found == [[one.token_ids for one in each] for each in expected]


def test_nan_is_never_given_out(model: Gpt3Generator, serve: Callable[..., ModelWorker]) -> None:
    expected = alone(model, "piece5", **SHORT)
    step: Any = model.decoder.step

    def broken(ids_SL: Tensor, state: Any, **options: Any) -> Tensor:
        logits_SV: Tensor = step(ids_SL, state, **options)
        return torch.where((ids_SL == 77).any(dim=1, keepdim=True), torch.nan, logits_SV)

    model.decoder.step = broken  # type: ignore[method-assign]
    bad, good = serve(model).submit([write_item(model, text, **SHORT) for text in ("piece77", "piece5")])
    with pytest.raises(NonFiniteError):
        bad.result(WAIT)
    assert texts(good.result(WAIT)) == [one.token_ids for one in expected]


def test_prompts_are_read_some_at_a_time_between_steps(
    model: Gpt3Generator, serve: Callable[..., ModelWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that neither those who come nor those who are there wait for the others."""
    items = [write_item(model, f"piece{5 + n} piece9", **LONG) for n in range(4)]
    monkeypatch.setitem(text_runner.PROMPT_TOKENS_AT_ONCE, "cpu", 2 * len(items[0].prompt.first))
    gate = writer_gate(model)
    worker = serve(model)
    gate.rows.clear()
    results(worker.submit(items))
    assert gate.rows[:5] == [2, 2, 2, 4, 4]


def test_an_encoder_decoder_is_joined_as_well(serve: Callable[..., ModelWorker]) -> None:
    model = tiny_palm()
    prompts = ["piece5 piece6 piece7", "piece8"]
    expected = [alone(model, prompts[0], **LONG), alone(model, prompts[1], **SHORT)]
    gate = writer_gate(model)
    worker = serve(model)
    hold(gate)
    (long,) = worker.submit([write_item(model, prompts[0], **LONG)])
    arrive(gate)
    (short,) = worker.submit([write_item(model, prompts[1], **SHORT)])
    gate.open.set()
    found = results([long, short])
    assert [texts(each) for each in found] == [[one.token_ids for one in each] for each in expected]
    assert found[0].quantum == found[1].quantum


def test_a_stream_is_the_text_as_it_grows(model: Gpt3Generator, serve: Callable[..., ModelWorker]) -> None:
    worker = serve(model)
    item = write_item(model, "piece5", **LONG)
    seen: list[object] = []
    worker.scheduler.reserve(1)
    streamed = type(item)(prompt=item.prompt, config=item.config, stream=True)
    (future,) = worker.enqueue([streamed], progress=lambda _, value: seen.append(value))
    assert isinstance(future, ResultFuture)
    (text,) = written(future.result(WAIT))
    assert 1 <= len(seen) <= 29
    assert [len(str(part)) for part in seen] == sorted({len(str(part)) for part in seen})
    assert all(text.text.startswith(str(part)) for part in seen)
