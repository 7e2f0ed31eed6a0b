"""Candidates reranked from stored image_tokens, against the fusion encoder run plainly, and against no store at all."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.page import table
from benchmarks.rounds import Timings, interleave
from golden.mplug_cases import small_vocab
from mplug.config import FusionEncoderConfig, ImageEncoderConfig, MplugConfig, TextEncoderConfig
from mplug.freezing import freeze
from mplug.itm_scoring import ItmScorer
from mplug.preprocess import PreprocessConfig
from mplug.reranking import RerankModel
from mplug.text.tokenizer import WordPieceTokenizer

OURS, PLAIN, PLAIN_SMALL, PIPELINE = "ours", "plain, one batch", "plain, batches of 8", "pair at a time"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured: mPLUG-base's shapes at 384 pixels, random weights."""

    candidates: int = 64
    text_tokens: int = 12
    width: int = 768
    heads: int = 12
    ffn: int = 3072
    image_size: int = 384
    tower_layers: int = 12
    pairs: int = 2
    """The pipeline is run on so many pairs, and its time multiplied: it is far too slow for all of them."""
    rounds: int = 15


BASE = Sizes()
SMALL = Sizes(candidates=6, width=64, heads=1, ffn=128, image_size=64, tower_layers=1, rounds=1)


def measure(sizes: Sizes = BASE) -> str:
    """The section's text."""
    rows = [_row(sizes, stride) for stride in (3, 6)]
    return (
        f"mPLUG-base's shapes (ViT-B/16 at {sizes.image_size} px, fusion of 6 layers, width {sizes.width}; random "
        f"weights), float32, CPU, {torch.get_num_threads()} threads: {sizes.candidates} candidates from stored "
        f"image_tokens, a text of {sizes.text_tokens} tokens, not padded. `ItmScorer`'s speed (the model frozen, as a "
        "server has it; the others plain) ÷ of the column: "
        f"ratio of minima (of medians) of {sizes.rounds} interleaved rounds. Plainly = `FusionEncoder` and head, the "
        "text's states computed once; its batches of 8 spare it the page faults of large tensors. Bound = arithmetic "
        "of the plain way ÷ of ours. The pipeline has no stored tokens: vision tower, text and fusion for every pair "
        f"({sizes.pairs} pairs run, times multiplied).\n\n"
        + table(
            (
                "stride",
                "÷ plainly, one batch",
                "÷ plainly, batches of 8",
                "bound",
                "÷ pair at a time, vision tower included",
            ),
            rows,
        )
    )


def _row(sizes: Sizes, stride: int) -> tuple[str, ...]:
    model, ids = _model(sizes, stride), _ids(sizes)
    count, tokens = sizes.candidates, 1 + (sizes.image_size // 16) ** 2
    images = torch.randn(count, tokens, sizes.width)
    pixels = torch.randint(0, 256, (sizes.pairs, 3, sizes.image_size, sizes.image_size), dtype=torch.uint8)
    scorer = ItmScorer(freeze(_model(sizes, stride)))
    contenders: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: scorer.score(ids, images),
        PLAIN: lambda: _plain(model, ids, images, batch=count),
        PLAIN_SMALL: lambda: _plain(model, ids, images, batch=8),
        PIPELINE: lambda: _pipeline(model, ids, pixels),
    }
    assert torch.allclose(contenders[OURS](), contenders[PLAIN](), atol=1e-5)
    timings = interleave(contenders, sizes.rounds)
    seconds = dict(timings.seconds)
    seconds[PIPELINE] = [value * count / sizes.pairs for value in seconds[PIPELINE]]
    speedup = functools.partial(Timings(seconds).speedup, OURS)
    measured = {name: str(speedup(name)) for name in (PLAIN, PLAIN_SMALL, PIPELINE)}
    bound = f"{_bound(model, ids, images, scorer):.2f}"
    return str(stride), measured[PLAIN], measured[PLAIN_SMALL], bound, measured[PIPELINE]


@torch.inference_mode()
def _plain(model: RerankModel, ids_1L: Tensor, images: Tensor, *, batch: int) -> Tensor:
    text_1LD = model.encode_text(ids_1L, ids_1L != 0)
    return torch.cat(
        [_match(model, text_1LD, image_BND, ids_1L != 0) for image_BND in torch.split(images, batch)]
    )


@torch.inference_mode()
def _pipeline(model: RerankModel, ids_1L: Tensor, pixels: Tensor) -> Tensor:
    return torch.cat(
        [model.itm_scores(model.encode_image(picture[None]), ids_1L, ids_1L != 0) for picture in pixels]
    )


def _match(model: RerankModel, text_1LD: Tensor, image_BND: Tensor, mask_1L: Tensor) -> Tensor:
    count = len(image_BND)
    _, fused_BLD = model.fusion_encoder(
        image_BND, text_1LD.expand(count, -1, -1), text_mask_BL=mask_1L.expand(count, -1)
    )
    logits_B2: Tensor = model.itm_head(fused_BLD[:, 0])
    return logits_B2.softmax(-1)[:, 1]


@torch.inference_mode()
def _bound(model: RerankModel, ids_1L: Tensor, images: Tensor, scorer: ItmScorer) -> float:
    """Plain arithmetic ÷ ours, counted on tensors without storage, the encoding of the text in both."""
    model = model.to("meta")
    ids_1L, images = ids_1L.to("meta"), images.to("meta")
    lean = ItmScorer(model, machine=scorer.rates)
    with FlopCounterMode(display=False) as plain:
        text_1LD = model.encode_text(ids_1L, ids_1L != 0)
        _match(model, text_1LD, images, ids_1L != 0)
    with FlopCounterMode(display=False) as ours:
        lean.score_chunk(lean.prepare_text(ids_1L), lean.prepare_images(images))
    return float(plain.get_total_flops()) / float(ours.get_total_flops())


def _ids(sizes: Sizes) -> Tensor:
    return torch.tensor([[101, *range(5, 3 + sizes.text_tokens), 102]])


def _model(sizes: Sizes, stride: int) -> RerankModel:
    torch.manual_seed(0)
    config = MplugConfig(
        name="benchmark",
        image_encoder=ImageEncoderConfig(
            backbone="timm:vit_base_patch16_clip_quickgelu_224",
            backbone_options={
                "img_size": sizes.image_size,
                "embed_dim": sizes.width,
                "depth": sizes.tower_layers,
                "num_heads": sizes.heads,
            },
            width=sizes.width,
        ),
        text_encoder=TextEncoderConfig(
            vocab_size=130, hidden=sizes.width, layers=6, heads=sizes.heads, ffn=sizes.ffn, positions=40
        ),
        fusion_encoder=FusionEncoderConfig(
            hidden=sizes.width,
            layers=6,
            stride_layer=stride,
            heads=sizes.heads,
            ffn=sizes.ffn,
            memory_width=sizes.width,
        ),
        preprocess=PreprocessConfig(image_size=sizes.image_size),
    )
    return RerankModel(config, WordPieceTokenizer(small_vocab(130), max_length=25)).eval()
