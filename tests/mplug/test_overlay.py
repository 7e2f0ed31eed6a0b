"""Heat maps over pictures, and the words that have one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from golden.mplug_cases import small_vocab
from mplug.errors import ImageError
from mplug.heat_maps import MOST_WORDS, Word, words_in
from mplug.overlay import OVERLAY_SIDE, draw_overlays, overlay
from mplug.text.tokenizer import WordPieceTokenizer

VOCAB = [*small_vocab(130)[:-4], "##ing", "##s", "ball", "\u732b"]
TOKENIZER = WordPieceTokenizer(VOCAB, max_length=25)
ING, S, BALL, CHINESE = range(126, 130)


def png(size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (90, 90, 90)).save(stream, "PNG")
    return stream.getvalue()


def test_an_overlay_colours_the_strong_cells_and_leaves_the_others() -> None:
    picture = Image.new("RGB", (80, 40), (100, 100, 100))
    cells = np.zeros((4, 4), dtype=np.float32)
    cells[0, 3] = 1.0
    laid = np.asarray(overlay(picture, cells))
    assert laid.shape == (40, 80, 3)
    red, green, blue = laid[3, 74].astype(int)
    assert red > 180 > green
    assert blue < 60
    assert (laid[20:, :40] == 100).all()
    assert picture.getpixel((74, 3)) == (100, 100, 100), "the picture that came in stays as it is"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_mode_become_rgb(mode: str) -> None:
    laid = overlay(Image.new(mode, (9, 7)), np.ones((2, 2), dtype=np.float32))
    assert (laid.mode, laid.size) == ("RGB", (9, 7))


@pytest.mark.parametrize(
    ("size", "expected"), [((30, 20), (30, 20)), ((1024, 256), (OVERLAY_SIDE, OVERLAY_SIDE // 4))]
)
def test_drawn_overlays_are_jpegs_no_larger_than_needed(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    cold, hot = np.zeros((2, 2), dtype=np.float32), np.ones((2, 2), dtype=np.float32)
    drawn = [Image.open(io.BytesIO(data)) for data in draw_overlays(png(size), [cold, hot])]
    assert [(each.format, each.size) for each in drawn] == [("JPEG", expected)] * 2
    assert np.ptp(np.asarray(drawn[0])) <= 2, (
        "nothing is laid over the first, and the second leaves no trace in it"
    )
    assert np.asarray(drawn[1])[..., 0].min() > 150


def test_what_is_no_picture_says_so() -> None:
    with pytest.raises(ImageError, match="not an image"):
        draw_overlays(b"no picture", [])


def test_pieces_of_one_word_are_put_together() -> None:
    ids = [7, BALL, ING, S, 102, S, 110, CHINESE, 111, 9999]
    assert words_in(ids, TOKENIZER) == [
        Word("ballings", (1, 2, 3)),
        Word(TOKENIZER.decode([S]), (5,)),
        Word(VOCAB[110], (6,)),
        Word("\u732b", (7,)),
        Word(VOCAB[111], (8,)),
    ]


@given(st.lists(st.integers(0, 140), max_size=100))
def test_every_piece_is_of_one_word_in_order(ids: list[int]) -> None:
    words = words_in(ids, TOKENIZER)
    places = [place for word in words for place in word.tokens]
    special = {TOKENIZER.pad_id, TOKENIZER.cls_id, TOKENIZER.sep_id}
    pieces = [place for place in range(1, len(ids)) if ids[place] < 130 and ids[place] not in special]
    assert places == pieces[: len(places)]
    assert len(places) == len(pieces) or len(words) == MOST_WORDS
    assert all(word.tokens for word in words)
