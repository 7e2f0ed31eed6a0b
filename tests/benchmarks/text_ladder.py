"""What each step makes of writing four texts to one prompt: cache, texts together, bfloat16, int8."""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch

from benchmarks.page import table
from benchmarks.rounds import Timings, interleave
from benchmarks.text_contenders import (
    gpt3_without_cache,
    plug_like_the_reference,
    spread,
    write,
    write_plug,
)
from benchmarks.texts import BASE, Sizes
from mplug.freezing import freeze
from mplug.generation import GenerationConfig, generate
from mplug.gpt3 import Gpt3Decoder
from mplug.plug.config import BOS_ID
from mplug.plug.model import PlugModel
from mplug.quantization import quantize

TEXTS, TOKENS = 4, 32
RUNGS = ("the reference's way", "a cache", "texts of a prompt together", "bfloat16", "int8")
Rungs = Mapping[str, Callable[[], object]]


def measure(sizes: Sizes = BASE) -> str:
    """The section's text."""
    with torch.inference_mode():
        ladders = {
            f"GPT-3 {sizes.gpt3.name}": interleave(_gpt3(sizes), sizes.rounds),
            f"{sizes.plug.name}, width {sizes.plug.hidden}": interleave(_plug(sizes), sizes.rounds),
        }
    rows = [(name, *_steps(timings)) for name, timings in ladders.items()]
    return (
        f"{TEXTS} texts of {TOKENS} tokens to one prompt of {sizes.prompt} tokens (PLUG: a source of {sizes.source}), "
        f"random weights, {torch.get_num_threads()} threads. The reference's way reads the whole text again for every "
        "token, a text at a time, PLUG's source padded to 512. Each column is how many times faster than the one "
        "before it, the last than the first; bfloat16 and int8 both than float32. Ratio of minima (of medians) of "
        f"{sizes.rounds} interleaved rounds.\n\n"
        + table(("", *RUNGS[1:3], *(f"then {rung}" for rung in RUNGS[3:]), f"{RUNGS[-1]} ÷ {RUNGS[0]}"), rows)
    )


def _steps(timings: Timings) -> list[str]:
    pairs = [(1, 0), (2, 1), (3, 2), (4, 2), (4, 0)]
    return [str(timings.speedup(RUNGS[rung], RUNGS[below])) for rung, below in pairs]


def _drawn(rules: str) -> GenerationConfig:
    return GenerationConfig(
        method="sample",
        rules="gpt3" if rules == "gpt3" else "mplug",
        num_results=TEXTS,
        top_k=20,
        min_length=TOKENS,
        max_length=TOKENS,
    )


def _gpt3(sizes: Sizes) -> Rungs:
    decoder = Gpt3Decoder(sizes.gpt3).eval()
    spread(decoder)
    prompt = list(range(100, 100 + sizes.prompt))

    def together(model: Gpt3Decoder) -> object:
        return generate(model, lambda items: model.start(len(items)), [prompt], _drawn("gpt3"))

    plain = freeze(copy.deepcopy(decoder))
    models = [
        plain,
        freeze(copy.deepcopy(decoder).to(torch.bfloat16)),
        quantize(copy.deepcopy(decoder), torch.int8),
    ]
    return {
        RUNGS[0]: lambda: [gpt3_without_cache(decoder, prompt, TOKENS) for _ in range(TEXTS)],
        RUNGS[1]: lambda: [write(plain, prompt, TOKENS) for _ in range(TEXTS)],
        **{rung: partial(together, model) for rung, model in zip(RUNGS[2:], models, strict=True)},
    }


def _plug(sizes: Sizes) -> Rungs:
    model = PlugModel(sizes.plug).eval()
    spread(model)
    source = [101, *range(200, 198 + sizes.source), 102]

    def together(model: PlugModel) -> object:
        source_1N = torch.tensor([source])
        return generate(model.decoder, lambda _: model.start_decoding(source_1N), [[BOS_ID]], _drawn("mplug"))

    plain = freeze(copy.deepcopy(model))
    models = [
        plain,
        freeze(copy.deepcopy(model).to(torch.bfloat16)),
        quantize(copy.deepcopy(model), torch.int8),
    ]
    return {
        RUNGS[0]: lambda: [plug_like_the_reference(model, source, TOKENS) for _ in range(TEXTS)],
        RUNGS[1]: lambda: [write_plug(plain, source, TOKENS) for _ in range(TEXTS)],
        **{rung: partial(together, each) for rung, each in zip(RUNGS[2:], models, strict=True)},
    }
