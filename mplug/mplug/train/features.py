"""A cache of what the frozen blocks of the image tower see: computed once, outside the tree, rebuilt when absent.

A picture has one plain view (number 0, as it is served) and, where its set allows, random crops, each drawn
from the picture's name and the view's number, so that a rebuilt cache is the same cache. The cache lies under
``$MPLUG_CACHE`` (default ``~/.cache/mplug-serve``) in a folder named by a hash of everything that makes it:
the frozen weights, depth, size, and the list of views. An interrupted build goes on where it stopped.
"""

import hashlib
import json
import math
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
from torch import Tensor

from mplug.image_encoder import ImageEncoder
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug.train.config import DataConfig
from mplug.train.data import CaptionedImage, Split

_BATCH = 64
_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop


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
    image = image.crop(_random_crop(chance, image.width, image.height, min_crop))
    if view.flip and chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return to_pixels(image, size)


def _random_crop(
    chance: random.Random, width: int, height: int, min_crop: float
) -> tuple[int, int, int, int]:
    area = width * height * chance.uniform(min_crop, 1.0)
    ratio = math.exp(chance.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
    w = min(width, max(1, round(math.sqrt(area * ratio))))
    h = min(height, max(1, round(math.sqrt(area / ratio))))
    left, top = chance.randint(0, width - w), chance.randint(0, height - h)
    return left, top, left + w, top + h


class FeatureCache:
    """Maps (C, h, w) of views, float16 on disk, read through memory mapping."""

    def __init__(self, features: NDArray[np.float16], views: Sequence[View]) -> None:
        self._features = features
        self._row = {(view.path, view.number): row for row, view in enumerate(views)}
        self._num_views: dict[str, int] = {}
        for view in views:
            self._num_views[view.path] = max(self._num_views.get(view.path, 0), view.number + 1)

    def num_views(self, path: str) -> int:
        """How many views of a picture there are."""
        return self._num_views[path]

    def read(self, keys: Sequence[tuple[str, int]]) -> Tensor:
        """Float32 (B, C, h, w) of (path, view number) pairs."""
        maps = np.stack([self._features[self._row[key]] for key in keys])
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
    target.mkdir(parents=True, exist_ok=True)
    size = encoder.preprocess.image_size
    shape = tuple(_stem(encoder, np.zeros((1, 3, size, size), np.uint8), depth).shape[1:])
    file, progress = target / "features.npy", target / "progress.json"
    done = json.loads(progress.read_text())["rows"] if progress.exists() and file.exists() else 0
    mode = "r+" if done else "w+"
    features = np.lib.format.open_memmap(file, mode, np.float16, (len(views), *shape))
    for start, pixels in _read_ahead(views, done, lambda v: view_pixels(folder, v, size, min_crop)):
        features[start : start + len(pixels)] = _stem(encoder, pixels, depth)
        if start % (20 * _BATCH) == 0 or start + _BATCH >= len(views):
            features.flush()
            _write_atomically(progress, json.dumps({"rows": start + len(pixels)}))
            print(f"image features: {start + len(pixels)} of {len(views)}", flush=True)
    return FeatureCache(features, views)


def _read_ahead(
    views: Sequence[View], start: int, read: Callable[[View], NDArray[np.uint8]]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Batches of pixels and where they begin; the next one is decoded while this one is used."""
    starts = range(start, len(views), _BATCH)
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(_stack, views[s : s + _BATCH], read) for s in starts[:1])
        for position, here in enumerate(starts):
            for after in starts[position + 1 : position + 2]:
                coming.append(pool.submit(_stack, views[after : after + _BATCH], read))
            yield here, coming.popleft().result()


def _stack(views: Sequence[View], read: Callable[[View], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack([read(view) for view in views])


def cache_root() -> Path:
    """``$MPLUG_CACHE``, or ``~/.cache/mplug-serve``."""
    return Path(os.environ.get("MPLUG_CACHE", Path.home() / ".cache" / "mplug-serve"))


def _stem(encoder: ImageEncoder, pixels: NDArray[np.uint8], depth: int) -> NDArray[np.float16]:
    with torch.inference_mode():
        return encoder.stem(torch.from_numpy(pixels), depth).to(torch.float16).numpy()


def _cache_key(views: list[View], encoder: ImageEncoder, depth: int, min_crop: float) -> str:
    digest = hashlib.sha256()
    precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
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
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
