"""One picture of searches and what they found: a row for each query, best hit first."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = Path(__file__).parent / "fonts" / "NotoSansSC-subset.otf"

MARGIN = 32
HEADER = 84
QUERY_WIDTH = 250
THUMB = 150
GAP = 18
ROW = THUMB + 74
"""A row: thumbnail, label in two lines, score, and air."""

INK = "#1d2430"
FAINT = "#6b7585"
LINE = "#e3e7ed"
PAPER = "#ffffff"
GROUND = "#f5f7fa"
ACCENT = "#2563c9"


@dataclass(frozen=True, slots=True)
class SheetHit:
    """A picture that was found."""

    picture: Path
    label: str
    score: float
    """Cosine."""
    match: float | None = None
    """Probability that it matches the text, where it was reranked."""


@dataclass(frozen=True, slots=True)
class SheetRow:
    """A query and its hits."""

    title: str
    text: str | None
    picture: Path | None
    note: str
    hits: tuple[SheetHit, ...]


def sheet_size(rows: Sequence[SheetRow]) -> tuple[int, int]:
    """Width and height of the sheet in pixels."""
    columns = max(len(row.hits) for row in rows)
    width = 2 * MARGIN + QUERY_WIDTH + columns * (THUMB + GAP)
    return width, HEADER + len(rows) * ROW + MARGIN


def draw_sheet(rows: Sequence[SheetRow], title: str, subtitle: str) -> Image.Image:
    """Draws the sheet."""
    sheet = Image.new("RGB", sheet_size(rows), GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 22), title, font=font(24), fill=INK)
    draw.text((MARGIN, 54), subtitle, font=font(14), fill=FAINT)
    for number, row in enumerate(rows):
        top = HEADER + number * ROW
        draw.line((MARGIN, top, sheet.width - MARGIN, top), fill=LINE, width=2)
        _draw_query(sheet, draw, row, top + 16)
        for column, hit in enumerate(row.hits):
            left = MARGIN + QUERY_WIDTH + column * (THUMB + GAP)
            _draw_hit(sheet, draw, hit, left, top + 16, best=column == 0)
    return sheet


def _draw_query(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: SheetRow, top: int) -> None:
    draw.text((MARGIN, top), row.title.upper(), font=font(12), fill=ACCENT)
    y = top + 22
    if row.picture is not None:
        side = THUMB - 60
        _paste(sheet, row.picture, MARGIN, y, side)
        y += side + 6
    if row.text is not None:
        text = f"+ {row.text}" if row.picture is not None else row.text
        y = draw_wrapped(draw, (MARGIN, y), text, font(18), QUERY_WIDTH - 30, max_lines=4, fill=INK)
    draw.text((MARGIN, top + ROW - 42), row.note, font=font(12), fill=FAINT)


def _draw_hit(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, hit: SheetHit, left: int, top: int, *, best: bool
) -> None:
    _paste(sheet, hit.picture, left, top, THUMB, outline=ACCENT if best else LINE)
    draw_wrapped(draw, (left, top + THUMB + 4), hit.label, font(12), THUMB - 40, max_lines=2, fill=INK)
    numbers = [f"{hit.score:.3f}", *([f"{hit.match:.0%}"] if hit.match is not None else [])]
    for line, number in enumerate(numbers):
        width = draw.textlength(number, font=font(12))
        place = left + THUMB - width, top + THUMB + 4 + line * 16
        draw.text(place, number, font=font(12), fill=FAINT)


def _paste(sheet: Image.Image, picture: Path, left: int, top: int, side: int, outline: str = LINE) -> None:
    with Image.open(picture) as opened:
        paste_tile(sheet, opened, left, top, side, outline)


def paste_tile(
    sheet: Image.Image, picture: Image.Image, left: int, top: int, side: int, outline: str = LINE
) -> None:
    """Pastes a picture into a white square with round corners."""
    tile = Image.new("RGB", (side, side), PAPER)
    image = picture.convert("RGB")
    image.thumbnail((side - 8, side - 8), Image.Resampling.LANCZOS)
    tile.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), radius=10, fill=255)
    sheet.paste(tile, (left, top), mask)
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle((left, top, left + side - 1, top + side - 1), radius=10, outline=outline, width=2)


def draw_wrapped(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont,
    width: int,
    *,
    max_lines: int,
    fill: str,
) -> int:
    """Draws text within a width, at most so many lines; returns where the next line would begin."""
    x, y = place
    step = round(font.size * 1.35)
    lines = wrap(text, lambda line: draw.textlength(line, font=font) <= width)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1] + "…"]
    for line in lines:
        draw.text((x, y), line, font=font, fill=fill)
        y += step
    return y


def wrap(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Breaks text into lines that fit: at spaces, between characters of Chinese, and in words that fit into no line."""
    lines: list[str] = []
    line = ""
    for piece in _pieces(text, fits):
        if line and not fits((line + piece).rstrip()):
            lines.append(line.rstrip())
            line = ""
        line += piece
    return [*lines, line.rstrip()] if line.strip() else lines


def _pieces(text: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """Words with the space after them; a Chinese character is a word. Of words that fit nowhere, their characters."""
    words = re.findall(r"[\u3000-\u9fff\uff00-\uffef]|[^\s\u3000-\u9fff\uff00-\uffef]+\s*|\s+", text)
    for word in words:
        yield from [word] if fits(word.rstrip()) else word


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The shipped font."""
    return ImageFont.truetype(str(FONT), size)
