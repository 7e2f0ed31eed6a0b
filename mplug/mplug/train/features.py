"""A cache of what the frozen blocks of the image tower see: computed once, outside the tree, rebuilt when absent.

A picture has one plain view (number 0, as it is served) and, where its set allows, random crops, each drawn
from the picture's name and the view's number, so that a rebuilt cache is the same cache. The cache lies under
``$MPLUG_CACHE`` (default ``~/.cache/mplug-serve``) in a folder named by a hash of everything that makes it:
the frozen weights, depth, size, and the list of views. An interrupted build goes on where it stopped.
"""

import hashlib
import json
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mplug.image_encoder import ImageEncoder
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug.train.augment import crop_box
from mplug.train.config import DataConfig
from mplug.train.data import CaptionedImage, Split

_BATCH = 64


@dataclass(frozen=True, slots=True)
class View:
    """One view of one picture."""

    path: str
    number: int
    flip: bool


def list_views(images: Iterable[CaptionedImage], config: DataConfig) -> list[View]:
    """The plain view of every picture, and the crops of those that are trained on."""
    views = []
    for image in images:
        crops = (
            config.num_views - 1 if image.split == Split.TRAIN and image.set_name in config.crop_sets else 0
        )
        views += [View(image.path, number, image.set_name in config.flip_sets) for number in range(crops + 1)]
    return views


def view_pixels(folder: Path, view: View, size: int, min_crop: float) -> NDArray[np.uint8]:
    """Reads a picture and renders one view of it: uint8 (3, size, size)."""
    image = decode_image((folder / view.path).read_bytes())
    if view.number == 0:
        return to_pixels(image, size)
    chance = random.Random(f"{view.path} {view.number}")
    image = image.crop(crop_box(chance, image.width, image.height, min_crop))
    if view.flip and chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return to_pixels(image, size)


class RowsOfViews:
    """A row of numbers for each view, float16 on disk, read through memory mapping."""

    def __init__(self, rows: NDArray[np.float16], views: Sequence[View]) -> None:
        self._rows = rows
        self._row = {(view.path, view.number): row for row, view in enumerate(views)}
        self._num_views: dict[str, int] = {}
        for view in views:
            self._num_views[view.path] = max(self._num_views.get(view.path, 0), view.number + 1)

    def num_views(self, path: str) -> int:
        """How many views of a picture there are."""
        return self._num_views[path]

    def row(self, key: tuple[str, int]) -> NDArray[np.float16]:
        """What is stored of a (path, view number) pair."""
        row: NDArray[np.float16] = self._rows[self._row[key]]
        return row


class FeatureCache(RowsOfViews):
    """Maps (C, h, w) of views."""

    def read(self, keys: Sequence[tuple[str, int]]) -> Tensor:
        """Float32 (B, C, h, w) of (path, view number) pairs, on the processor."""
        maps = np.stack([self.row(key) for key in keys])
        return torch.from_numpy(maps).float().contiguous(memory_format=torch.channels_last)


def open_cache(
    folder: Path, views: list[View], encoder: ImageEncoder, depth: int, min_crop: float
) -> FeatureCache:
    """Opens the cache of these views, building what is missing of it.

    Args:
        folder: The data folder the views' paths are relative to.
        views: From `list_views`.
        encoder: Its first `depth` blocks are applied, under the autocast in force.
        depth: Number of frozen blocks.
        min_crop: Smallest crop, as a share of the picture.
    """
    target = cache_root() / "features" / _cache_key(views, encoder, depth, min_crop)
    size = encoder.preprocess.image_size
    features = fill_rows(
        target,
        views,
        lambda view: view_pixels(folder, view, size, min_crop),
        lambda pixels: _stem(encoder, pixels, depth),
    )
    return FeatureCache(features, views)


def fill_rows(
    target: Path,
    views: Sequence[View],
    read: Callable[[View], NDArray[np.uint8]],
    make: Callable[[NDArray[np.uint8]], NDArray[np.float16]],
) -> NDArray[np.float16]:
    """Opens the file of a cache, making the rows that it lacks: an interrupted build goes on where it stopped.

    Args:
        target: Folder of this cache and no other.
        views: A row each.
        read: A view's pixels, uint8 (3, R, R).
        make: From pixels (B, 3, R, R) to rows.
    """
    target.mkdir(parents=True, exist_ok=True)
    file, progress = target / "features.npy", target / "progress.json"
    done = json.loads(progress.read_text())["rows"] if progress.exists() and file.exists() else 0
    if done:
        rows = np.lib.format.open_memmap(file, "r+")
    else:
        shape = make(read(views[0])[None]).shape[1:]
        rows = np.lib.format.open_memmap(file, "w+", np.float16, (len(views), *shape))
    for start, pixels in _read_ahead(views, done, read):
        rows[start : start + len(pixels)] = make(pixels)
        if start % (20 * _BATCH) == 0 or start + _BATCH >= len(views):
            rows.flush()
            _write_atomically(progress, json.dumps({"rows": start + len(pixels)}))
            print(f"image features: {start + len(pixels)} of {len(views)}", flush=True)
    return rows


def _read_ahead(
    views: Sequence[View], start: int, read: Callable[[View], NDArray[np.uint8]]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Batches of pixels and where they begin; the next ones are decoded while this one is used."""
    starts = range(start, len(views), _BATCH)
    ahead = max(1, (os.cpu_count() or 1) // 2)
    with ThreadPoolExecutor(ahead) as pool:
        coming = deque(pool.submit(_stack, views[s : s + _BATCH], read) for s in starts[:ahead])
        for position, here in enumerate(starts):
            for after in starts[position + ahead : position + ahead + 1]:
                coming.append(pool.submit(_stack, views[after : after + _BATCH], read))
            yield here, coming.popleft().result()


def _stack(views: Sequence[View], read: Callable[[View], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack([read(view) for view in views])


def cache_root() -> Path:
    """``$MPLUG_CACHE``, or ``~/.cache/mplug-serve``."""
    return Path(os.environ.get("MPLUG_CACHE", Path.home() / ".cache" / "mplug-serve"))


def _stem(encoder: ImageEncoder, pixels: NDArray[np.uint8], depth: int) -> NDArray[np.float16]:
    with torch.inference_mode():
        maps = encoder.stem(torch.from_numpy(pixels).to(device_of(encoder)), depth)
    return maps.to(torch.float16).cpu().numpy()


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next(module.parameters()).device


def _cache_key(views: list[View], encoder: ImageEncoder, depth: int, min_crop: float) -> str:
    digest = hashlib.sha256()
    kind = device_of(encoder).type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    digest.update(f"{encoder.preprocess} {depth} {min_crop} {encoder.config.backbone} {precision}".encode())
    for view in views:
        digest.update(f"{view.path} {view.number} {view.flip}\n".encode())
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        if f"blocks.{depth}" <= name.removeprefix("tower.") and name.removeprefix("tower.").startswith(
            "blocks."
        ):
            continue  # trained, not cached
        if name.removeprefix("tower.").startswith(("conv_head", "bn2")):
            continue
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
