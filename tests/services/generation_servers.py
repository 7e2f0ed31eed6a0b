"""Servers that write texts: golden folders with the reference's pictures, and the tiny models."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from grpc import aio
from PIL import Image
from torch import Tensor

import mplug
from golden.mplug_cases import GoldenCase, read_case
from mplug_api.v1 import common_pb2, generation_pb2
from mplug_services.engine import ModelWorker
from mplug_services.runners.models import Model, Models
from mplug_services.server import Server, make_scheduler, running_server
from services.serving import serve_config


@asynccontextmanager
async def model_server(
    folder: Path, models: Models | Callable[[], Models], **changes: Any
) -> AsyncIterator[tuple[Server, aio.Channel]]:
    """A real server of the given models, by task, and a channel to it."""
    named = models if isinstance(models, Mapping) else {}
    settings = {"caption": "caption_model", "vqa": "vqa_model", "rerank": "rerank_model"}
    given = {settings[task]: "given" for task in named if task in settings}
    config = serve_config(folder, **{**given, **changes})
    load = (lambda: named) if isinstance(models, Mapping) else models
    async with (
        running_server(config, engine=ModelWorker(load, make_scheduler(config))) as server,
        aio.insecure_channel(server.address) as channel,
    ):
        yield server, channel


def golden_model(name: str, folder: Path, task: str) -> tuple[GoldenCase, Model]:
    """A golden case, loaded from a ModelScope folder. A picture of the flat grey i is the reference's picture i.

    The reference's pictures are random floats, that no file could hold.
    """
    case = read_case(name)
    load: Any = mplug.load  # Any: the task is a variable
    model = load(case.write_modelscope(folder / name), task=task)

    def normalised(pixels: Tensor) -> Tensor:
        return case.io["image"][pixels[:, 0, 0, 0].long()]

    model.image_encoder.normalised = normalised
    return case, model


def golden_image(number: int) -> common_pb2.ImageInput:
    """The picture that stands for the reference's of this number."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (number, number, number)).save(stream, "PNG")
    return common_pb2.ImageInput(data=stream.getvalue())


def golden_options(stored: Mapping[str, Any]) -> generation_pb2.GenerationOptions:
    """A stored setting of the reference's."""
    return generation_pb2.GenerationOptions(
        max_length=stored["max_length"],
        min_length=stored["min_length"],
        num_results=stored["out_size"],
        beam_search=generation_pb2.BeamSearch(beam_size=stored["beam_size"]),
    )


def ids_of(texts: generation_pb2.GeneratedTexts) -> list[list[int]]:
    return [list(text.token_ids) for text in texts.texts]


class Gate:
    """Lets a model's decoder wait before each step while it is shut, and counts the steps.

    Args:
        model: whose decoder it is.
    """

    def __init__(self, model: Any) -> None:  # Any: of either task
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Semaphore(0)
        self.steps = 0
        self.rows: list[int] = []
        self.shut_at: int | None = None
        """Rows of the step that shuts the gate behind which it then stands; once."""
        self._step = model.text_decoder.step
        model.text_decoder.step = self._gated

    def _gated(self, ids_SL: Tensor, state: Any, **options: Any) -> Tensor:
        self.steps += 1
        self.rows.append(len(ids_SL))
        if len(ids_SL) == self.shut_at:
            self.open.clear()
            self.shut_at = None
        self.arrived.release()
        assert self.open.wait(30), "the gate stayed shut"
        logits: Tensor = self._step(ids_SL, state, **options)
        return logits
