"""Image bytes of every kind, good and hostile."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from mplug.errors import ImageError
from mplug.images import FORMATS, ImageLimits, decode_image, sniff_format


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (columns * 255 // width, rows * 255 // height, (rows + columns) * 255 // (width + height))
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def one_colour(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (4, 3), colour)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def gif_header(width: int, height: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x01\x05\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + frame + b";"


def webp_header(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG"])
def test_every_format_is_told_by_its_bytes(image_format: str) -> None:
    data = encoded(gradient(), image_format, **({"lossless": True} if image_format == "WEBP" else {}))
    known = {name.upper(): name for name in FORMATS}
    assert sniff_format(data) == known[image_format]
    picture = decode_image(data)
    assert picture.mode == "RGB"
    difference = np.abs(np.asarray(picture, int) - np.asarray(gradient(), int))
    # GIF has 256 colours and JPEG is lossy; the others are exact.
    assert difference.mean() < {"GIF": 12, "JPEG": 4}.get(image_format, 1e-9)


@pytest.mark.parametrize(
    ("image", "image_format", "expected"),
    [
        (one_colour("RGBA", (200, 0, 0, 0)), "PNG", (255, 255, 255)),
        (one_colour("RGBA", (0, 0, 0, 128)), "PNG", (127, 127, 127)),
        (one_colour("RGBA", (10, 20, 30, 255)), "WEBP", (10, 20, 30)),
        (one_colour("LA", (0, 0)), "PNG", (255, 255, 255)),
        (one_colour("LA", (40, 255)), "PNG", (40, 40, 40)),
        (one_colour("L", 77), "PNG", (77, 77, 77)),
        (one_colour("1", 1), "PNG", (255, 255, 255)),
        (one_colour("1", 0), "TIFF", (0, 0, 0)),
        (one_colour("I;16", 65535), "PNG", (255, 255, 255)),
        (one_colour("I;16", 0x8080), "PNG", (128, 128, 128)),
        (one_colour("I;16", 0x8080), "TIFF", (128, 128, 128)),
        (one_colour("I;16B", 0x8080), "TIFF", (128, 128, 128)),
        (one_colour("I", 0x4040), "TIFF", (64, 64, 64)),
        (one_colour("I", -5), "TIFF", (0, 0, 0)),
        (one_colour("F", 0.5), "TIFF", (128, 128, 128)),
        (one_colour("F", float("nan")), "TIFF", (0, 0, 0)),
        (one_colour("CMYK", (0, 0, 0, 0)), "TIFF", (255, 255, 255)),
        (one_colour("CMYK", (255, 0, 0, 0)), "TIFF", (0, 255, 255)),
        (one_colour("CMYK", (0, 0, 0, 255)), "JPEG", (0, 0, 0)),
        (one_colour("YCbCr", (128, 128, 128)), "TIFF", (128, 128, 128)),
    ],
    ids=lambda value: f"{value.mode}" if isinstance(value, Image.Image) else str(value),
)
def test_every_mode_becomes_rgb(
    image: Image.Image, image_format: str, expected: tuple[int, int, int]
) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    picture = decode_image(encoded(image, image_format, **options))
    assert (picture.mode, picture.size) == ("RGB", image.size)
    assert np.abs(np.asarray(picture, int) - expected).max() <= 1


def test_lab_becomes_rgb() -> None:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(one_colour("RGB", (200, 100, 50)), to_lab)
    assert lab is not None
    picture = decode_image(encoded(lab, "TIFF"))
    assert np.abs(np.asarray(picture, int) - (200, 100, 50)).max() <= 6


def test_palette_with_and_without_transparency() -> None:
    palette = gradient().convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    plain = decode_image(encoded(palette, "PNG"))
    assert np.array_equal(np.asarray(plain), np.asarray(palette.convert("RGB")))

    index = palette.getpixel((0, 0))
    holed = np.asarray(decode_image(encoded(palette, "PNG", transparency=index)))
    hole = np.asarray(palette) == index
    assert (holed[hole] == 255).all()
    assert np.array_equal(holed[~hole], np.asarray(plain)[~hole])


@pytest.mark.parametrize(("mode", "key"), [("RGB", (9, 8, 7)), ("L", 9)])
def test_transparent_colour_of_a_png_without_alpha(mode: str, key: Any) -> None:
    picture = decode_image(encoded(one_colour(mode, key), "PNG", transparency=key))
    assert (np.asarray(picture) == 255).all()


def test_sixteen_bit_colour_png() -> None:
    samples = np.full((2, 3, 3), 0x80FF, dtype=">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    assert np.abs(np.asarray(decode_image(data), int) - 128).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, image_format: str) -> None:
    # Stored so that turning it by the tag gives the upright picture back.
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    upright = np.asarray(gradient())
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless_enough: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
    options = lossless_enough.get(image_format, {})
    picture = decode_image(encoded(stored, image_format, exif=exif, **options))
    assert picture.size == (24, 16)
    assert np.abs(np.asarray(picture, int) - upright).mean() < 4


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_leaves_the_picture_upright(block: bytes) -> None:
    assert decode_image(encoded(gradient(), "JPEG", exif=block)).size == (24, 16)


def test_animations_give_their_first_frame() -> None:
    frames = [one_colour("RGB", colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for image_format in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if image_format == "WEBP" else {}
        data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
        assert decode_image(data).getpixel((0, 0)) == (255, 0, 0), image_format


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "EMPTY"),
        (b"not an image at all", "UNKNOWN_FORMAT"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "UNKNOWN_FORMAT"),
        (b"%PDF-1.7", "UNKNOWN_FORMAT"),
        (png_header(30_000, 30_000), "TOO_MANY_PIXELS"),
        (png_header(2**31 - 1, 2**31 - 1), "TOO_MANY_PIXELS"),
        (png_header(9_500, 9_500), "TOO_MANY_PIXELS"),
        (png_header(20_001, 1), "TOO_MANY_PIXELS"),
        (png_header(0, 5), "CORRUPT"),
        (gif_header(65535, 65535), "TOO_MANY_PIXELS"),
        (gif_header(9_500, 9_500), "TOO_MANY_PIXELS"),
        (webp_header(b"VP8X", bytes(4) + b"\xff\x3f\0" * 2), "TOO_MANY_PIXELS"),
        (webp_header(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(8)), "TOO_MANY_PIXELS"),
        (webp_header(b"VP8 ", b"\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(8)), "TOO_MANY_PIXELS"),
        (b"\x89PNG\r\n\x1a\n", "TRUNCATED"),
        (b"\xff\xd8\xff", "TRUNCATED"),
        (b"GIF89a", "TRUNCATED"),
        (b"BM", "TRUNCATED"),
        (b"II*\0", "TRUNCATED"),
        (b"RIFF\x64\0\0\0WEBP", "TRUNCATED"),
        (png_header(20, 20), "TRUNCATED"),
    ],
    ids=lambda value: repr(value[:16]) if isinstance(value, bytes) else value,
)
def test_bad_bytes_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.reason == reason


def test_sizes_are_read_from_every_header() -> None:
    jpeg = bytearray(encoded(gradient(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", 65_000, 65_000)
    bmp = bytearray(encoded(gradient(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 30_000, 30_000)
    tiff = bytearray(encoded(gradient(), "TIFF"))
    for tag in (256, 257):  # ImageWidth, ImageLength
        entry = tiff.index(struct.pack("<H", tag), int.from_bytes(tiff[4:8], "little"))
        tiff[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, 30_000)
    for data in (jpeg, bmp, tiff):
        assert outcome(bytes(data)) == "TOO_MANY_PIXELS", data[:4]


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_files_say_so(image_format: str, kept: float) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), image_format)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: int(len(data) * kept)])
    assert caught.value.reason == "TRUNCATED"


def test_huge_header_allocates_nothing() -> None:
    data = png_header(30_000, 30_000)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"30000 x 30000|too large"):
            decode_image(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_limits_are_the_callers() -> None:
    data = encoded(gradient(), "PNG")
    for limits, reason in (
        (ImageLimits(max_bytes=len(data) - 1), "TOO_MANY_BYTES"),
        (ImageLimits(max_pixels=24 * 16 - 1), "TOO_MANY_PIXELS"),
        (ImageLimits(max_side=23), "TOO_MANY_PIXELS"),
    ):
        with pytest.raises(ImageError) as caught:
            decode_image(data, limits)
        assert caught.value.reason == reason
    assert decode_image(data, ImageLimits(max_bytes=len(data), max_pixels=24 * 16, max_side=24)).size == (
        24,
        16,
    )


def test_large_pictures_within_the_limits_do_not_warn() -> None:
    # PIL would warn above 89 million pixels; the limit here is the caller's.
    data = encoded(Image.new("1", (10_000, 9_000)), "PNG")
    limits = ImageLimits(max_pixels=100_000_000)
    assert decode_image(data, limits).size == (10_000, 9_000)


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("TRUNCATED", "cut off")))
    assert (error.reason, str(error)) == ("TRUNCATED", "cut off")


def test_threads_decode_side_by_side() -> None:
    good, bad = encoded(gradient(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), png_header(20, 20)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(outcome, [bad if number % 3 == 0 else good for number in range(60)]))
    assert results == ["TRUNCATED" if number % 3 == 0 else "RGB" for number in range(60)]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG"]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.integers(1, 2000),
)
def test_spoilt_bytes_give_a_picture_or_an_image_error(
    image_format: str, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(encoded(gradient(), image_format))
    for place, value in changes:
        data[place % len(data)] = value
    assert outcome(bytes(data[:length])) in {
        "RGB",
        "UNKNOWN_FORMAT",
        "TOO_MANY_PIXELS",
        "TRUNCATED",
        "CORRUPT",
    }


def outcome(data: bytes) -> str:
    try:
        return decode_image(data, ImageLimits(max_pixels=1_000_000)).mode
    except ImageError as error:
        return error.reason
