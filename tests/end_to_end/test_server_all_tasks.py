"""One server, one folder, all four tasks at once: every answer is the one that its model gives alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mplug
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug_services.client import AsyncClient, GenerationOptions, IngestItem, Question
from mplug_services.server import running_server
from services.serving import picture, serve_config
from services.whole_folder import TASKS, save_whole

COUNT = 6
TEXT = "piece3 piece8 piece21"
QUESTIONS = ["piece9", "piece10 piece11", "piece12 piece9", "piece40", "piece41 piece42", "piece7"]
ANSWERS = ["piece20", "piece21 piece22", "piece23", "piece24 piece25 piece26"]
PROMPT = "piece7 piece9"
SAMPLING = GenerationOptions(seed=5, num_results=2, max_length=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
@torch.inference_mode()
def expected(folder: Path) -> dict[str, Any]:
    """From each task's model, loaded alone and asked for one item at a time."""
    load: Any = mplug.load  # Any: the task is a variable
    models = {task: load(folder, task=task) for task in TASKS}
    caption, vqa, rerank, retrieval = (models[task] for task in ("caption", "vqa", "rerank", "retrieval"))
    pixels = [
        torch.from_numpy(to_pixels(decode_image(picture(seed)), caption.preprocess.image_size))[None]
        for seed in range(COUNT)
    ]
    ids = torch.from_numpy(rerank.tokenizer.encode(TEXT).ids)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    sampling = caption.generation_config(method="sample", num_results=2, max_length=9)
    asked = list(zip(pixels, QUESTIONS, strict=True))
    return {
        "captions": [written(caption.caption(each)) for each in pixels],
        "prompted": [written(caption.caption(each, prompts=[PROMPT])) for each in pixels],
        "drawn": [written(caption.caption(each, sampling, seeds=[5])) for each in pixels],
        "answers": [written(vqa.answer(each, [question])) for each, question in asked],
        "ranked": [vqa.rank(each, [question], ANSWERS)[0] for each, question in asked],
        "matches": [float(rerank.itm_scores(rerank.encode_image(each), ids, mask)) for each in pixels],
        "images": torch.cat([retrieval.embed_images(each) for each in pixels]).numpy(),
        "text": retrieval.embed_texts(ids, mask).numpy()[0],
    }


def written(found: Any) -> list[tuple[int, ...]]:
    """Ids of one item's texts."""
    return [each.hypothesis.ids for each in found[0]]


class Asker:
    """Asks one server for everything, and holds what it says against what is expected."""

    def __init__(self, client: AsyncClient, expected: dict[str, Any]) -> None:
        self.client = client
        self.expected = expected
        self.pictures = [picture(seed) for seed in range(COUNT)]
        self.questions = [
            Question(image, question) for image, question in zip(self.pictures, QUESTIONS, strict=True)
        ]

    async def ingest(self) -> None:
        items = [IngestItem(f"p{seed}", image) for seed, image in enumerate(self.pictures)]
        assert [one.error async for one in self.client.ingest("pets", items)] == [None] * COUNT

    async def embed(self) -> None:
        found = await self.client.embed_images(self.pictures) + await self.client.embed_texts([TEXT])
        vectors = [one.vector for one in found if one.vector is not None]
        wanted = [*self.expected["images"], self.expected["text"]]
        np.testing.assert_allclose(np.stack(vectors), np.stack(wanted), atol=1e-5)

    async def search(self) -> None:
        result = await self.client.search("pets", text=TEXT, top_k=COUNT)
        cosines = self.expected["images"] @ self.expected["text"]
        assert [hit.id for hit in result.hits] == [f"p{place}" for place in np.argsort(-cosines)]

    async def search_with_everything(self) -> None:
        result = await self.client.search(
            "pets", text=TEXT, top_k=3, rerank_top_k=COUNT, caption_results=True
        )
        matches = self.expected["matches"]
        best = np.argsort(matches)[::-1][:3].tolist()
        assert [hit.id for hit in result.hits] == [f"p{place}" for place in best]
        assert [hit.match_probability for hit in result.hits] == pytest.approx(
            [matches[place] for place in best], abs=2e-3
        )
        assert result.reranked_count == COUNT
        assert all(hit.caption for hit in result.hits)

    async def rerank(self) -> None:
        result = await self.client.rerank(TEXT, self.pictures)
        assert [one.match_probability for one in result.outcomes] == pytest.approx(
            self.expected["matches"], abs=2e-3
        )

    async def caption(self) -> None:
        found = await self.client.caption(self.pictures)
        assert [[text.token_ids for text in one.texts] for one in found] == self.expected["captions"]

    async def caption_with_a_prompt(self) -> None:
        found = await self.client.caption(self.pictures, prompt=PROMPT)
        assert [[text.token_ids for text in one.texts] for one in found] == self.expected["prompted"]

    async def draw_captions(self) -> None:
        found = await self.client.caption(self.pictures, options=SAMPLING)
        assert [[text.token_ids for text in one.texts] for one in found] == self.expected["drawn"]

    async def stream_a_caption(self) -> None:
        steps = [step async for step in self.client.stream_caption(self.pictures[2])]
        assert [text.token_ids for text in steps[-1].texts] == self.expected["captions"][2]

    async def answer(self) -> None:
        found = await self.client.answer(self.questions)
        assert [[text.token_ids for text in one.texts] for one in found] == self.expected["answers"]

    async def stream_an_answer(self) -> None:
        steps = [step async for step in self.client.stream_answer(self.pictures[4], QUESTIONS[4])]
        assert [text.token_ids for text in steps[-1].texts] == self.expected["answers"][4]

    async def rank(self) -> None:
        found = await self.client.rank_answers(self.questions, ANSWERS)
        for one, ranked in zip(found, self.expected["ranked"], strict=True):
            assert [answer.index for answer in one.answers] == [each.index for each in ranked]
            assert [answer.probability for answer in one.answers] == pytest.approx(
                [each.probability for each in ranked], abs=1e-4
            )


async def test_all_tasks_at_once_answer_as_each_model_alone(
    folder: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    places = {name: str(folder) for name in ("model", "rerank_model", "caption_model", "vqa_model")}
    config = serve_config(tmp_path, **places)
    async with running_server(config) as server, AsyncClient(server.address) as client:
        info = await client.server_info()
        asker = Asker(client, expected)
        await asker.ingest()
        asks = [
            asker.embed,
            asker.search,
            asker.search_with_everything,
            asker.rerank,
            asker.caption,
            asker.caption_with_a_prompt,
            asker.draw_captions,
            asker.stream_a_caption,
            asker.answer,
            asker.stream_an_answer,
            asker.rank,
        ]
        async with asyncio.TaskGroup() as group:  # twice over, so that calls of one task meet, too
            for ask in asks * 2:
                group.create_task(ask())
        assert server.queue_length == 0
        assert {model.task for model in info.models} == set(TASKS)
