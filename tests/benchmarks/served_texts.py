"""Texts written by a server: concurrent streams against one and against a bare loop, and how long they take."""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import mplug
from benchmarks.page import table
from benchmarks.rounds import MIN_ROUNDS, interleave
from benchmarks.text_contenders import spread
from golden.mplug_cases import small_vocab
from mplug import gpt3
from mplug.gpt3 import SIZES, Gpt3Config, Gpt3Generator
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_writing import TextWriter, WriteRequest
from mplug_services.cli.server_process import ServerProcess
from mplug_services.client import AsyncClient, GenerationOptions

STREAMS, BARE, ONE, TOGETHER = "8 streams", "a bare batch of 8", "one stream", "one Generate of 8 texts"
NUM_STREAMS = 8
SMALL = replace(
    SIZES["base"], name="20M", hidden=512, heads=8, layers=6, ffn=2048, positions=512, vocab_size=2000
)
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured; random weights."""

    small: Gpt3Config = SMALL
    """Written with at full tilt."""
    served: Sequence[tuple[str, int]] = (("base", 96), ("large", 48))
    """Named sizes whose users wait, and how many requests each has."""
    users: int = 4
    tokens: int = 96
    waited: int = 32
    """Tokens of a text that somebody waits for."""
    rounds: int = MIN_ROUNDS


def measure(sizes: Sizes = Sizes()) -> str:
    """The section's text."""
    return f"{_throughput(sizes)}\n\n{_latency(sizes)}"


def _throughput(sizes: Sizes) -> str:
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        model = _save(sizes.small, Path(folder) / "model")
        texts, tokens = _prompts(NUM_STREAMS), sizes.tokens
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with _served(Path(folder), "--torch-threads", "1") as address:
            timings = interleave(
                {
                    ONE: lambda: runner.run(_streams(address, texts[:1], tokens)),
                    STREAMS: lambda: runner.run(_streams(address, texts, tokens)),
                    BARE: lambda: _bare(model, texts, tokens),
                    TOGETHER: lambda: runner.run(_together(address, texts, tokens)),
                },
                sizes.rounds,
            )
        torch.set_num_threads(threads)
    eightfold = {
        name: [each / NUM_STREAMS for each in timings.seconds[name]] for name in (STREAMS, TOGETHER, BARE)
    }
    per_text = replace(timings, seconds={**timings.seconds, **eightfold})
    rows = [
        (f"{STREAMS} ÷ {ONE}", "≥ 2.5", str(per_text.speedup(STREAMS, ONE))),
        (f"{STREAMS} ÷ {BARE}", "≥ 0.85", str(per_text.speedup(STREAMS, BARE))),
        (f"{TOGETHER} ÷ {BARE}", "", str(per_text.speedup(TOGETHER, BARE))),
    ]
    return (
        f"Tokens a second of a GPT-3 of {model.num_parameters / 1e6:.0f} M parameters, {tokens} tokens a text, greedy; "
        "server and client are processes of their own with one thread each, the bare loop is the engine without a "
        f"server, with one thread. Ratio of minima (of medians) of {sizes.rounds} interleaved rounds.\n\n"
        + table(("", "wanted", "ratio"), rows)
    )


def _latency(sizes: Sizes) -> str:
    rows = []
    for name, requests in sizes.served:
        with tempfile.TemporaryDirectory() as folder:
            model = _save(SIZES[name], Path(folder) / "model")
            with _served(Path(folder)) as address:
                asyncio.run(_users(address, sizes.users, sizes.users, sizes.waited))
                seen = asyncio.run(_users(address, requests, sizes.users, sizes.waited))
        title = f"GPT-3 {name}, {model.num_parameters / 1e6:.0f} M parameters, {requests} requests"
        rows += [
            (f"{title}: whole request", *_percentiles(seen.requests)),
            (f"{title}: until the first token", *_percentiles(seen.first)),
            (f"{title}: each token after it", *_percentiles(seen.tokens)),
        ]
    heads = ("", *(f"p{each}, ms" for each in PERCENTILES))
    return (
        f"{sizes.users} users at a time, each with one stream of {sizes.waited} tokens after the other, float32, "
        f"{torch.get_num_threads()} threads, as one run found it:\n\n" + table(heads, rows)
    )


@dataclass
class Seen:
    """Seconds that users waited."""

    requests: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)


def _percentiles(seconds: Sequence[float]) -> list[str]:
    marks = statistics.quantiles(seconds, n=100, method="inclusive")
    return [f"{1000 * marks[each - 1]:.0f}" for each in PERCENTILES]


def _save(config: Gpt3Config, folder: Path) -> Gpt3Generator:
    tokenizer = WordPieceTokenizer(small_vocab(config.vocab_size), max_length=config.positions // 2)
    generator = Gpt3Generator(config, tokenizer).eval()
    spread(generator)
    gpt3.save(generator, folder)
    return mplug.freeze(generator)


def _prompts(count: int) -> list[str]:
    numbers = itertools.count(5)
    return [" ".join(f"piece{next(numbers) % 300 + 5}" for _ in range(12)) for _ in range(count)]


@contextmanager
def _served(folder: Path, *arguments: str) -> Iterator[str]:
    flags = ["--services", "text", "--text-model", str(folder / "model"), *arguments]
    with ServerProcess(folder / "data", flags) as server:
        yield server.address


def _options(tokens: int) -> GenerationOptions:
    return GenerationOptions(method="greedy", min_length=tokens, max_length=tokens)


async def _streams(address: str, texts: Sequence[str], tokens: int) -> None:
    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        for text in texts:
            group.create_task(_stream(client, text, tokens, Seen()))


async def _together(address: str, texts: Sequence[str], tokens: int) -> None:
    async with AsyncClient(address) as client:
        for written in await client.generate(texts, options=_options(tokens)):
            assert written.error is None, written.error


@torch.inference_mode()
def _bare(model: Gpt3Generator, texts: Sequence[str], tokens: int) -> None:
    config = model.generation_config(method="greedy", min_length=tokens, max_length=tokens)
    writer = TextWriter(model)
    writer.admit({number: WriteRequest(model.read(text), config) for number, text in enumerate(texts)})
    while writer.live:
        writer.step()


async def _users(address: str, requests: int, users: int, tokens: int) -> Seen:
    seen, texts = Seen(), iter(_prompts(requests))

    async def user(client: AsyncClient) -> None:
        for text in texts:
            await _stream(client, text, tokens, seen)

    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        for _ in range(users):
            group.create_task(user(client))
    return seen


async def _stream(client: AsyncClient, text: str, tokens: int, seen: Seen) -> None:
    start = last = time.perf_counter()
    waits, finished = [], False
    async for progress in client.stream_generate(text, options=_options(tokens)):
        now = time.perf_counter()
        waits.append(now - last)
        last, finished = now, progress.finished
    assert finished
    seen.requests.append(last - start)
    seen.first.append(waits[0])
    seen.tokens += waits[1:]
