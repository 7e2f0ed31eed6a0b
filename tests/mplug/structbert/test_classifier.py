from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.structbert_cases import tiny, tiny_config
from mplug.errors import ConfigError, MplugError
from mplug.structbert import AdapterConfig, Classifier, EntailmentClassifier
from mplug.text.pairs import Text, encode_pairs
from mplug.text_classifier import Classified, TextClassifier, ZeroShotClassifier

ADAPTERS = AdapterConfig(states=(0, 2), hidden=16, heads=2, ffn=24)
MODELS = {"structbert": tiny(Classifier), "plug_mental": tiny(Classifier, tiny_config(adapters=ADAPTERS))}
NLI: TextClassifier = MODELS["structbert"]

words = st.lists(st.integers(0, 20).map("piece{}".format), max_size=30).map(" ".join)
texts = st.lists(st.one_of(words, st.tuples(words, words)), min_size=1, max_size=6)


def scores(found: Classified) -> dict[str, float]:
    return {each.label: each.score for each in found.scores}


@pytest.mark.parametrize("name", MODELS)
@given(batch=texts)
@settings(deadline=None, max_examples=20)
def test_neighbours_do_not_matter_and_scores_sum_to_one(name: str, batch: list[Text]) -> None:
    model = MODELS[name]
    together = model.classify(batch)
    assert len(together) == len(batch)
    for text, found in zip(batch, together, strict=True):
        (alone,) = model.classify([text])
        assert scores(found) == pytest.approx(scores(alone), abs=1e-5)
        assert found.truncated == alone.truncated
        assert math.fsum(scores(found).values()) == pytest.approx(1, abs=1e-5)
        assert [each.score for each in found.scores] == sorted(scores(found).values(), reverse=True)
        assert found.best.label in model.labels


def test_more_texts_than_go_at_once_keep_their_order() -> None:
    model = MODELS["structbert"]
    many = [f"piece{number % 30} " * (1 + number % 7) for number in range(70)]
    for text, found in zip(many, model.classify(many), strict=True):
        assert scores(found) == pytest.approx(scores(model.classify([text])[0]), abs=1e-5)


def test_a_pair_is_read_as_one() -> None:
    model = MODELS["structbert"]
    pair, swapped, joined = model.classify([("piece1", "piece2"), ("piece2", "piece1"), "piece1 piece2"])
    assert scores(pair) != pytest.approx(scores(swapped), abs=1e-4)
    assert scores(pair) != pytest.approx(scores(joined), abs=1e-4)


def test_truncated_texts_say_so() -> None:
    found = MODELS["structbert"].classify(["piece1 " * 22, "piece1 " * 23, ("piece1", "piece2 " * 30)])
    assert [each.truncated for each in found] == [False, True, True]


def test_nothing_gives_nothing() -> None:
    assert MODELS["structbert"].classify([]) == []


def test_a_classifier_needs_labels() -> None:
    with pytest.raises(ConfigError, match="label_mapping"):
        tiny(Classifier, tiny_config(labels=("one",)))


def test_a_label_is_there_once() -> None:
    with pytest.raises(ConfigError, match="yes"):
        tiny_config(labels=("yes", "no", "yes"))


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_is_entailment_of_each_label(multi_label: bool) -> None:
    nli = MODELS["structbert"]
    zero_shot: ZeroShotClassifier = EntailmentClassifier(nli)
    labels, text = ["piece3", "piece4 piece5", "piece6"], "piece1 piece2"
    (found,) = zero_shot.classify([text], labels, template="piece9 {}", multi_label=multi_label)
    logits = nli.logits(encode_pairs(nli.tokenizer, [(text, f"piece9 {label}") for label in labels]))
    expected = logits[:, [2, 0]].softmax(dim=1)[:, 1] if multi_label else logits[:, 0].softmax(dim=0)
    assert scores(found) == pytest.approx(dict(zip(labels, expected.tolist(), strict=True)), abs=1e-6)
    assert [each.score for each in found.scores] == sorted(expected.tolist(), reverse=True)


def test_zero_shot_texts_do_not_mix() -> None:
    zero_shot = EntailmentClassifier(MODELS["structbert"])
    labels = ["piece3", "piece4"]
    batch = ["piece1", "piece2 piece3 " * 20, "piece5"]
    together = zero_shot.classify(batch, labels)
    for text, found in zip(batch, together, strict=True):
        (alone,) = zero_shot.classify([text], labels)
        assert scores(found) == pytest.approx(scores(alone), abs=1e-5)
        assert math.fsum(scores(found).values()) == pytest.approx(1, abs=1e-5)
    assert [each.truncated for each in together] == [False, True, False]


def test_one_label_alone_is_scored_against_its_contradiction() -> None:
    zero_shot = EntailmentClassifier(MODELS["structbert"])
    (found,) = zero_shot.classify(["piece1"], ["piece3"])
    assert found.best.score < 1
    assert (found,) == tuple(zero_shot.classify(["piece1"], ["piece3"], multi_label=True))


@pytest.mark.parametrize(("labels", "template"), [([], "{}"), (["piece1"], "no place")])
def test_zero_shot_without_labels_is_refused(labels: list[str], template: str) -> None:
    with pytest.raises(MplugError, match="template"):
        EntailmentClassifier(MODELS["structbert"]).classify(["piece1"], labels, template=template)


def test_a_template_is_no_format_string() -> None:
    zero_shot = EntailmentClassifier(MODELS["structbert"])
    (found,) = zero_shot.classify(["piece1"], ["piece2", "{0.__class__}"], template="{0} {}")
    assert {each.label for each in found.scores} == {"piece2", "{0.__class__}"}


def test_zero_shot_needs_entailment() -> None:
    with pytest.raises(MplugError, match="entailment"):
        EntailmentClassifier(tiny(Classifier, tiny_config(labels=("yes", "no"))))


def test_a_model_in_half_precision_gives_scores_of_full_precision() -> None:
    half = tiny(Classifier).to(torch.bfloat16)
    for found, exact in zip(
        half.classify(["piece1", "piece2"]), NLI.classify(["piece1", "piece2"]), strict=True
    ):
        assert math.fsum(scores(found).values()) == pytest.approx(1, abs=1e-6)
        assert scores(found) == pytest.approx(scores(exact), abs=0.1)
