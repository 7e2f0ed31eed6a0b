"""Tiny models of texts, servers of them, and what they write alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grpc import aio

from golden.mplug_cases import small_vocab
from golden.structbert_cases import VOCAB, tiny
from mplug.structbert import Classifier, EntailmentClassifier, WordFiller
from mplug.text_writing import TextWriter, WriteRequest, WrittenText
from mplug_api.v1 import generation_pb2 as gen
from mplug_services.server import Server
from mplug_services.text_work import GenerateText
from services.generation_servers import Gate, model_server

SETTINGS = {
    "text-generation": "text_model",
    "text-classification": "classify_model",
    "fill-mask": "fill_mask_model",
}


def masked_vocab() -> list[str]:
    """Pieces with [MASK], where BERT has it."""
    return ["[MASK]" if number == 103 else piece for number, piece in enumerate(small_vocab(VOCAB))]


def judging_models() -> dict[str, Any]:
    """An entailment model and a masked language model."""
    return {
        "text-classification": EntailmentClassifier(tiny(Classifier)),
        "fill-mask": tiny(WordFiller, vocab=masked_vocab()),
    }


@asynccontextmanager
async def text_server(
    folder: Path, models: dict[str, Any], **changes: Any
) -> AsyncIterator[tuple[Server, aio.Channel]]:
    """A real server of text models alone, by task, and a channel to it."""
    given = {SETTINGS[task]: "given" for task in models}
    settings = {**given, "services": ("text",), **changes}
    async with model_server(folder, models, **settings) as (server, channel):
        yield server, channel


def writer_gate(model: Any) -> Gate:
    """Stands before every step of a generator's decoder; reading prompts is one."""
    return Gate(SimpleNamespace(text_decoder=model.decoder))


def alone(
    model: Any, text: str, *, stop: tuple[str, ...] = (), seed: int = 0, **settings: Any
) -> tuple[WrittenText, ...]:
    """What the model writes of one text when nothing else is written. Any: a generator, fields of GenerationConfig."""
    writer = TextWriter(model)
    request = WriteRequest(model.read(text), model.generation_config(**settings), seed, stop)
    updates = writer.admit({0: request})
    while writer.live:
        updates += writer.step()
    (finished,) = [update.finished for update in updates if update.finished is not None]
    return finished


def write_item(
    model: Any, text: str, *, seed: int = 0, deadline: float | None = None, **settings: Any
) -> GenerateText:
    """A work item. Any: a generator, fields of GenerationConfig."""
    config = model.generation_config(**settings)
    return GenerateText(prompt=model.read(text), config=config, seed=seed, deadline=deadline)


def greedy(length: int, **options: Any) -> gen.GenerationOptions:
    """So many tokens, the likeliest each time; tiny models seldom end by themselves."""
    return gen.GenerationOptions(max_length=length, min_length=length, greedy=gen.Greedy(), **options)
