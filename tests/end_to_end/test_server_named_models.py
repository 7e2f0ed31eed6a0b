"""Further models that a server is told of: read when they are first asked for, by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from golden.gpt3_cases import tiny_generator
from golden.structbert_cases import tiny
from mplug import gpt3, structbert
from mplug.structbert import Classifier
from mplug_services.client import AsyncClient, FailedPreconditionError, GenerationOptions, NotFoundError
from mplug_services.config import ConfigurationError
from mplug_services.server import running_server
from services.serving import serve_config
from services.text_servers import alone

SETTINGS: dict[str, Any] = {"method": "greedy", "min_length": 4, "max_length": 4}
GREEDY = GenerationOptions(**SETTINGS)


async def test_requests_name_models_that_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    gpt3.save(tiny_generator("plain", ffn=128, eod_id=102), tmp_path / "poet")
    structbert.save(tiny(Classifier), tmp_path / "judge")
    more = (f"poet={tmp_path / 'poet'}", f"judge={tmp_path / 'judge'}")
    config = serve_config(tmp_path, services=("text",), model="", more_models=more)
    async with running_server(config) as server, AsyncClient(server.address) as client:
        assert (await client.server_info()).models == ()
        (written,) = await client.generate(["piece5 piece6"], options=GREEDY, model="poet")
        (expected,) = alone(
            tiny_generator("plain", ffn=128, eod_id=102),
            "piece5 piece6",
            method="greedy",
            min_length=4,
            max_length=4,
        )
        assert written.text == expected.text
        assert [each.name for each in (await client.server_info()).models] == ["poet"]
        (judged,) = await client.classify(["piece5"], model="judge")
        assert judged.labels
        with pytest.raises(FailedPreconditionError, match="'judge' does not write"):
            await client.generate(["piece5"], options=GREEDY, model="judge")
        with pytest.raises(NotFoundError, match="'critic' besides its own; there are: poet, judge"):
            await client.generate(["piece5"], options=GREEDY, model="critic")
        with pytest.raises(FailedPreconditionError, match="text_model"):
            await client.generate(["piece5"], options=GREEDY)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("poet=",), "poet"),
        (("../poet",), "write NAME=FOLDER"),
        (("poet=a", "poet=b"), "two models named poet"),
        (("poet=/nowhere",), "more_models: poet: /nowhere is neither a folder nor a model"),
    ],
)
async def test_what_is_no_model_stops_the_start(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        async with running_server(serve_config(tmp_path, services=("text",), model="", more_models=more)):
            pass


async def test_a_server_without_models_does_not_look_at_them(tmp_path: Path) -> None:
    config = serve_config(tmp_path, services=("index",), model="", more_models=("poet=/nowhere",))
    assert not config.needs_model
    async with running_server(config) as server, AsyncClient(server.address) as client:
        assert (await client.server_info()).models == ()
