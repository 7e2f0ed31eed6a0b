"""What a larger picture costs: time and memory of the vision tower and of a caption, by visual length."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import measure_memory
from benchmarks.page import table
from benchmarks.rounds import Timings, interleave
from golden.mplug_cases import small_vocab
from mplug.captioning import CaptionModel
from mplug.config import ImageEncoderConfig, MplugConfig, TextDecoderConfig, TextEncoderConfig
from mplug.freezing import freeze
from mplug.image_encoder import ImageEncoder
from mplug.preprocess import PreprocessConfig
from mplug.text.tokenizer import WordPieceTokenizer

TOWER, DECODE, CAPTION = "tower", "decoding", "caption"
PATCH = 16
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured: mPLUG-base's shapes, random weights; times are divided by those at the first size."""

    pixels: tuple[int, ...] = (256, 384, 512, 576, 768)
    width: int = 768
    heads: int = 12
    ffn: int = 3072
    layers: int = 12
    """Of the tower, and of the decoder."""
    vocabulary: int = 30522
    tokens: int = 16
    rounds: int = 5


BASE = Sizes()
SMALL = Sizes(pixels=(64, 128), width=64, heads=1, ffn=128, layers=1, vocabulary=130, tokens=3, rounds=1)


def measure(sizes: Sizes = BASE) -> str:
    """The section's text."""
    torch.manual_seed(0)
    model = freeze(_caption_model(sizes))
    towers = {side: freeze(_tower(sizes, side)) for side in sizes.pixels}
    runs = _runs(sizes, model, towers)
    with torch.inference_mode():
        timings = _with_captions(sizes, interleave(runs, sizes.rounds))
    peaks = {name: measure_memory(run).peak / MIB for name, run in runs.items()}
    rows = [_row(sizes, side, timings, peaks) for side in sizes.pixels]
    first = sizes.pixels[0]
    return (
        f"mPLUG-base's shapes (ViT-B/{PATCH}, {sizes.layers}-layer decoder of width {sizes.width}), random weights, "
        f"float32, CPU, frozen, one picture, greedy, {sizes.tokens} tokens, {torch.get_num_threads()} threads. Time ÷ "
        f"of that at {first} px: ratio of minima (of medians) of {sizes.rounds} interleaved rounds; a caption is the "
        "tower and decoding, timed apart and added. Peak: most that torch's allocator holds at once above the weights "
        "(torch.profiler; oneDNN's own buffers are not in it).\n\n"
        + table(
            (
                "picture, px",
                "visual tokens",
                f"÷ those at {first}",
                f"tower: time ÷ at {first}",
                f"caption: time ÷ at {first}",
                "tower: peak, MiB",
                "decoding: peak, MiB",
            ),
            rows,
        )
    )


def _row(sizes: Sizes, side: int, timings: Timings, peaks: dict[str, float]) -> tuple[str, ...]:
    first = sizes.pixels[0]
    ratios = [str(timings.speedup(_name(part, first), _name(part, side))) for part in (TOWER, CAPTION)]
    growth = f"{_visual_tokens(side) / _visual_tokens(first):.2f}"
    memory = [f"{peaks[_name(part, side)]:.1f}" for part in (TOWER, DECODE)]
    return f"{side}", f"{_visual_tokens(side)}", growth, *ratios, *memory


def _runs(
    sizes: Sizes, model: CaptionModel, towers: dict[int, ImageEncoder]
) -> dict[str, Callable[[], object]]:
    """Both halves of a caption at every size; decoding starts from image tokens."""
    config = model.generation_config(method="greedy", min_length=sizes.tokens, max_length=sizes.tokens)

    def tower(side: int) -> Callable[[], Tensor]:
        pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
        return lambda: towers[side](pixels)

    def decode(side: int) -> Callable[[], object]:
        image_tokens = torch.randn(1, _visual_tokens(side), sizes.width)
        return lambda: model.caption(image_tokens, config)

    makers = ((TOWER, tower), (DECODE, decode))
    return {_name(part, side): make(side) for side in sizes.pixels for part, make in makers}


def _with_captions(sizes: Sizes, timings: Timings) -> Timings:
    seconds = dict(timings.seconds)
    for side in sizes.pixels:
        halves = zip(seconds[_name(TOWER, side)], seconds[_name(DECODE, side)], strict=True)
        seconds[_name(CAPTION, side)] = [sum(pair) for pair in halves]
    return Timings(seconds)


def _name(part: str, side: int) -> str:
    return f"{part} at {side}"


def _visual_tokens(side: int) -> int:
    return 1 + (side // PATCH) ** 2


def _tower(sizes: Sizes, side: int) -> ImageEncoder:
    return ImageEncoder(_image_encoder(sizes, side), PreprocessConfig(image_size=side))


def _image_encoder(sizes: Sizes, side: int) -> ImageEncoderConfig:
    return ImageEncoderConfig(
        backbone=f"timm:vit_base_patch{PATCH}_clip_quickgelu_224",
        backbone_options={
            "img_size": side,
            "embed_dim": sizes.width,
            "depth": sizes.layers,
            "num_heads": sizes.heads,
        },
        width=sizes.width,
    )


def _caption_model(sizes: Sizes) -> CaptionModel:
    first = sizes.pixels[0]
    shape: dict[str, Any] = {
        "hidden": sizes.width,
        "heads": sizes.heads,
        "ffn": sizes.ffn,
        "vocab_size": sizes.vocabulary,
    }
    config = MplugConfig(
        name="benchmark",
        image_encoder=_image_encoder(sizes, first),
        text_encoder=TextEncoderConfig(layers=1, **shape),
        text_decoder=TextDecoderConfig(layers=sizes.layers, memory_width=sizes.width, **shape),
        preprocess=PreprocessConfig(image_size=first),
    )
    return CaptionModel(config, WordPieceTokenizer(small_vocab(sizes.vocabulary), max_length=25))
