"""Stages (b), (c) and (d) on a dozen pictures: what is planted is learnt, and a broken run goes on as it would have."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from mini_pictures import Loop, captions, judged_on_training, small, stage_config
from mplug.evaluation.captions import score as score_captions
from mplug.train.mini.experiment import WholeStage, open_stage
from mplug.train.mini.measuring import cider, write_captions
from mplug.train.mini.reading import Shuffled, neighbour_order
from mplug.train.mini.rewarding import CiderRewards, Rewarding, Rewards


def test_matching_is_learnt_and_ranks(data: Path, start: Path) -> None:
    batch = small(pairs=12, english=1.0)
    config = stage_config(start, goal="reranked_r1", batch=batch, fusion_lr=1e-3, decoder_lr=1e-3)
    stage = judged_on_training(open_stage(config, data))
    before = stage.evaluate()
    losses = Loop(stage, warmup=50).run(200)
    after = stage.evaluate()
    assert losses[0]["itm_loss"] > 0.5
    assert sum(step["itm_loss"] for step in losses[-10:]) / 10 < 0.4
    assert losses[-1]["mlm_loss"] < losses[0]["mlm_loss"] / 2
    assert after["reranked_r1_en"] > before["reranked_r1_en"] + 30
    assert after["itc_r1"] == before["itc_r1"]  # the towers stand still


def test_towers_and_words_stand_still(data: Path, start: Path) -> None:
    stage = open_stage(
        stage_config(start, goal="writing", batch=small(captioned=4, questions=4, pairs=4)), data
    )
    before = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
    Loop(stage).run(2)
    moved = {
        name for name, tensor in stage.model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert moved
    assert all(name.startswith(("fusion_encoder.", "itm_head.", "text_decoder.")) for name in moved)
    assert "text_decoder.embeddings.word.weight" not in moved


def test_captions_and_answers_are_learnt_by_heart(data: Path, written: Path) -> None:
    config = stage_config(written, goal="writing", batch=small(captioned=12, questions=12))
    stage = judged_on_training(open_stage(config, data))
    found = stage.evaluate()
    assert found["answers"] == found["answers_colour"] == 100
    assert found["cider_en"] > 400  # one of two references each, which have little in common
    assert found["cider_zh"] > 600
    paths = [image.path for image in stage.data.train]
    english = write_captions(stage.trained, stage.data.tokens, paths)
    right = sum(text in captions(*Path(path).stem.split("-")) for path, text in english.items())
    assert right >= 10
    chinese = write_captions(stage.trained, stage.data.tokens, paths, "图中")
    assert all(text.endswith("墙") for text in chinese.values())


def test_rewards_rise(data: Path, written: Path) -> None:
    """A reward for one of the two ways in which every picture was described: it becomes the usual one."""
    batch = small(rewarded=12, english=1.0)
    config = stage_config(written, goal="cider_en", batch=batch, fusion_lr=0.0, decoder_lr=1e-3)
    stage = open_stage(config, data)
    rewarding = Rewarding(stage.trained, stage.data, config, {"en": _likes("paint")})
    stage.objectives["rewards"] = rewarding
    loop = Loop(stage)
    loop.run(1)
    first = rewarding.mean_reward
    loop.run(15)
    assert rewarding.mean_reward > first + 0.1
    stage.model.eval()
    written_now = write_captions(stage.trained, stage.data.tokens, [image.path for image in stage.data.train])
    assert all("paint" in text for text in written_now.values())


def _likes(word: str) -> Rewards:
    return lambda paths, texts, ended: [float(word in text.split()) for text in texts]


@pytest.mark.parametrize(
    "sizes", [{"pairs": 8}, {"captioned": 6, "questions": 6, "pairs": 4}, {"rewarded": 6, "questions": 6}]
)
def test_a_broken_run_goes_on_as_it_would_have(data: Path, written: Path, sizes: dict[str, int]) -> None:
    config = stage_config(written, goal="writing", batch=small(**sizes))
    unbroken = Loop(open_stage(config, data)).run(6)
    first = Loop(open_stage(config, data))
    head = first.run(3)
    second = Loop(open_stage(config, data))
    second.stage.model.load_state_dict(first.stage.model.state_dict())
    second.stage.restore(first.stage.state())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.step = 3
    assert head + second.run(3) == unbroken


def test_evaluation_changes_nothing(data: Path, written: Path) -> None:
    config = stage_config(written, goal="writing", batch=small(captioned=6, questions=6, pairs=4))
    plain, looked_at = (Loop(judged_on_training(open_stage(config, data))) for _ in range(2))
    expected = plain.run(2)
    looked_at.run(1)
    looked_at.stage.evaluate()
    assert looked_at.run(1) == expected[1:]


def test_captions_are_measured_as_elsewhere() -> None:
    people = {
        "a": ["a dog runs in snow", "a dog is running"],
        "b": ["two men play guitar"],
        "c": ["a cat sleeps"],
    }
    written = {"a": "a dog runs in the snow", "b": "men play guitar", "c": "a dog sleeps"}
    expected = score_captions(written, people, java=False, meteor=False).cider
    assert 100 < expected < 1000
    assert cider(written, people, "en") == pytest.approx(expected)


def test_a_caption_that_breaks_off_is_worth_less() -> None:
    rewards = CiderRewards({"a": ["a dog runs"], "b": ["two cats sleep"]}, "en")
    whole, broken = rewards(["a", "a"], ["a dog runs", "a dog runs"], [True, False])
    assert whole > broken


def test_neighbours_come_together_and_every_picture_once() -> None:
    angles = torch.tensor([0.0, 3.0, 0.1, 3.1, 0.2, 3.2])
    embeds = torch.stack([angles.cos(), angles.sin()], dim=1)
    groups = neighbour_order(embeds, 3, random.Random(0))
    assert sorted(sorted(group) for group in groups) == [[0, 2, 4], [1, 3, 5]]


def test_batches_follow_from_their_numbers() -> None:
    here, there = (Shuffled(range(10), 3, "seed") for _ in range(2))
    drawn = [here.batch(number) for number in range(9)]
    assert [there.batch(number) for number in (8, 2, 5)] == [drawn[8], drawn[2], drawn[5]]
    assert len({item for batch in drawn[:3] for item in batch}) == 9


def test_stages_name_what_they_measure(data: Path, written: Path) -> None:
    config = stage_config(written, goal="writing", batch=small(captioned=6, questions=6, pairs=4))
    stage: WholeStage = judged_on_training(open_stage(config, data))
    assert stage.goal.metric in stage.evaluate()
