from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.mplug_cases import small_vocab
from golden.structbert_cases import VOCAB, tiny, tiny_config
from mplug.errors import ConfigError, MplugError
from mplug.structbert import WordFiller
from mplug.text_classifier import Filled, MaskFiller

PIECES = ["今", "天", "很", "好"]
VOCAB_ZH = [*small_vocab(VOCAB - len(PIECES)), *PIECES]
MODEL = tiny(WordFiller, vocab=VOCAB_ZH)

texts = st.lists(
    st.lists(st.sampled_from(["今", "天", "piece3", "[MASK]"]), max_size=12).map(
        lambda each: "".join(["[MASK]", *each])
    ),
    min_size=1,
    max_size=5,
)


def ids(text: list[str]) -> torch.Tensor:
    return torch.tensor([[101, *(VOCAB_ZH.index(piece) for piece in text), 102]])


def scores(filled: Filled) -> list[list[float]]:
    return [[candidate.score for candidate in mask] for mask in filled.masks]


def test_every_mask_gets_its_candidates() -> None:
    (filled,) = MODEL.fill(["今天[MASK]好[MASK]。"], top_k=3)
    with torch.no_grad():
        tokens = ids(["今", "天", "[MASK]", "好", "[MASK]", "[UNK]"])
        probabilities = MODEL(tokens, tokens != 0)[0].softmax(-1)
    for mask, place in zip(filled.masks, (3, 5), strict=True):
        best, numbers = probabilities[place].topk(3)
        assert [candidate.piece for candidate in mask] == [VOCAB_ZH[number] for number in numbers]
        assert [candidate.score for candidate in mask] == pytest.approx(best.tolist(), abs=1e-6)


def test_the_text_has_the_best_of_each() -> None:
    with torch.no_grad():
        model = tiny(WordFiller, vocab=VOCAB_ZH)
        model.head.bias[VOCAB_ZH.index("很")] = 100
    (filled,) = model.fill(["今天[MASK]好"])
    assert filled.text == "今天很好"
    assert filled.masks[0][0].piece == "很"
    assert filled.masks[0][0].score == pytest.approx(1)


@given(batch=texts)
@settings(deadline=None, max_examples=25)
def test_neighbours_do_not_matter(batch: list[str]) -> None:
    filler: MaskFiller = MODEL
    for text, together in zip(batch, filler.fill(batch, top_k=VOCAB), strict=True):
        (alone,) = filler.fill([text], top_k=VOCAB)
        assert len(together.masks) == text.count("[MASK]")
        assert together.truncated == alone.truncated
        for mine, its in zip(scores(together), scores(alone), strict=True):
            assert mine == pytest.approx(its, abs=1e-5)
            assert sum(mine) == pytest.approx(1, abs=1e-5)
            assert mine == sorted(mine, reverse=True)


def test_rows_behind_the_vocabulary_are_no_candidates() -> None:
    model = tiny(WordFiller, vocab=VOCAB_ZH[:-2])
    with torch.no_grad():
        model.head.bias[-1] = 100
    (filled,) = model.fill(["今[MASK]"], top_k=VOCAB)
    assert len(filled.masks[0]) == VOCAB - 2
    assert sum(scores(filled)[0]) == pytest.approx(1, abs=1e-5)


def test_a_long_text_keeps_the_masks_of_its_beginning() -> None:
    (filled,) = MODEL.fill(["[MASK]" + "今" * 30 + "[MASK]"])
    assert filled.truncated
    assert len(filled.masks) == 1


@pytest.mark.parametrize("text", ["今天", "", "[mask]", "今" * 30 + "[MASK]"])
def test_a_text_without_a_mask_is_refused(text: str) -> None:
    with pytest.raises(MplugError, match=r"texts\[1\] holds no \[MASK\]"):
        MODEL.fill(["[MASK]", text])


def test_top_k_below_one_is_refused() -> None:
    with pytest.raises(MplugError, match="top_k is 0"):
        MODEL.fill(["[MASK]"], top_k=0)


def test_a_vocabulary_without_mask_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no \[MASK\]"):
        tiny(WordFiller, tiny_config(), vocab=small_vocab(103))


def test_the_output_matrix_is_the_word_embeddings() -> None:
    model = tiny(WordFiller)
    before = model(ids(["[MASK]"]), torch.ones(1, 3))
    with torch.no_grad():
        model.text_encoder.embeddings.word.weight[50, 0] += 1
    after = model(ids(["[MASK]"]), torch.ones(1, 3))
    changed = (before - after).abs().amax(dim=(0, 1)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [50]
