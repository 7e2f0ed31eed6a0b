"""Writing with GPT-3, PLUG and PALM: against transformers, the references' own loops, and what memory allows."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.page import table
from benchmarks.rounds import MIN_ROUNDS, Timings, interleave
from benchmarks.text_contenders import (
    READ_BYTES,
    gpt2,
    gpt2_writer,
    gpt3_without_cache,
    palm_like_the_reference,
    plug_like_the_reference,
    read_memory,
    spread,
    write,
    write_plug,
)
from mplug.config import TextEncoderConfig
from mplug.freezing import freeze
from mplug.generation import GenerationConfig, generate
from mplug.gpt3 import SIZES, Gpt3Config, Gpt3Decoder
from mplug.palm.config import PalmConfig, PalmDecoderConfig
from mplug.palm.model import PalmModel
from mplug.plug.config import PlugConfig
from mplug.plug.model import PlugModel
from mplug.quantization import QUANTIZED_NAMES, quantize

GPT2, CACHE, READ = "transformers' GPT-2", "ours", "read"
BFLOAT16, INT8 = "bfloat16", "int8"
REFERENCE = "the reference's loop"


PLUG = PlugConfig(
    name="PLUG-shaped", hidden=512, layers=4, decoder_layers=6, heads=8, ffn=2048, positions=512
)
PALM = PalmConfig(
    name="PALM-base",
    kind="zh_bert",
    encoder=TextEncoderConfig(vocab_size=21128, hidden=768, layers=12, heads=12, ffn=3072),
    decoder=PalmDecoderConfig(bos_id=101, eos_id=102, pad_id=0),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured; random weights."""

    gpt3: Gpt3Config = SIZES["base"]
    plug: PlugConfig = PLUG
    palm: PalmConfig = PALM
    tokens: int = 64
    plug_tokens: int = 128
    """As many as the reference's pipeline writes."""
    prompt: int = 16
    source: int = 64
    beams: int = 5
    rounds: int = MIN_ROUNDS


BASE = Sizes()


def measure(sizes: Sizes = BASE) -> str:
    """The section's text."""
    with torch.inference_mode():
        rows = [*_gpt3_rows(sizes), *_plug_rows(sizes), *_palm_rows(sizes)]
    return (
        f"Random weights, one text at a time, {torch.get_num_threads()} threads; ours is frozen, as a server has it, "
        "and writes the same ids as what it is measured against. Speed ÷ that of the other, ratio of minima (of "
        f"medians) of {sizes.rounds} interleaved rounds.\n\n" + table(("", "wanted", "ratio"), rows)
    )


def _gpt3_rows(sizes: Sizes) -> list[tuple[str, str, str]]:
    decoder = Gpt3Decoder(sizes.gpt3).eval()
    spread(decoder)
    theirs = gpt2(decoder, sizes.gpt3)
    ours = freeze(copy.deepcopy(decoder))
    smaller = {
        BFLOAT16: freeze(copy.deepcopy(decoder).to(torch.bfloat16)),
        **{name: quantize(copy.deepcopy(decoder), kind) for name, kind in QUANTIZED_NAMES.items()},
    }
    prompt, tokens = list(range(100, 100 + sizes.prompt)), sizes.tokens
    gpt2_write = gpt2_writer(theirs, prompt, tokens)
    ids = write(ours, prompt, tokens)
    assert ids == gpt2_write() == gpt3_without_cache(decoder, prompt, tokens), "all write one text"
    timings = interleave(
        {
            CACHE: lambda: write(ours, prompt, tokens),
            GPT2: gpt2_write,
            **{name: partial(write, model, prompt, tokens) for name, model in smaller.items()},
            READ: read_memory,
        },
        sizes.rounds,
    )
    bits = 8 * sum(parameter.numel() for parameter in decoder.layers.parameters())
    bits += 8 * decoder.embeddings.word.weight.numel()
    name = f"GPT-3 {sizes.gpt3.name}, {tokens} tokens"
    return [
        (f"{name}, ÷ {GPT2}", "≥ 1.3", str(timings.speedup(CACHE, GPT2))),
        *(
            (
                f"{name}, in {kind}, ÷ {GPT2} ({_agreement(model, ids, len(prompt))} of {tokens} tokens are float32's)",
                "≥ 2" if kind == INT8 else "",
                str(timings.speedup(kind, GPT2)),
            )
            for kind, model in smaller.items()
        ),
        (
            f"{name}, time a token ÷ (bytes of the matrices ÷ bandwidth of reading)",
            "",
            _over_bound(timings, bits // 2, tokens),
        ),
    ]


def _agreement(model: Gpt3Decoder, ids: Sequence[int], given: int) -> int:
    """How many of a text's tokens a model finds the likeliest, reading those before them."""
    chosen = model(torch.tensor([ids]))[0, given - 1 : -1]
    chosen[:, model.eos_id] = -torch.inf
    return int((chosen.argmax(-1) == torch.tensor(ids[given:])).sum())


def _over_bound(timings: Timings, num_bytes: int, tokens: int) -> str:
    bound = min(timings.seconds[READ]) * num_bytes / READ_BYTES
    took = min(timings.seconds[CACHE]) / tokens
    return f"{took / bound:.2f} ({1000 * took:.1f} ms against {1000 * bound:.1f})"


def _plug_rows(sizes: Sizes) -> list[tuple[str, str, str]]:
    model = PlugModel(sizes.plug).eval()
    spread(model)
    ours = freeze(copy.deepcopy(model))
    source = [101, *range(200, 198 + sizes.source), 102]
    rows = []
    for tokens in (sizes.tokens, sizes.plug_tokens):
        contenders: dict[str, Callable[[], Sequence[int]]] = {
            CACHE: partial(write_plug, ours, source, tokens),
            REFERENCE: partial(plug_like_the_reference, model, source, tokens),
        }
        assert contenders[CACHE]() == contenders[REFERENCE](), "both write one text"
        timings = interleave(contenders, sizes.rounds)
        name = (
            f"{sizes.plug.name} (width {sizes.plug.hidden}), {tokens} tokens, ÷ {REFERENCE} without a cache"
        )
        rows.append((name, "≥ 5", str(timings.speedup(CACHE, REFERENCE))))
    return rows


def _palm_rows(sizes: Sizes) -> list[tuple[str, str, str]]:
    model = PalmModel(sizes.palm).eval()
    spread(model)
    ours = freeze(copy.deepcopy(model))
    source_1N = torch.tensor([[101, *range(200, 198 + sizes.source), 102]])
    config = GenerationConfig(
        beam_size=sizes.beams, min_length=sizes.tokens, max_length=sizes.tokens, length_penalty=0.95
    )

    def write_palm() -> Sequence[int]:
        (found,) = generate(ours.decoder, lambda _: ours.start_decoding(source_1N), [[101]], config)
        return found[0].ids

    contenders: dict[str, Callable[[], Sequence[int]]] = {
        CACHE: write_palm,
        REFERENCE: lambda: palm_like_the_reference(model, source_1N, config),
    }
    assert contenders[CACHE]() == contenders[REFERENCE](), "both write one text"
    timings = interleave(contenders, sizes.rounds)
    name = f"{sizes.palm.name}, {sizes.beams} beams, {sizes.tokens} tokens, ÷ {REFERENCE} with its cache"
    return [(name, "≥ 1.5", str(timings.speedup(CACHE, REFERENCE)))]
