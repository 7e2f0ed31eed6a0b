"""mPLUG-base's shapes with random weights, a caption and a reranking, with cross-attention in each form."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mplug.captioning import CaptionModel
from mplug.config import (
    FusionEncoderConfig,
    ImageEncoderConfig,
    MplugConfig,
    TextDecoderConfig,
    TextEncoderConfig,
)
from mplug.itm_scoring import ItmScorer
from mplug.preprocess import PreprocessConfig
from mplug.reranking import RerankModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug_kernels.dispatch import forcing
from mplug_kernels.rates import Rates
from mplug_kernels.variants import Variant

TEXT_TOKENS, CANDIDATES, CAPTION_TOKENS, BEAMS, PICTURES = 12, 64, 16, 5, 8
ROUNDS = 5

Record = dict[str, Any]

# Rates under which one form is always the cheapest.
PROJECTING = Rates(
    project_flops=1e18, attend_flops=1e18, absorb_flops=1e6, bytes_per_second=1e18, call_seconds=1e-12
)
ABSORBING = Rates(
    project_flops=1e9, attend_flops=1e18, absorb_flops=1e18, bytes_per_second=1e18, call_seconds=1e-12
)
FORMS: dict[str, tuple[Rates, tuple[Variant, ...]]] = {
    "torch, projecting": (PROJECTING, ()),
    "kv": (PROJECTING, (Variant.KV,)),
    "torch, absorbing": (ABSORBING, ()),
    "absorbed_two": (ABSORBING, (Variant.ABSORBED_TWO,)),
    "absorbed_one": (ABSORBING, (Variant.ABSORBED_ONE,)),
}
"""Rates that bring a form about, and the kernels that are to compute it."""


def rerank(device: torch.device, *, tiny: bool) -> Record:
    """Candidates scored from stored image tokens; probabilities of the forms must agree."""
    model = _rerank_model(tiny=tiny).to(device, _dtype(device))
    count, width = 3 if tiny else CANDIDATES, model.config.image_encoder.width
    images = torch.randn(count, _visual_tokens(tiny=tiny), width, device=device).to(model.dtype)
    ids_1L = torch.tensor([[101, *range(5, 3 + TEXT_TOKENS), 102]], device=device)
    scores: dict[str, Tensor] = {}
    seconds = {}
    for form, (machine, kernels) in FORMS.items():
        scorer = ItmScorer(model, machine=machine)
        with forcing(*kernels):
            scores[form] = scorer.score(ids_1L, images)
            seconds[form] = _median(partial(scorer.score, ids_1L, images), device)
    first, *others = scores.values()
    difference = max(float((other - first).abs().amax()) for other in others)
    return {
        "seconds_by_form": seconds,
        "candidates": count,
        "largest_difference": difference,
        "passed": difference < 0.02,
        "summary": _summary(seconds, f"{count} candidates, probabilities differ by {difference:.1e} at most"),
    }


def caption(device: torch.device, *, tiny: bool) -> Record:
    """Pictures to texts: tower, then beam search, cross-attention by torch and by the kernel."""
    model = _caption_model(tiny=tiny).to(device, _dtype(device))
    side = model.config.preprocess.image_size
    tokens = 4 if tiny else CAPTION_TOKENS
    settings = model.generation_config(beam_size=BEAMS, min_length=tokens, max_length=tokens)
    seconds = {}
    for count in (1, 2 if tiny else PICTURES):
        pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device)
        for name, kernels in (("torch", ()), ("kv", (Variant.KV,))):
            with forcing(*kernels):
                seconds[f"{count} pictures, {name}"] = _median(
                    partial(model.caption, pixels, settings), device
                )
    return {
        "seconds_by_form": seconds,
        "beams": BEAMS,
        "tokens": tokens,
        "summary": _summary(seconds, f"{BEAMS} beams, {tokens} tokens"),
    }


def _median(run: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _summary(seconds: dict[str, float], text: str) -> str:
    return ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items()) + f"; {text}"


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _visual_tokens(*, tiny: bool) -> int:
    return 1 + (_side(tiny=tiny) // 16) ** 2


def _side(*, tiny: bool) -> int:
    return 64 if tiny else 384


def _caption_model(*, tiny: bool) -> CaptionModel:
    width, heads, layers, vocabulary = (64, 1, 1, 200) if tiny else (768, 12, 12, 30522)
    decoder = TextDecoderConfig(
        vocab_size=vocabulary, hidden=width, layers=layers, heads=heads, ffn=4 * width, memory_width=width
    )
    config = _config(width, heads, layers, vocabulary, tiny=tiny, text_decoder=decoder)
    torch.manual_seed(0)
    model = CaptionModel(config, _tokenizer(vocabulary)).eval()
    # Larger than at the start of training, so that no two beams are as good as each other.
    for parameter in model.text_decoder.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.05)
    return model


def _rerank_model(*, tiny: bool) -> RerankModel:
    width, heads, layers, vocabulary = (64, 1, 1, 200) if tiny else (768, 12, 12, 30522)
    fusion = FusionEncoderConfig(
        hidden=width, layers=6, stride_layer=6, heads=heads, ffn=4 * width, memory_width=width
    )
    config = _config(width, heads, layers, vocabulary, tiny=tiny, fusion_encoder=fusion)
    torch.manual_seed(0)
    return RerankModel(config, _tokenizer(vocabulary)).eval()


def _config(
    width: int, heads: int, layers: int, vocabulary: int, *, tiny: bool, **modules: Any
) -> MplugConfig:
    side = _side(tiny=tiny)
    options = {"img_size": side, "embed_dim": width, "depth": layers, "num_heads": heads}
    return MplugConfig(
        name="mPLUG-base shapes",
        image_encoder=ImageEncoderConfig(
            backbone="timm:vit_base_patch16_clip_quickgelu_224", backbone_options=options, width=width
        ),
        text_encoder=TextEncoderConfig(
            vocab_size=vocabulary, hidden=width, layers=min(6, layers), heads=heads, ffn=4 * width
        ),
        preprocess=PreprocessConfig(image_size=side),
        **modules,
    )


def _tokenizer(vocabulary: int) -> WordPieceTokenizer:
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]"}
    vocab = [special.get(number, f"piece{number}") for number in range(vocabulary)]
    return WordPieceTokenizer(vocab, max_length=25)
