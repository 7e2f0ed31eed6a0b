"""Captioning with mPLUG-base's shapes: against the reference's way, the least it could take, and BLIP of equal size."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.caption_contenders import (
    BEAMS,
    SIDE,
    beam_config,
    blip_captioner,
    decoder_matrices,
    like_the_reference,
    make_model,
    pass_over,
)
from benchmarks.page import table
from benchmarks.rounds import MIN_ROUNDS, Timings, interleave
from mplug.captioning import CaptionModel
from mplug.freezing import freeze

TOKENS = 16
REFERENCE, OURS, FLOOR = (
    "the reference's way",
    "caption",
    "tower + one pass over the decoder's weights a step",
)
DECODE, PASSES = "caption from stored image tokens", "the passes alone"
BLIP = "BLIP-base of transformers, with its cache"
BFLOAT16 = "caption in bfloat16"
COMPARED = 8
"""Pictures whose captions in bfloat16 are compared with those in float32."""
MIB = 2**20


def measure(rounds: int = MIN_ROUNDS, tokens: int = TOKENS) -> str:
    """The section's text."""
    timings, agreement = _times(rounds, tokens)
    rows = [
        (f"{OURS}: speed ÷ that of {REFERENCE}", "≥ 10", str(timings.speedup(OURS, REFERENCE))),
        (f"{OURS}: time ÷ that of {FLOOR}", "≤ 1.4", str(timings.speedup(FLOOR, OURS))),
        (f"{DECODE}: time ÷ that of {PASSES}", "", str(timings.speedup(PASSES, DECODE))),
        (f"{OURS}: speed ÷ that of {BLIP}", "≥ 1.4", str(timings.speedup(OURS, BLIP))),
        (f"{BFLOAT16}: speed ÷ that in float32", "≥ 1.4", str(timings.speedup(BFLOAT16, OURS))),
    ]
    return (
        f"mPLUG-base's shapes (ViT-B/16 at {SIDE}, 12-layer decoder of width 768), random weights, float32, one "
        f"picture, {BEAMS} beams, {tokens} tokens, {torch.get_num_threads()} threads; the model is frozen, as a "
        "server has it. The reference's way: no cache, the whole text read again at every step, five tiled beams, "
        "cross-attention's keys and values computed anew each time. A pass over the weights: one row times every "
        "matrix that a step needs, by `F.linear`; its tower is not frozen. Ratio of minima (of medians) of "
        f"{rounds} interleaved rounds; the reference's way gives the same ids.\n\n"
        + table(("", "wanted", "ratio"), rows)
        + f"\n\nIn bfloat16 ({_bfloat16_units()}) {agreement} of {COMPARED * tokens} token ids are those of float32 "
        f"({COMPARED} pictures, greedy; random weights have many near ties). {_memory(tokens)}"
    )


def _times(rounds: int, tokens: int) -> tuple[Timings, int]:
    """Timings, and how many ids bfloat16 has in common with float32."""
    plain, model, half = make_model(), freeze(make_model()), freeze(make_model().to(torch.bfloat16))
    config, pixels, blip = beam_config(model, tokens), _pixels(1), blip_captioner(tokens)
    with torch.inference_mode():
        image_tokens, matrices = model.encode_image(pixels), decoder_matrices(plain)
        ours = model.caption(pixels, config)[0][0].hypothesis.ids
        assert ours == like_the_reference(plain, pixels, tokens), "both ways give one caption"

        def floor() -> None:
            plain.encode_image(pixels)
            pass_over(matrices, tokens)

        timings = interleave(
            {
                REFERENCE: lambda: like_the_reference(plain, pixels, tokens),
                OURS: lambda: model.caption(pixels, config),
                FLOOR: floor,
                DECODE: lambda: model.caption(image_tokens, config),
                PASSES: lambda: pass_over(matrices, tokens),
                BLIP: blip,
                BFLOAT16: lambda: half.caption(pixels, config),
            },
            rounds,
        )
        return timings, _agreement(model, half, tokens)


def _agreement(model: CaptionModel, other: CaptionModel, tokens: int) -> int:
    """How many generated ids two models have in common, place by place."""
    config = model.generation_config(method="greedy", min_length=tokens, max_length=tokens)
    ours, theirs = (
        [
            number
            for texts in each.caption(_pixels(COMPARED), config)
            for number in texts[0].hypothesis.ids[1:]
        ]
        for each in (model, other)
    )
    return sum(one == two for one, two in zip(ours, theirs, strict=True))


def _pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def _bfloat16_units() -> str:
    units = {"avx512_bf16": "_is_avx512_bf16_supported", "amx": "_is_amx_tile_supported"}
    present = [name for name, door in units.items() if getattr(torch.cpu, door, lambda: False)()]
    return f"the processor has {', '.join(present)}" if present else "the processor has no unit for it"


def _memory(tokens: int) -> str:
    """Peaks of the contenders, each in a process of its own."""
    peaks = {}
    for name in (REFERENCE, OURS, BFLOAT16, BLIP):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peaks[name] = pool.submit(_peak, name, tokens).result()
    weights = 4 * make_model().num_parameters
    listed = ", ".join(f"{name} {peak / MIB:,.0f} MiB" for name, peak in peaks.items())
    return f"Most memory above the imports, the float32 weights' {weights / MIB:,.0f} MiB included: {listed}."


def _peak(name: str, tokens: int) -> int:
    """Most bytes that one contender holds, from the building of its model on."""
    before = _resident("VmRSS")
    run = _contender(name, tokens)
    with torch.inference_mode():
        run()
    return _resident("VmHWM") - before


def _contender(name: str, tokens: int) -> Callable[[], object]:
    if name == BLIP:
        return blip_captioner(tokens)
    if name == REFERENCE:
        plain = make_model()
        return lambda: like_the_reference(plain, _pixels(1), tokens)
    dtype = torch.bfloat16 if name == BFLOAT16 else torch.float32
    model = freeze(make_model().to(dtype))
    return lambda: model.caption(_pixels(1), beam_config(model, tokens))


def _resident(field: str) -> int:
    """Bytes of this process, as Linux counts them: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
