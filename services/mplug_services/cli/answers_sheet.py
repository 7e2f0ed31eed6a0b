"""One picture of what the server said of pictures: a caption in each language, and answers to questions."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from mplug.images import decode_image
from mplug_services.cli.contact_sheet import (
    ACCENT,
    FAINT,
    GAP,
    GROUND,
    INK,
    MARGIN,
    THUMB,
    draw_wrapped,
    font,
    paste_tile,
)
from mplug_services.cli.demo_answers import Told

COLUMNS = 2
HEADER = 96
TEXT_WIDTH = 460
CELL = THUMB + GAP + TEXT_WIDTH
CAPTIONS = 92
"""Two captions of at most two lines each."""
QUESTION_WIDTH = 280
LINE = 24
"""A question with its answer behind it."""


def row_height(told: Sequence[Told]) -> int:
    """Of every row in pixels: the one with the most questions must fit."""
    most = max((len(each.answers) for each in told), default=0)
    return max(THUMB, CAPTIONS + most * LINE) + 28


def sheet_size(told: Sequence[Told]) -> tuple[int, int]:
    """Width and height of the sheet in pixels."""
    rows = max(1, -(-len(told) // COLUMNS))
    return 2 * MARGIN + COLUMNS * (CELL + GAP) - GAP, HEADER + rows * row_height(told) + MARGIN


def draw_answers(told: Sequence[Told], title: str, subtitle: str) -> Image.Image:
    """Draws the sheet: in two columns, read row by row."""
    sheet = Image.new("RGB", sheet_size(told), GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 22), title, font=font(24), fill=INK)
    draw.text((MARGIN, 54), subtitle, font=font(14), fill=FAINT)
    for number, each in enumerate(told):
        row, column = divmod(number, COLUMNS)
        left, top = MARGIN + column * (CELL + GAP), HEADER + row * row_height(told)
        paste_tile(sheet, decode_image(each.picture.read_bytes()), left, top, THUMB)
        _draw_texts(draw, each, left + THUMB + GAP, top)
    return sheet


def _draw_texts(draw: ImageDraw.ImageDraw, told: Told, x: int, top: int) -> None:
    y = draw_wrapped(draw, (x, top), told.english, font(16), TEXT_WIDTH, max_lines=2, fill=INK)
    draw_wrapped(draw, (x, y + 2), told.chinese, font(16), TEXT_WIDTH, max_lines=2, fill=INK)
    behind = x + QUESTION_WIDTH
    for number, (question, answer) in enumerate(told.answers):
        y = top + CAPTIONS + number * LINE
        draw_wrapped(draw, (x, y + 1), question, font(13), QUESTION_WIDTH, max_lines=1, fill=FAINT)
        draw_wrapped(
            draw, (behind, y), answer, font(15), TEXT_WIDTH - QUESTION_WIDTH, max_lines=1, fill=ACCENT
        )
