from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.mplug_cases import small_vocab
from golden.structbert_cases import TAGS, VOCAB, tiny, tiny_config
from mplug.structbert import Tagger
from mplug.structbert.tagger import LabelledWord, encode_words, join_spans
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_classifier import Span, TokenClassifier

PIECES = ["小", "明", "在", "北", "京", "run", "##ning", "cafe", "."]
VOCAB_ZH = [*small_vocab(VOCAB - len(PIECES)), *PIECES]
MODEL = tiny(Tagger, tiny_config(labels=TAGS), vocab=VOCAB_ZH)

characters = st.text(alphabet="小明在北京.é runig", max_size=30)


def words(*labels: str) -> list[LabelledWord]:
    """One character a word."""
    return [LabelledWord(label, (place + 1) / 100, place, place + 1) for place, label in enumerate(labels)]


def found(*labels: str) -> list[tuple[str, str, float]]:
    text = "abcdefgh"[: len(labels)]
    return [(span.label, span.text, span.score) for span in join_spans(text, words(*labels))]


@pytest.mark.parametrize(
    ("labels", "spans"),
    [
        (["B-X", "E-X", "O", "S-Y"], [("X", "ab", 0.01), ("Y", "d", 0.04)]),
        (["B-X", "I-X", "E-X", "S-X"], [("X", "abc", 0.01), ("X", "d", 0.04)]),
        (["O", "O"], []),
        (["B-X", "I-X"], [("X", "ab", 0.01)]),
        (["B-X", "B-Y", "E-Y"], [("X", "a", 0.01), ("Y", "bc", 0.02)]),
        (["S-X", "S-X"], [("X", "a", 0.01), ("X", "b", 0.02)]),
        (["E-X", "E-X"], [("X", "a", 0.01), ("X", "b", 0.02)]),
        (["I-X", "E-Y"], [("X", "ab", 0.01)]),
        (["B-X", "O", "O"], [("X", "a", 0.01)]),
        (["B-X", "O", "I-X"], [("X", "abc", 0.01)]),
        (["B", "E", "S"], [("", "ab", 0.01), ("", "c", 0.03)]),
        ([], []),
    ],
)
def test_spans(labels: list[str], spans: list[tuple[str, str, float]]) -> None:
    assert found(*labels) == spans


@given(st.lists(st.sampled_from(TAGS), max_size=8))
def test_spans_are_in_order_and_do_not_overlap(labels: list[str]) -> None:
    text = "abcdefgh"[: len(labels)]
    spans = join_spans(text, words(*labels))
    for span, following in itertools.pairwise(spans):
        assert span.end <= following.start
    for span in spans:
        assert span.text == text[span.start : span.end] != ""
    begins = sum(label[0] in "BS" for label in labels)
    assert len(spans) >= begins


def test_words_and_their_characters() -> None:
    tokenizer = WordPieceTokenizer(VOCAB_ZH, max_length=24)
    text = "小明 running\u0000 Café."
    (tokens,) = encode_words(tokenizer, [text])
    assert [text[start:end] for start, end in tokens.places] == ["小", "明", "running", "Café", "."]
    pieces = [VOCAB_ZH[tokens.ids[place]] for place in tokens.first]
    assert pieces == ["小", "明", "run", "cafe", "."]


def test_a_long_text_keeps_its_beginning() -> None:
    tokenizer = WordPieceTokenizer(VOCAB_ZH, max_length=5)
    exact, cut = encode_words(tokenizer, ["小明在", "小明running"])
    assert (len(exact.ids), exact.truncated, len(exact.places)) == (5, False, 3)
    assert (len(cut.ids), cut.truncated, cut.places) == (5, True, ((0, 1), (1, 2), (2, 5)))


def test_no_words_no_spans() -> None:
    assert [tagged.spans for tagged in MODEL.tag(["", "   "])] == [(), ()]


def test_the_spans_are_those_of_the_logits() -> None:
    text = "小明在 running 北京"
    (tagged,) = MODEL.tag([text])
    (tokens,) = encode_words(MODEL.tokenizer, [text])
    ids = torch.from_numpy(tokens.ids)[None]
    with torch.no_grad():
        scores, numbers = MODEL(ids, ids != 0)[0, list(tokens.first)].softmax(-1).max(-1)
    labelled = [
        LabelledWord(TAGS[number], score, *place)
        for number, score, place in zip(numbers.tolist(), scores.tolist(), tokens.places, strict=True)
    ]
    expected = join_spans(text, labelled)
    assert [(s.label, s.start, s.end) for s in tagged.spans] == [(s.label, s.start, s.end) for s in expected]
    assert [s.score for s in tagged.spans] == pytest.approx([s.score for s in expected], abs=1e-6)


@given(st.lists(characters, min_size=1, max_size=5))
@settings(deadline=None, max_examples=25)
def test_neighbours_do_not_matter(texts: list[str]) -> None:
    tagger: TokenClassifier = MODEL
    for text, together in zip(texts, tagger.tag(texts), strict=True):
        (alone,) = tagger.tag([text])
        assert [where(span) for span in together.spans] == [where(span) for span in alone.spans]
        assert together.truncated == alone.truncated
        for span in together.spans:
            assert span.text == text[span.start : span.end]
            assert 1 / len(TAGS) - 1e-6 <= span.score <= 1


def where(span: Span) -> tuple[str, int, int]:
    return span.label, span.start, span.end
