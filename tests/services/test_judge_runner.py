"""Texts to labels, spans and missing words, by the engine: what the models themselves give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from golden.structbert_cases import tiny, tiny_config
from mplug.errors import MplugError
from mplug.structbert import Classifier, FaqAnswerer, Tagger
from mplug.text_classifier import Classified, Filled, Question, Tagged
from mplug_services.engine import ModelWorker
from mplug_services.runners import judge as judge_runner
from mplug_services.scheduler import Scheduler
from mplug_services.text_work import FillMasks, GivenLabels, JudgeText, KnownQuestions, OwnLabels, OwnSpans
from mplug_services.work import NonFiniteError, WorkKind, WorkResult
from services.text_servers import judging_models

WAIT = 30.0
CLASSIFY, FILL = "text-classification", "fill-mask"


@pytest.fixture
def serve() -> Iterator[Callable[..., ModelWorker]]:
    """Starts a worker of some models, ready when it is returned."""
    workers: list[ModelWorker] = []

    def start(models: dict[str, Any]) -> ModelWorker:
        worker = ModelWorker(lambda: models, Scheduler(64, {WorkKind.JUDGE: 200}))
        worker.start()
        worker.ready.result(WAIT)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        assert worker.stop(WAIT)


def results(worker: ModelWorker, items: Sequence[JudgeText]) -> list[WorkResult]:
    return [future.result(WAIT) for future in worker.submit(items)]


def same(found: object, expected: object) -> None:
    assert isinstance(found, Classified)
    assert isinstance(expected, Classified)
    assert [each.label for each in found.scores] == [each.label for each in expected.scores]
    assert [each.score for each in found.scores] == pytest.approx(
        [each.score for each in expected.scores], abs=1e-5
    )


def test_each_way_of_judging_gives_what_the_model_gives(serve: Callable[..., ModelWorker]) -> None:
    models = judging_models()
    entails, filler = models[CLASSIFY], models[FILL]
    given = GivenLabels(("piece1", "piece2"), "piece3 {}", multi_label=True)
    expected = [
        entails.nli.classify(["piece5"])[0],
        entails.nli.classify([("piece6", "piece7")])[0],
        entails.classify(["piece5"], given.labels, template=given.template, multi_label=True)[0],
    ]
    (filled,) = filler.fill(["piece5 [MASK]"], top_k=3)
    worker = serve(models)
    found = results(
        worker,
        [
            JudgeText(task=CLASSIFY, text="piece5", mode=OwnLabels(), tokens=3),
            JudgeText(task=CLASSIFY, text=("piece6", "piece7"), mode=OwnLabels(), tokens=5),
            JudgeText(task=CLASSIFY, text="piece5", mode=given, tokens=3),
            JudgeText(task=FILL, text="piece5 [MASK]", mode=FillMasks(3), tokens=4),
        ],
    )
    for one, other in zip(found[:3], expected, strict=True):
        same(one.value, other)
    assert isinstance(found[3].value, Filled)
    assert found[3].value.text == filled.text
    assert [each.piece for each in found[3].value.masks[0]] == [each.piece for each in filled.masks[0]]
    assert [result.quantum for result in found[:2]] == [found[0].quantum] * 2
    assert len({result.quantum for result in found}) == 3


def test_spans_are_those_of_the_tagger(serve: Callable[..., ModelWorker]) -> None:
    tagger = tiny(Tagger, tiny_config(labels=("O", "B-A", "I-A")))
    (expected,) = tagger.tag(["piece5 piece6 piece7"])
    worker = serve({CLASSIFY: tagger})
    (found,) = results(
        worker, [JudgeText(task=CLASSIFY, text="piece5 piece6 piece7", mode=OwnSpans(), tokens=5)]
    )
    assert isinstance(found.value, Tagged)
    assert [(each.label, each.start, each.end) for each in found.value.spans] == [
        (each.label, each.start, each.end) for each in expected.spans
    ]


def test_known_questions_are_read_once(
    serve: Callable[..., ModelWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(FaqAnswerer)
    questions = tuple(Question(f"piece{20 + n}", f"answer {n % 2}") for n in range(4))
    (expected,) = model.answer(["piece20"], questions)
    read: list[object] = []
    remember = model.remember

    def counted(support: Sequence[Question]) -> Any:
        read.append(support)
        return remember(support)

    monkeypatch.setattr(model, "remember", counted)
    monkeypatch.setattr(judge_runner, "REMEMBERED", 2)
    worker = serve({CLASSIFY: model})

    def ask(known: tuple[Question, ...]) -> WorkResult:
        item = JudgeText(task=CLASSIFY, text="piece20", mode=KnownQuestions(known), tokens=3)
        return results(worker, [item])[0]

    same(ask(questions).value, expected)
    same(ask(questions).value, expected)
    assert len(read) == 1
    for some in (questions[:2], questions[:3], questions):
        ask(some)
    assert len(read) == 4, "the one longest not asked for was forgotten"


def test_only_the_culprit_of_a_batch_fails(serve: Callable[..., ModelWorker]) -> None:
    worker = serve(judging_models())
    texts = ["piece5 [MASK]", "nothing to fill", "[MASK] piece6"]
    futures = worker.submit([JudgeText(task=FILL, text=text, mode=FillMasks(2), tokens=4) for text in texts])
    with pytest.raises(MplugError, match=r"no \[MASK\]"):
        futures[1].result(WAIT)
    for future in (futures[0], futures[2]):
        assert isinstance(future.result(WAIT).value, Filled)


def test_nan_is_never_given_out(serve: Callable[..., ModelWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(Classifier)
    worker = serve({CLASSIFY: model})
    monkeypatch.setattr(
        model, "classify", lambda texts: [Classified.of(["a"], [float("nan")], False) for _ in texts]
    )
    (future,) = worker.submit([JudgeText(task=CLASSIFY, text="piece5", mode=OwnLabels(), tokens=3)])
    with pytest.raises(NonFiniteError):
        future.result(WAIT)
