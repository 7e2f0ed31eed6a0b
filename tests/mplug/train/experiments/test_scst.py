"""Self-critical training: rewards rise, and what is rewarded is what counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from experiment_cases import EXAMPLES, TOKENIZER, Loop, check_restored, setup
from golden.mplug_cases import tiny
from mplug.captioning import CaptionModel
from mplug.errors import ConfigError
from mplug.train.experiments.batches import PictureBatch, collate_pictures
from mplug.train.experiments.scst import Reward, ScstExperiment, cider_reward
from mplug.train.experiments.settings import LearningRates, ScstObjective

EXAMPLE = torch.from_numpy(EXAMPLES[0].pixels)[None]


def share_of_even(keys: Sequence[str], texts: Sequence[str]) -> list[float]:
    """Of pictures 0 and 1 even pieces are good, of the others odd ones."""
    numbers = [[TOKENIZER.vocab.index(piece) for piece in text.split()] for text in texts]
    return [
        sum((number % 2 == 0) == (key in ("picture 0", "picture 1")) for number in some) / max(1, len(some))
        for key, some in zip(keys, numbers, strict=True)
    ]


def pictures(step: int, part: int) -> PictureBatch:
    return collate_pictures(EXAMPLES)


def experiment(seed: int = 0, reward: Reward = share_of_even, **changes: Any) -> ScstExperiment:
    values: dict[str, Any] = {"min_length": 1, "max_length": 4, **changes}
    rates = LearningRates(vision_tower=1e-3, rest=1e-3)
    return ScstExperiment(
        tiny(CaptionModel, seed=seed),
        ScstObjective(**values),
        setup(pictures, learning_rates=rates),
        reward=reward,
    )


@pytest.mark.parametrize(("method", "captions"), [("beam", 8), ("sample", 16)])
def test_rewards_rise(method: str, captions: int) -> None:
    found = experiment(method=method, captions=captions)
    loop, rewards = Loop(found), []
    for step in range(40):
        loop.step(step)
        rewards.append(found.mean_reward)
    assert sum(rewards[-5:]) / 5 > 0.3 + sum(rewards[:5]) / 5


def test_equal_rewards_teach_nothing() -> None:
    found = experiment(reward=lambda keys, texts: [7.0] * len(texts))
    loss = found.losses(0, 0)["scst_loss"]
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(not each.grad.any() for each in found.trained.parameters() if each.grad is not None)
    assert found.mean_reward == 7


def test_the_loss_is_the_advantage_times_the_log_likelihood_per_token() -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def reward(keys: Sequence[str], texts: Sequence[str]) -> list[float]:
        seen.append((list(keys), list(texts)))
        return [float(n % 3) for n in range(len(texts))]

    found = experiment(reward=reward, captions=3, prompt="piece50 piece51", max_length=5)
    found.trained.train()
    loss = found.losses(0, 0)["scst_loss"]
    (keys, texts), model = seen[0], found.trained
    assert keys == [each.key for each in EXAMPLES for _ in range(3)]
    assert all(text.startswith("piece50 piece51") for text in texts)
    model.eval()
    written = model.caption(pictures(0, 0).pixels, found._generation, prompts=["piece50 piece51"] * 8)
    terms = []
    for picture, captions in zip(pictures(0, 0).pixels, written, strict=True):
        for advantage, caption in zip((-1.0, 0.0, 1.0), captions, strict=True):
            ids = torch.tensor([found._ended(caption)])
            log_p = model.text_decoder(ids, model.encode_image(picture[None])).log_softmax(-1)
            chosen = log_p[0, 2:-1].gather(1, ids[0, 3:, None])
            terms.append(-advantage * chosen.mean())
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4, abs=1e-6)
    assert model.text_decoder.training is False


def test_what_stands_behind_the_end_is_no_part_of_a_caption() -> None:
    found = experiment()
    caption = found.trained.caption(pictures(0, 0).pixels[:1])[0][0]
    ids = (101, 9, 102, 8, 102)
    hypothesis = type(caption.hypothesis)(ids, 0.0, (0.0,) * 4)
    assert found._ended(type(caption)("", hypothesis)) == [101, 9, 102]
    assert found._ended(type(caption)("", type(hypothesis)((101, 9), 0.0, (0.0,)))) == [101, 9]


def test_cider_prefers_what_people_wrote() -> None:
    reward = cider_reward({"a": ["A dog runs.", "a dog on grass"], "b": ["two red birds", "birds in a tree"]})
    right, other, nothing = reward(["a", "a", "b"], ["a dog runs", "two red birds", "a dog runs"])
    assert right > 1 > other
    assert nothing == 0 == other


def test_the_mode_is_restored_and_the_decoder_reads_its_newest_weights() -> None:
    found = experiment()
    Loop(found).step(0)
    assert found.trained.training
    found.trained.eval()
    found.losses(1, 0)
    before = [found._ended(one) for some in found._write(found.trained.encode_image(EXAMPLE)) for one in some]
    with torch.no_grad():
        found.trained.text_decoder.head.bias[77] = 1e3
    after = [found._ended(one) for some in found._write(found.trained.encode_image(EXAMPLE)) for one in some]
    assert before != after
    assert after[0][1:] == [77] * 4


def test_a_restored_run_is_the_unbroken_one() -> None:
    check_restored(lambda seed: experiment(seed, method="sample"))


def test_one_caption_is_its_own_baseline() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        ScstObjective(captions=1)
