"""A user's texts through JobService: a generator that has learnt them answers TextService by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from golden.gpt3_cases import tiny_generator
from mplug import gpt3
from mplug_services.client import (
    AsyncClient,
    GenerationOptions,
    InvalidRequestError,
    Job,
    JobState,
    TrainRow,
    TrainText,
)
from services.job_servers import job_server
from services.serving import picture

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

ROWS = [
    ("piece5 piece6", "piece7 piece8"),
    ("piece8 piece6", "piece9 piece5"),
    ("piece7 piece5", "piece5 piece6"),
    ("piece9 piece9", "piece6 piece7"),
]
QUICK = (
    *("start=files/gpt", "precision=float32", "batch_size=4", "lr=1e-2", "epochs=2"),
    *("optimizer.warmup_steps=5", "max_text_tokens=24"),
)
GREEDY = GenerationOptions(method="greedy", min_length=0, max_length=8)


def save_generator(folder: Path) -> None:
    gpt3.save(tiny_generator("plain", ffn=128, eod_id=102, dropout=0.0), folder / "files" / "gpt")


def rows() -> Sequence[TrainRow | TrainText]:
    """To learn from, and the same to choose the best checkpoint by: what is asked is whether they arrive."""
    splits = [*["train"] * 40, "dev"]
    return [TrainText(text=text, target=target, split=split) for split in splits for text, target in ROWS]


async def trained(client: AsyncClient, sent: Sequence[TrainRow | TrainText]) -> Job:
    made = await client.jobs.train("finetune-text", sent, settings=QUICK, model="mine")
    return [job async for job in client.jobs.watch(made.id)][-1]


@pytest.mark.timeout(120)
async def test_sent_texts_become_a_model_that_writes_what_it_has_learnt(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    save_generator(tmp_path)
    async with job_server(tmp_path, services=("text", "job", "model"), text_dtype="bfloat16") as (_, client):
        job = await trained(client, rows())
        assert job.state is JobState.SUCCEEDED, job.error
        assert job.result is not None
        assert job.result.tasks == ("text-generation",)
        assert job.result.metrics["perplexity"] < 1.5
        written = await client.generate([text for text, _ in ROWS], options=GREEDY, model="mine")
        assert [each.text.strip() for each in written] == [target for _, target in ROWS]
        (listed,) = (await client.server_info()).models
        assert (listed.name, listed.task, listed.dtype) == ("mine", "text-generation", "bfloat16")


async def test_rows_without_texts_and_with_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    save_generator(tmp_path)
    async with job_server(tmp_path, services=("text", "job", "model")) as (_, client):
        wrong: list[TrainRow | TrainText] = [
            TrainText(text="piece5"),
            TrainText(text=" ", target="piece6"),
            TrainRow(image=picture(1), captions=["a cat"]),
        ]
        with pytest.raises(InvalidRequestError) as caught:
            await trained(client, wrong)
        assert {each.field for each in caught.value.violations} == {
            "rows[1].text",
            "rows[2].image",
            "rows[2].text",
        }
        assert await client.jobs.list() == []
