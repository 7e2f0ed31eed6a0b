"""The model that ships: its size, its two languages, what it says of its licence."""

import json

import pytest

import mplug
from golden import mini_vectors
from golden.mini_vectors import GALLERY, embed_pictures, embed_texts
from mplug.contrastive import ContrastiveModel
from mplug.loading import WEIGHTS_FOLDER

FOLDER = WEIGHTS_FOLDER / "mplug-mini"
NUM_DRAWINGS = 100


@pytest.fixture(scope="module")
def mini() -> ContrastiveModel:
    return mplug.load("mplug-mini")


@pytest.fixture(scope="module")
def drawings() -> list[dict[str, str]]:
    lines = (GALLERY / "gallery.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == "drawing"][:NUM_DRAWINGS]


def test_it_fits_in_40_mb() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 33_000_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 32_700_000


def test_it_says_that_its_weights_are_for_research(mini: ContrastiveModel) -> None:
    assert "esearch use" in mini.licence


def test_special_tokens_have_berts_ids() -> None:
    pieces = (FOLDER / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert (pieces[0], pieces[100], pieces[101], pieces[102], pieces[103]) == (
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    )


@pytest.mark.parametrize("language", ["label", "label_zh"])
def test_drawings_are_found_by_their_labels(
    mini: ContrastiveModel, drawings: list[dict[str, str]], language: str
) -> None:
    scores = embed_texts(mini, [record[language] for record in drawings]) @ embed_pictures(mini, drawings).T
    rank = (scores > scores.diagonal()[:, None]).sum(1)
    # By chance 10 % would be among the first ten.
    assert (rank < 10).float().mean() >= 0.6


def test_the_same_thing_in_two_languages_lies_near(mini: ContrastiveModel) -> None:
    english = embed_texts(mini, ["two dogs in the snow", "a man riding a bike", "children on a beach"])
    chinese = embed_texts(mini, ["雪地里的两只狗", "骑自行车的男人", "海滩上的孩子们"])
    assert (english @ chinese.T).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["pictures", "label", "label_zh"])
def test_its_vectors_are_those_of_the_day_it_came(mini: ContrastiveModel, name: str) -> None:
    cosine = (mini_vectors.vectors(mini)[name] * mini_vectors.stored()[name]).sum(1)
    assert cosine.min() >= 0.9999
