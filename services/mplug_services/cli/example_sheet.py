"""One picture of what a model said of pictures: the best, the median and the worst, with what people said."""

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
from mplug_services.cli.eval_data import Shown

COLUMNS = 2
TEXT_WIDTH = 420
CELL = THUMB + GAP + TEXT_WIDTH
HEADER = 76
ROW = THUMB + 34
MOST_REFERENCES = 5
LINE_HEIGHT = 16
"""Of a reference, a line of 12 pixels' type."""


def draw_examples(shown: Sequence[Shown], title: str) -> Image.Image:
    """Draws the sheet: in two columns, read downwards."""
    rows = max(1, -(-len(shown) // COLUMNS))
    size = (2 * MARGIN + COLUMNS * (CELL + GAP) - GAP, HEADER + rows * ROW + MARGIN)
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    draw_wrapped(draw, (MARGIN, 24), title, font(22), size[0] - 2 * MARGIN, max_lines=1, fill=INK)
    for number, each in enumerate(shown):
        column, row = divmod(number, rows)
        _draw_example(sheet, draw, each, MARGIN + column * (CELL + GAP), HEADER + row * ROW)
    return sheet


def _draw_example(sheet: Image.Image, draw: ImageDraw.ImageDraw, shown: Shown, left: int, top: int) -> None:
    paste_tile(sheet, decode_image(shown.image.read_bytes()), left, top, THUMB)
    x, bottom = left + THUMB + GAP, top + ROW - LINE_HEIGHT
    mark = f"{shown.example.group.upper()}  {shown.example.score:.1f}"
    draw.text((x, top), mark, font=font(12), fill=ACCENT)
    y = top + 18
    if shown.heading:
        y = draw_wrapped(draw, (x, y), shown.heading, font(14), TEXT_WIDTH, max_lines=1, fill=FAINT)
    y = draw_wrapped(draw, (x, y), shown.text or "(nothing)", font(18), TEXT_WIDTH, max_lines=2, fill=INK)
    for reference in shown.references[:MOST_REFERENCES]:
        if y > bottom:
            break
        y = draw_wrapped(draw, (x, y), reference, font(12), TEXT_WIDTH, max_lines=1, fill=FAINT)
