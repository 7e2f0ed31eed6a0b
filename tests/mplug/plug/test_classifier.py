"""PLUG's encoder as a classifier, and that its decoder is nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.mplug_cases import small_vocab
from golden.plug_cases import read_plug_case, tiny_plug
from mplug import plug
from mplug.errors import CheckpointError
from mplug.plug import PlugClassifier, PlugConfig
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_classifier import TextClassifier

LABELS = ("negative", "neutral", "positive")


def tiny_classifier() -> PlugClassifier:
    values = {name: getattr(tiny_plug().config, name) for name in PlugConfig.__dataclass_fields__}
    config = PlugConfig(**{**values, "labels": LABELS})
    model = PlugClassifier(config, WordPieceTokenizer(small_vocab(150), max_length=16)).eval()
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=numbers))
    return model


MODEL = tiny_classifier()
words = st.lists(st.integers(3, 99).map("piece{}".format), min_size=1, max_size=20).map(" ".join)


def test_a_text_is_judged_by_its_first_token() -> None:
    ids, mask = torch.tensor([[101, 5, 6, 102]]), torch.ones(1, 4)
    with torch.no_grad():
        wanted = MODEL.classifier(MODEL.encoder(ids, mask)[:, 0]).softmax(-1)[0].tolist()
    classifier: TextClassifier = MODEL
    (found,) = classifier.classify(["piece5 piece6"])
    assert {score.label: score.score for score in found.scores} == pytest.approx(
        dict(zip(LABELS, wanted, strict=True)), rel=1e-5
    )
    assert [score.score for score in found.scores] == sorted(wanted, reverse=True)
    assert not found.truncated


@settings(max_examples=10, deadline=None)
@given(texts=st.lists(words | st.tuples(words, words), min_size=2, max_size=4))
def test_neighbours_do_not_matter(texts: list[str | tuple[str, str]]) -> None:
    together = MODEL.classify(texts)
    for text, found in zip(texts, together, strict=True):
        (alone,) = MODEL.classify([text])
        assert alone.truncated == found.truncated
        for ours, theirs in zip(found.scores, alone.scores, strict=True):
            assert ours.score == pytest.approx(theirs.score, rel=1e-4)


def test_the_second_of_a_pair_is_of_another_type() -> None:
    pair, reverse = MODEL.classify([("piece5", "piece6"), ("piece6", "piece5")])
    assert pair.scores != reverse.scores
    (joined,) = MODEL.classify(["piece5"])
    assert joined.scores != pair.scores


def test_a_fine_tuned_folder_is_read_and_written_without_a_decoder(tmp_path: Path) -> None:
    plug.save(MODEL, tmp_path / "tuned", ranks=2)
    held = torch.load(tmp_path / "tuned" / "model" / "mp_rank_01_model_states.pt", weights_only=True)[
        "module"
    ]
    assert not any(name.startswith("decoder.") for name in held)
    again = plug.load_classifier(tmp_path / "tuned")
    assert again.labels == LABELS
    assert again.classify(["piece5 piece6"])[0].scores == MODEL.classify(["piece5 piece6"])[0].scores
    for name, tensor in MODEL.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_a_pretrained_folder_gets_a_new_layer_for_labels_that_are_given(tmp_path: Path) -> None:
    case = read_plug_case("pre_ln")
    folder = case.write(tmp_path / "plug", ranks=2)
    model = plug.load_classifier(folder, labels=("no", "yes"))
    whole = plug.load(folder)
    assert model.num_parameters == sum(p.numel() for p in whole.encoder.parameters()) + 2 * 64 + 2
    for name, tensor in whole.encoder.state_dict().items():
        assert torch.equal(tensor, model.encoder.state_dict()[name])
    unused = {name.split(".")[0] for name in model.report.unused}
    assert unused == {"bert", "cls", "decoder"}
    assert "bert.pooler.dense.weight" in model.report.unused
    scores = model.classify(["piece5"])[0].scores
    assert sum(score.score for score in scores) == pytest.approx(1)


def test_a_folder_that_names_labels_needs_their_layer(tmp_path: Path) -> None:
    folder = read_plug_case("pre_ln").write(tmp_path / "plug")
    with pytest.raises(CheckpointError, match="the model has 0 labels"):
        plug.load_classifier(folder)
    (folder / "label_mapping.json").write_text(json.dumps({"no": 0, "yes": 1}))
    with pytest.raises(CheckpointError, match=r"classifier\.weight"):
        plug.load_classifier(folder)


def test_a_generator_leaves_the_classifier(tmp_path: Path) -> None:
    case = read_plug_case("post_ln")
    weights = {**case.weights, "classifier.weight": torch.zeros(2, 64), "classifier.bias": torch.zeros(2)}
    report = plug.load(case.write(tmp_path / "plug", weights=weights), pretraining=True).report
    assert {"classifier.weight", "classifier.bias"} <= {*report.unused}
    assert report.unknown == ()
