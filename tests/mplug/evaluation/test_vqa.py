from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug.evaluation import vqa
from mplug.evaluation.question_only import QuestionOnly
from mplug.evaluation.vqa import TypeScore, accuracy, normalise


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Dog.", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("a t-shirt", "t shirt"),
        ("yes , it is", "yes it is"),
        ("1,000 people!", "1000 people"),
        ("3.5 m.", "3.5 m"),
        ("dont know", "don't know"),
        ("theyd've", "they'd've"),
        ("it's 5:30", "it's 5:30"),
        ("somebody'd", "somebodyd"),
        ("red\nand\twhite ", "red and white"),
        ("雪 地 。", "雪地"),
        ("2 只狗", "2只狗"),
    ],
)
def test_normalised_as_the_challenge_does(answer: str, normal: str) -> None:
    assert normalise(answer) == normal


def test_the_table_of_contractions_is_the_challenges_in_length() -> None:
    # The others of its table change nothing, or have a capital, which no lower-cased word has.
    assert len(vqa.CONTRACTIONS) == 114
    assert all(
        wrong == right.replace("'", "", 1) or "'" in wrong for wrong, right in vqa.CONTRACTIONS.items()
    )


@pytest.mark.parametrize(
    ("agreeing", "expected"),
    # Of the agreeing, each leaves out itself: k(k-1)/3 + (10-k)k/3, each capped at 1, over ten.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_ten_people(agreeing: int, expected: float) -> None:
    given_answers = ["Red."] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert accuracy("the red", given_answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("agreeing", "people", "expected"),
    # k of n people count as 10 k / n of ten.
    [
        (1, 1, 1),
        (0, 1, 0),
        (1, 2, 1),
        (1, 3, (10 / 3 * 7 / 9 + 20 / 3) / 10),
        (1, 5, 0.6),
        (2, 5, 1),
        (1, 9, 1 / 3),
    ],
)
def test_fewer_people_count_as_if_they_were_ten(agreeing: int, people: int, expected: float) -> None:
    given_answers = ["Red."] * agreeing + [f"other {number}" for number in range(people - agreeing)]
    assert accuracy("the red", given_answers) == pytest.approx(expected)


@given(st.lists(st.sampled_from(["red", "blue", "a dog"]), min_size=5, max_size=5))
def test_five_people_are_ten_of_whom_each_answers_twice(people: list[str]) -> None:
    assert accuracy("Dog", people) == pytest.approx(accuracy("Dog", people * 2))


@given(st.integers(1, 12), st.data())
def test_one_more_who_agrees_never_makes_an_answer_worse(people: int, data: st.DataObject) -> None:
    agreeing = data.draw(st.integers(0, people - 1))
    less, more = (
        accuracy("dog", ["dog"] * count + ["cat"] * (people - count)) for count in (agreeing, agreeing + 1)
    )
    assert 0 <= less <= more <= 1 + 1e-12


@given(st.lists(st.sampled_from(["red", "blue", "a dog"]), min_size=10, max_size=12))
def test_accuracy_is_the_plain_mean_over_those_left_out(people: list[str]) -> None:
    each = [
        min(sum(other == "dog" for other in map(normalise, people[:n] + people[n + 1 :])) / 3, 1)
        for n in range(len(people))
    ]
    assert accuracy("Dog", people) == pytest.approx(sum(each) / len(people))


QUESTIONS = [
    "what colour is it?",
    "what colour is it?",
    "What colour is it",
    "what colour is the car?",
    "几只狗？",
]
ANSWERS = [["red"], ["blue"], ["The red."], ["blue"], ["两只"]]
TYPES = ["colour", "colour", "colour", "colour", "count"]


@pytest.fixture
def baseline() -> QuestionOnly:
    return QuestionOnly(QUESTIONS, ANSWERS, TYPES)


@pytest.mark.parametrize(
    ("question", "kind", "answer"),
    [
        ("what colour is it?", "colour", "red"),  # the same question: 2 red, 1 blue
        ("what colour is the dog?", "colour", "blue"),  # "what colour is the"
        ("what colour has it?", "colour", "blue"),  # "what colour": 2 and 2, the first in the alphabet
        ("of which colour?", "colour", "blue"),  # by type
        ("几只猫？", "count", "两只"),
        ("几个？", "colour", "blue"),  # no Chinese question of the type: the most frequent of all
        ("how?", "unknown", "blue"),
    ],
)
def test_the_baseline_knows_questions_then_beginnings_then_types(
    baseline: QuestionOnly, question: str, kind: str, answer: str
) -> None:
    assert baseline.by_question(question, kind) == answer


def test_the_baseline_by_type_does_not_answer_in_another_language(baseline: QuestionOnly) -> None:
    assert baseline.by_type("what colour is it?", "colour") == "blue"
    assert baseline.by_type("几只狗？", "count") == "两只"
    assert baseline.by_type("how many?", "count") == "blue"  # of all: no English question of the type


def test_the_baseline_does_not_depend_on_the_order_of_rows(baseline: QuestionOnly) -> None:
    turned = QuestionOnly(QUESTIONS[::-1], ANSWERS[::-1], TYPES[::-1])
    assert turned.guesses(QUESTIONS, TYPES) == baseline.guesses(QUESTIONS, TYPES)


def test_the_baseline_needs_rows() -> None:
    with pytest.raises(ValueError, match="no answers"):
        QuestionOnly([], [], [])


def test_scores_stand_beside_the_better_rule_of_each_type() -> None:
    given_answers = [["a dog"], ["cat"], ["2"], ["3"]]
    scores = vqa.score(
        ["dog", "dog", "two", "4"],
        [["dog", "bird", "1", "1"], ["dog", "cat", "2", "2"]],
        given_answers,
        ["animal", "animal", "count", "count"],
    )
    assert scores.by_type == {
        "animal": TypeScore(accuracy=50, question_only=100, count=2),
        "count": TypeScore(accuracy=50, question_only=50, count=2),
    }
    assert scores.overall == TypeScore(accuracy=50, question_only=75, count=4)
    assert scores.by_type["animal"].gain == -50
    assert scores.metrics()["question_only_animal"] == 100
    assert scores.metrics()["vqa"] == 50
    assert scores.num_scaled == 4


def test_scores_say_how_many_questions_fewer_than_ten_answered() -> None:
    given_answers = [["dog"] * 10, ["dog", "cat", "cat", "cat", "cat"]]
    scores = vqa.score(["dog", "dog"], [["cat", "cat"]], given_answers, ["", ""])
    assert scores.overall.accuracy == pytest.approx(80)
    assert scores.num_scaled == 1


def test_scores_need_one_of_each() -> None:
    with pytest.raises(ValueError, match="no answers to score"):
        vqa.score([], [], [], [])
    with pytest.raises(ValueError, match="not as many as the 1 types"):
        vqa.score(["a"], [["a", "b"]], [["a"]], ["x"])
