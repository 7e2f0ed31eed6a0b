"""One picture of what a text looked at: the picture itself, and a tile for each word."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from mplug.heat_maps import HeatMap
from mplug.images import decode_image
from mplug.overlay import COLOURS
from mplug_services.cli.contact_sheet import FAINT, GAP, GROUND, INK, MARGIN, draw_wrapped, font, paste_tile

TILE = 236
UNDER = 44
"""A word below its tile, in at most two lines, and air."""
COLUMNS = 5
HEADER = 96
LEGEND = 150
"""Width of the bar of colours."""


def draw_heat_sheet(picture: bytes, heat_maps: Sequence[HeatMap], title: str) -> Image.Image:
    """Draws the sheet.

    Args:
        picture: the file that was explained.
        heat_maps: of its text's words, in order.
        title: the text.
    """
    tiles = [(decode_image(picture), "")]
    tiles += [(Image.open(io.BytesIO(each.overlay)), each.word) for each in heat_maps]
    columns = min(COLUMNS, max(3, len(tiles)))
    rows = -(-len(tiles) // columns)
    size = (2 * MARGIN + columns * (TILE + GAP) - GAP, HEADER + rows * (TILE + UNDER) + MARGIN)
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    width = size[0] - 2 * MARGIN
    draw_wrapped(draw, (MARGIN, 20), title, font(19), width - LEGEND - 120, max_lines=2, fill=INK)
    _draw_legend(sheet, draw, size[0] - MARGIN - LEGEND)
    for number, (tile, word) in enumerate(tiles):
        left = MARGIN + number % columns * (TILE + GAP)
        top = HEADER + number // columns * (TILE + UNDER)
        paste_tile(sheet, tile, left, top, TILE)
        draw_wrapped(draw, (left + 4, top + TILE + 4), word, font(16), TILE - 8, max_lines=2, fill=INK)
    return sheet


def png(sheet: Image.Image) -> bytes:
    """The sheet as a file."""
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _draw_legend(sheet: Image.Image, draw: ImageDraw.ImageDraw, left: int) -> None:
    """A bar of the colours, from little to most."""
    stops = Image.fromarray(COLOURS.astype("uint8")[None])
    sheet.paste(stops.resize((LEGEND, 8), Image.Resampling.BILINEAR), (left, 26))
    draw.text((left, 38), "little", font=font(12), fill=FAINT)
    most = "looked at most"
    draw.text((left + LEGEND - draw.textlength(most, font=font(12)), 38), most, font=font(12), fill=FAINT)
