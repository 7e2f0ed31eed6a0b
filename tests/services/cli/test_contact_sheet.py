import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from mplug.loading import find_folder
from mplug.train.vocabulary import is_chinese
from mplug_services.cli.contact_sheet import FONT, SheetHit, SheetRow, draw_sheet, sheet_size, wrap
from mplug_services.cli.demo_queries import PICTURES, PROMPT_ZH, QUERIES

GALLERY = Path(__file__).parents[3] / "examples" / "gallery" / "gallery.jsonl"


def row(picture: Path, text: str | None, hits: int) -> SheetRow:
    return SheetRow(
        title="a query",
        text=text,
        picture=picture if text is None else None,
        note="12 ms",
        hits=tuple(
            SheetHit(picture, "a picture with a rather long label that goes on", 0.5, 0.75 if hit else None)
            for hit in range(hits)
        ),
    )


def test_a_sheet_has_a_row_for_each_query(tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (300, 100), "#ff0000").save(picture)
    rows = [row(picture, "a red picture", 3), row(picture, None, 2)]
    sheet = draw_sheet(rows, "title", "subtitle")
    assert sheet.size == sheet_size(rows)
    colours = sheet.getcolors(maxcolors=1 << 24) or []
    reds = sum(count for count, colour in colours if colour == (255, 0, 0))
    # Five hits and the picture that was asked with, each at least 80 px wide and a third as high.
    assert reds > 6 * 80 * 25


def test_a_sheet_without_hits_is_still_a_sheet(tmp_path: Path) -> None:
    assert draw_sheet([row(tmp_path, "nothing", 0)], "title", "subtitle").width > 0


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three", ["one two", "three"]),
        ("an extraordinarily long", ["an extra", "ordinari", "ly long"]),
        ("城堡上方的月亮和星星", ["城堡上方的月亮和", "星星"]),
        ("a 城堡", ["a 城堡"]),
        ("", []),
    ],
)
def test_lines_break_at_spaces_between_chinese_characters_and_in_words_too_long(
    text: str, lines: list[str]
) -> None:
    assert wrap(text, lambda line: len(line) <= 8) == lines


def test_the_font_has_every_character_of_the_demo_and_of_what_the_shipped_model_writes() -> None:
    entries = [json.loads(line) for line in GALLERY.read_text(encoding="utf-8").splitlines()]
    shown = set("".join(entry["label"] + entry["label_zh"] for entry in entries))
    shown |= set("".join(query.text or "" for query in QUERIES))
    shown |= set("".join(question for each in PICTURES for question in each.questions) + PROMPT_ZH)
    vocabulary = (find_folder("mplug-mini") / "vocab.txt").read_text(encoding="utf-8")
    shown |= {character for character in vocabulary if is_chinese(character)}
    font = ImageFont.truetype(str(FONT), 20)

    def glyph(character: str) -> bytes:
        image = Image.new("L", (32, 32))
        ImageDraw.Draw(image).text((2, 2), character, font=font, fill=255)
        return image.tobytes()

    missing = glyph("\U000e0001")
    without = {character for character in shown if not character.isspace() and glyph(character) == missing}
    assert without == set()


def test_the_font_is_small_and_comes_with_its_licence() -> None:
    assert FONT.stat().st_size <= 1.1 * 2**20
    assert "SIL Open Font License" in (FONT.parent / "OFL.txt").read_text(encoding="utf-8")
