"""Hostile bytes to an RGB picture.

The format is told by the first bytes, never by a name. Bytes, side and pixels are capped from the header,
before anything is allocated. Only the first frame is decoded. Every colour mode becomes RGB in one fixed way:

* transparency is laid over white;
* 16-bit samples are scaled to 8 (65535 -> 255); 32-bit integers are read as 16-bit, floats as 0..1, clipped;
* CMYK and YCCK by PIL's plain conversion, without colour profiles;
* the EXIF orientation (1 to 8) is applied.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mplug.errors import ImageError

FORMATS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}
ORIENTATION_TAG = 0x0112
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# PIL warns about odd metadata, and warning filters belong to the whole process: one header at a time.
_header_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """What is refused before decoding."""

    max_bytes: int = 20 * 2**20
    """Largest file, in bytes."""
    max_pixels: int = 50_000_000
    """Largest width x height."""
    max_side: int = 20_000
    """Largest width or height, in pixels."""


DEFAULT_LIMITS = ImageLimits()


def decode_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode the first frame of a JPEG, PNG, GIF, WebP, BMP or TIFF file.

    Args:
        data: the file's bytes.
        limits: checked from the header, before decoding.

    Returns:
        Picture in mode RGB, upright.

    Raises:
        ImageError: its `.reason` tells which: empty, unknown, too large, truncated or corrupt.
    """
    if not data:
        raise ImageError("EMPTY", "the image has 0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageError(
            "TOO_MANY_BYTES", f"the image has {len(data)} bytes; at most {limits.max_bytes} are accepted"
        )
    image_format = sniff_format(data)
    if image_format is None:
        raise ImageError("UNKNOWN_FORMAT", f"these bytes are not an image; known are {', '.join(FORMATS)}")
    if image_format == "WebP" and (size := _webp_size(data)):
        # PIL's WebP reader allocates the canvas when it opens the file.
        _check_size(size, limits)
    image, orientation = _open(data, image_format)
    _check_size(image.size, limits)
    try:
        image.load()
        picture = _to_rgb(image)
    except Exception as error:
        # Decoders fail on hostile bytes with whatever comes: struct.error, IndexError, OSError, ...
        raise _broken(data, image_format, error) from error
    transpose = TRANSPOSES.get(orientation)
    return picture if transpose is None else picture.transpose(transpose)


def sniff_format(data: bytes) -> str | None:
    """Tell the format by the file's first bytes; None = none of `FORMATS`."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    for magic, name in (
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
        (b"II*\x00", "TIFF"),
        (b"MM\x00*", "TIFF"),
    ):
        if data.startswith(magic):
            return name
    return None


def _open(data: bytes, image_format: str) -> tuple[ImageFile, int]:
    """Read the header alone, and the EXIF orientation."""
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # The class itself, not Image.open: that warns by a limit of the whole process.
            image = FORMATS[image_format](io.BytesIO(data))
        except Image.DecompressionBombError as error:
            raise ImageError(
                "TOO_MANY_PIXELS", f"the {image_format} is too large to decode: {error}"
            ) from error
        except Exception as error:
            raise _broken(data, image_format, error) from error
        return image, _orientation(image)


def _orientation(image: ImageFile) -> int:
    if isinstance(image, TiffImageFile):
        return 1  # PIL turns TIFFs itself
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:
        # A broken EXIF block is no reason to refuse a good picture; readers take it for upright.
        return 1


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError("CORRUPT", f"the image is {width} x {height} pixels")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise ImageError(
            "TOO_MANY_PIXELS",
            f"the image is {width} x {height} pixels; at most {limits.max_pixels} pixels and "
            f"{limits.max_side} on a side are accepted: send a smaller one",
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((samples * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        samples = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return Image.fromarray(((samples * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        unit = np.nan_to_num(np.asarray(image)).clip(0, 1)
        return Image.fromarray((unit * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Canvas size from the first chunk of a WebP file; None where it is cut off."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _broken(data: bytes, image_format: str, error: Exception) -> ImageError:
    if isinstance(error, EOFError) or "truncated" in str(error).lower() or _is_cut(data, image_format):
        return ImageError(
            "TRUNCATED", f"the {image_format} ends before its picture does: send the whole file"
        )
    if isinstance(error, UnidentifiedImageError | SyntaxError):
        return ImageError("CORRUPT", f"the {image_format} has a broken header")
    return ImageError("CORRUPT", f"the {image_format} cannot be decoded")


def _is_cut(data: bytes, image_format: str) -> bool:
    """Whether the end that the format promises is missing."""
    match image_format:
        case "JPEG":
            return b"\xff\xd9" not in data[-64:]
        case "PNG":
            return b"IEND" not in data[-64:]
        case "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        case "WebP":
            return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "BMP":
            return len(data) < 14 or int.from_bytes(data[2:6], "little") > len(data)
        case _:
            return len(data) < 8 or int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") >= len(
                data
            )
