from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mplug.checkpoints.labels import find_labels
from mplug.errors import ConfigError
from mplug.structbert import (
    PUBLISHED,
    AdapterConfig,
    Classifier,
    FaqConfig,
    WordFiller,
    count_parameters,
)
from mplug.structbert.settings import read_settings, to_config

NAMES = {"a": 0, "b": 1}
OTHERS = {"0": "x", "1": "y"}


def write(folder: Path, **files: dict[str, Any]) -> Path:
    for name, values in {"config": {}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("mapping", "configuration", "config", "expected"),
    [
        (NAMES, {"model": {"label2id": {"c": 0}}}, {}, ("a", "b")),
        ({"b": "0", "a": "1"}, {}, {}, ("b", "a")),
        (None, {"model": {"label2id": NAMES}}, {"id2label": OTHERS}, ("a", "b")),
        (None, {"model": {"id2label": OTHERS}}, {}, ("x", "y")),
        (None, {"preprocessor": {"label2id": NAMES}}, {"id2label": OTHERS}, ("a", "b")),
        (None, {"preprocessor": {"id2label": OTHERS}}, {}, ("x", "y")),
        (None, {"dataset": {"train": {"labels": ["u", "v"]}}}, {"id2label": OTHERS}, ("u", "v")),
        (None, {}, {"label2id": NAMES}, ("a", "b")),
        (None, {}, {"id2label": OTHERS, "num_labels": 5}, ("x", "y")),
        (None, {}, {"num_labels": 3}, ("0", "1", "2")),
        (None, {"model": "structbert"}, {}, ()),
    ],
)
def test_labels_are_found_where_modelscope_keeps_them(
    mapping: dict[str, Any] | None,
    configuration: dict[str, Any],
    config: dict[str, Any],
    expected: tuple[str, ...],
) -> None:
    assert find_labels(mapping, configuration, config) == expected


def test_two_numbers_of_one_label_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.id2label"):
        find_labels(None, {"model": {"id2label": {"0": "a", "1": "a"}}}, {})


def test_a_list_is_no_mapping() -> None:
    with pytest.raises(ConfigError, match=r"label2id is \['a'\]"):
        find_labels(None, {"model": {"label2id": ["a"]}}, {})


def test_what_is_not_said_is_as_in_modelscope(tmp_path: Path) -> None:
    config = to_config(read_settings(write(tmp_path)))
    encoder = config.encoder
    assert (encoder.vocab_size, encoder.hidden, encoder.layers, encoder.heads) == (30522, 768, 12, 12)
    assert (encoder.ffn, encoder.positions, encoder.types, encoder.eps) == (3072, 512, 2, 1e-12)
    assert (config.max_length, config.lower_case, config.prefix) == (512, True, "bert")
    assert (config.adversarial.factor, config.adversarial.sigma, config.adversarial.bound) == (
        5e-5,
        5e-6,
        1e-5,
    )
    assert config.adapters is None
    assert config.faq == FaqConfig()


def test_settings_of_evaluation_are_taken(tmp_path: Path) -> None:
    preprocessor = {"train": {"type": "x", "max_length": 10}, "val": {"type": "x", "max_length": 20}}
    folder = write(
        tmp_path, configuration={"preprocessor": preprocessor}, tokenizer_config={"do_lower_case": False}
    )
    config = to_config(read_settings(folder))
    assert (config.max_length, config.lower_case) == (20, False)


@pytest.mark.parametrize(
    ("preprocessor", "expected"), [({}, 50), ({"max_seq_length": 30}, 30), ({"sequence_length": 60}, 60)]
)
def test_faqs_are_read_up_to_fifty_tokens(
    preprocessor: dict[str, int], expected: int, tmp_path: Path
) -> None:
    configuration = {
        "task": "faq-question-answering",
        "preprocessor": {**preprocessor, "pad_support": True},
        "model": {"network": "mgimnnet", "pooling": "attn", "episode_level_interaction": False},
    }
    config = to_config(read_settings(write(tmp_path, configuration=configuration)))
    assert config.max_length == expected
    assert config.faq == FaqConfig(network="mgimnnet", pooling="attn", episode_level=False, balanced=True)


@pytest.mark.parametrize("where", ["config", "configuration"])
def test_plug_mental_has_adapters(where: str, tmp_path: Path) -> None:
    said = {"model_type": "plug-mental"} if where == "config" else {"model": {"type": "plug-mental"}}
    config = to_config(read_settings(write(tmp_path, **{where: said})))
    assert config.adapters == AdapterConfig(states=(11,), hidden=768, heads=12, ffn=3072, layers=1)
    assert config.adversarial.factor is None


def test_the_adversarial_term_can_be_switched_off(tmp_path: Path) -> None:
    config = to_config(read_settings(write(tmp_path, config={"adv_grad_factor": None, "sigma": 1e-4})))
    assert (config.adversarial.factor, config.adversarial.sigma, config.adversarial.bound) == (
        None,
        1e-4,
        2e-4,
    )


def bert_parameters(vocab: int, layers: int, width: int) -> int:
    """Embeddings, layers and pooler, by hand."""
    embeddings = (vocab + 512 + 2 + 2) * width
    layer = 4 * (width * width + width) + 2 * 4 * width * width + 5 * width + 4 * width
    return embeddings + layers * layer + width * width + width


@pytest.mark.parametrize(
    ("name", "vocab", "layers", "width"),
    [
        ("structbert-lite-zh", 21128, 6, 512),
        ("structbert-base-zh", 21128, 12, 768),
        ("structbert-large-zh", 21128, 24, 1024),
        ("structbert-large-en", 30522, 24, 1024),
    ],
)
def test_published_sizes(name: str, vocab: int, layers: int, width: int) -> None:
    encoder = bert_parameters(vocab, layers, width)
    assert count_parameters(PUBLISHED[name], Classifier) == encoder + 2 * width + 2
    without_pooler = encoder - width * width - width
    head = width * width + width + 2 * width + vocab
    assert count_parameters(PUBLISHED[name], WordFiller) == without_pooler + head


def test_the_cards_name_these_sizes() -> None:
    """102M, 330M (of the talk's table), about 30M."""
    millions = {name: count_parameters(config, Classifier) / 1e6 for name, config in PUBLISHED.items()}
    assert round(millions["structbert-base-zh"]) == 102
    assert round(millions["structbert-large-zh"], -1) == 330
    assert round(millions["structbert-lite-zh"]) == 30
    # An adapter of its own layer, two projections, and the two layers that join: 7.09 + 1.18 + 1.77 million.
    assert round(millions["plug-mental-base-zh"] - millions["structbert-base-zh"], 1) == 10.0
