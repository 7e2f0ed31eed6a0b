from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.structbert_cases import tiny, tiny_config
from mplug.errors import MplugError
from mplug.structbert import FaqAnswerer, FaqConfig
from mplug.structbert.faq import _balance
from mplug.text_classifier import Classified, Question, QuestionAnswerer

PROTONETS = [
    FaqConfig(metric="cosine", pooling="avg"),
    FaqConfig(metric="relation", pooling="avg"),
    FaqConfig(metric="cosine", pooling="attn"),
    FaqConfig(metric="relation", pooling="attn"),
]
MGIMNS = [
    FaqConfig(network="mgimnnet"),
    FaqConfig(network="mgimnnet", episode_level=False, pooling="attn"),
    FaqConfig(network="mgimnnet", instance_level=False),
    FaqConfig(network="mgimnnet", instance_level=False, episode_level=False),
]
MODELS = [tiny(FaqAnswerer, tiny_config(faq=config, labels=())) for config in (*PROTONETS, *MGIMNS)]
NAMES = [f"{m.config.faq.network}{number}" for number, m in enumerate(MODELS)]
SUPPORT = [
    Question("piece1 piece2", "b"),
    Question("piece3", "a"),
    Question("piece4 piece5 piece6", "b"),
    Question("piece7 piece8", "a"),
]

questions = st.lists(st.integers(0, 20).map("piece{}".format), min_size=1, max_size=10).map(" ".join)


def scores(found: Classified) -> dict[str, float]:
    return {each.label: each.score for each in found.scores}


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
@given(queries=st.lists(questions, min_size=1, max_size=4))
@settings(deadline=None, max_examples=8)
def test_new_questions_do_not_matter_to_each_other(model: FaqAnswerer, queries: list[str]) -> None:
    answerer: QuestionAnswerer = model
    for query, together in zip(queries, answerer.answer(queries, SUPPORT), strict=True):
        (alone,) = model.answer([query], SUPPORT)
        assert scores(together) == pytest.approx(scores(alone), abs=1e-5)
        assert set(scores(together)) == {"a", "b"}
        assert [each.score for each in together.scores] == sorted(scores(together).values(), reverse=True)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_the_order_of_known_questions_does_not_matter(model: FaqAnswerer) -> None:
    (found,), (reversed_found,) = (model.answer(["piece2 piece9"], each) for each in (SUPPORT, SUPPORT[::-1]))
    assert scores(found) == pytest.approx(scores(reversed_found), abs=1e-5)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_padding_does_not_matter(model: FaqAnswerer) -> None:
    ids = torch.tensor([[101, 5, 6, 102], [101, 7, 102, 0]])
    wider = torch.nn.functional.pad(ids, (0, 3))
    query = torch.tensor([[101, 9, 102]])
    logits = []
    for known_ids in (ids, wider):
        known = model.remember_ids(known_ids, known_ids != 0, torch.tensor([0, 1]))
        logits += [
            model(query, query != 0, known),
            model(torch.nn.functional.pad(query, (0, 5)), torch.tensor([[True] * 3 + [False] * 5]), known),
        ]
    for other in logits[1:]:
        assert torch.allclose(logits[0], other, atol=1e-5)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_known_questions_are_read_once(model: FaqAnswerer) -> None:
    known = model.remember(SUPPORT)
    assert known.labels == ("a", "b")
    assert model.answer(["piece2"], known) == model.answer(["piece2"], SUPPORT)


def test_a_known_question_is_its_own_nearest() -> None:
    model = MODELS[0]
    support = [Question(f"piece{number} piece{number + 1}", f"label{number}") for number in range(0, 20, 2)]
    found = model.answer([each.text for each in support], support)
    assert [each.best.label for each in found] == [each.label for each in support]
    assert all(each.best.score == pytest.approx(1, abs=1e-4) for each in found)


def test_cosines_are_scaled_in_training() -> None:
    model = tiny(FaqAnswerer, tiny_config(faq=FaqConfig()))
    ids = torch.tensor([[101, 5, 102], [101, 7, 102]])
    known = model.remember_ids(ids, ids != 0, torch.tensor([0, 1]))
    exact = model(ids, ids != 0, known)
    assert torch.allclose(model.train()(ids, ids != 0, known), 5 * exact)


def test_uneven_labels_get_their_first_question_again() -> None:
    support = [Question("x", "a"), Question("y", "b"), Question("z", "b"), Question("u", "b")]
    balanced = _balance(support)
    assert [each for each in balanced if each.label == "a"] == [support[0]] * 3
    assert [each for each in balanced if each.label == "b"] == support[1:]


@pytest.mark.parametrize("model", MODELS[4:], ids=NAMES[4:])
def test_mgimn_takes_uneven_labels(model: FaqAnswerer) -> None:
    uneven, even = SUPPORT[:3], [*SUPPORT[:3], SUPPORT[1]]
    assert scores(model.answer(["piece2"], uneven)[0]) == scores(model.answer(["piece2"], even)[0])


def test_protonet_pads_labels_only_where_its_settings_say_so() -> None:
    uneven = [*SUPPORT, Question("piece9", "b")]
    plain, padded = (
        tiny(FaqAnswerer, tiny_config(faq=FaqConfig(balanced=balanced))) for balanced in (False, True)
    )
    repeated = [*uneven, SUPPORT[1]]
    assert scores(padded.answer(["piece2"], uneven)[0]) == scores(plain.answer(["piece2"], repeated)[0])
    assert scores(padded.answer(["piece2"], uneven)[0]) != scores(plain.answer(["piece2"], uneven)[0])


def test_long_questions_lose_their_end_mark() -> None:
    model = MODELS[0]
    tokens = model._read(["piece1 " * 30, "piece1 " * 22])
    assert [(len(each.ids), int(each.ids[-1]), each.truncated) for each in tokens] == [
        (24, 1, True),
        (24, 102, False),
    ]


def test_loss_is_that_of_every_label() -> None:
    model = MODELS[1]
    ids = torch.tensor([[101, 5, 102], [101, 7, 102]])
    known = model.remember_ids(ids, ids != 0, torch.tensor([0, 1]))
    logits = model(ids, ids != 0, known)
    wanted = torch.eye(2)
    expected = -(wanted * logits.sigmoid().log() + (1 - wanted) * (1 - logits.sigmoid()).log()).mean()
    assert model.loss(ids, ids != 0, known, torch.tensor([0, 1])).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_sentence_vectors(model: FaqAnswerer) -> None:
    vectors = model.embed(["piece1 piece2", "piece3"])
    assert vectors.shape == (2, 32)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors[1:], model.embed(["piece3"]), atol=1e-6)
    assert model.embed([]).shape == (0, 32)


def test_no_known_questions_are_refused() -> None:
    with pytest.raises(MplugError, match="no known questions"):
        MODELS[0].answer(["piece1"], [])


def test_more_known_questions_than_are_read_at_once() -> None:
    model = MODELS[1]
    support = [
        Question(f"piece{number % 30} piece{number // 30}", f"{number % 40:02}") for number in range(80)
    ]
    (found,) = model.answer(["piece5"], support)
    few = [question for question in support if question.label in ("03", "07")]
    (of_few,) = model.answer(["piece5"], few)
    assert len(found.scores) == 40
    assert {label: scores(found)[label] for label in scores(of_few)} == pytest.approx(
        scores(of_few), abs=1e-5
    )
