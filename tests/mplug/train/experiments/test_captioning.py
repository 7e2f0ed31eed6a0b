"""Captions by cross-entropy: the reference's loss, a toy learned by heart and written down again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from experiment_cases import (
    EXAMPLES,
    PIXELS,
    TEXTS,
    TOKENIZER,
    Loop,
    check_restored,
    golden_texts,
    setup,
    text_batch,
    total,
)
from golden.mplug_cases import read_case, tiny
from mplug import load
from mplug.captioning import CaptionModel
from mplug.errors import MplugError
from mplug.loading import load_as
from mplug.train.experiments.batches import collate_texts
from mplug.train.experiments.captioning import CaptionExperiment
from mplug.train.experiments.evaluators import CaptionEvaluator, EvaluationBatch
from mplug.train.experiments.settings import CaptionObjective


def evaluation() -> list[EvaluationBatch]:
    pixels = torch.from_numpy(PIXELS)
    return [EvaluationBatch(pixels[:5], list("abcde")), EvaluationBatch(pixels[5:], list("fgh"))]


def exact(written: Mapping[str, str]) -> dict[str, float]:
    right = [written[key] == text for key, text in zip("abcdefgh", TEXTS, strict=True)]
    return {"exact": sum(right) / len(right)}


def experiment(seed: int = 0, **changes: float) -> CaptionExperiment:
    evaluator = CaptionEvaluator(batches=evaluation, score=exact)
    return CaptionExperiment(
        tiny(CaptionModel, seed=seed), CaptionObjective(**changes), setup(text_batch, evaluator)
    )


def test_golden_loss_and_gradient(tmp_path: Path) -> None:
    case = read_case("caption_large")
    model = load_as(case.write_modelscope(tmp_path), CaptionModel).train()
    batch = golden_texts(case, "answer")
    found = CaptionExperiment(model, CaptionObjective(), setup(lambda step, part: batch))
    loss = found.losses(0, 0)["caption_loss"]
    assert loss.item() == pytest.approx(case.described["train"]["loss"], rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is not None for each in model.text_decoder.parameters())


def test_captions_learned_by_heart_are_written_and_served(tmp_path: Path) -> None:
    found = experiment()
    assert found.evaluate()["exact"] < 0.5
    losses = Loop(found).run(range(120))
    assert losses[-1]["caption_loss"] < 0.1 * losses[0]["caption_loss"]
    assert found.evaluate() == {"exact": 1.0}
    found.save(tmp_path)
    served = load(tmp_path, task="caption").caption(torch.from_numpy(PIXELS))
    assert [best.text for best, *_ in served] == TEXTS


def test_a_prompt_is_read_and_not_guessed() -> None:
    prompt = "piece50 piece51"
    batch = collate_texts(TOKENIZER, EXAMPLES[:3], prompt=prompt)
    assert batch.ids_BL[:, :3].tolist() == [[101, 50, 51]] * 3
    assert batch.given_B.tolist() == [2, 2, 2]
    found = CaptionExperiment(tiny(CaptionModel), CaptionObjective(), setup(lambda step, part: batch))
    logits = found.trained.text_decoder(batch.ids_BL, found.trained.encode_image(batch.pixels))
    log_p = logits.log_softmax(-1)[:, 2:-1].gather(2, batch.ids_BL[:, 3:, None])
    assert found.losses(0, 0)["caption_loss"].item() == pytest.approx(-log_p.mean().item(), rel=1e-5)


def test_a_prompt_must_leave_room() -> None:
    with pytest.raises(MplugError, match="fills the 25 tokens"):
        collate_texts(TOKENIZER, EXAMPLES, prompt=" ".join(["piece50"] * 23))


def test_smoothed_labels_cost_more_where_the_model_is_sure() -> None:
    sure, smoothed = experiment(), experiment(label_smoothing=0.1)
    Loop(sure).run(range(60))
    smoothed.trained.load_state_dict(sure.trained.state_dict())
    assert smoothed.losses(0, 0)["caption_loss"] > 2 * sure.losses(0, 0)["caption_loss"]


def test_a_restored_run_is_the_unbroken_one() -> None:
    check_restored(experiment)


def test_bfloat16_autocast_trains() -> None:
    found = experiment()
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(found.losses(0, 0).values())
    assert loss.dtype == torch.float32
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is not None for each in found.trained.parameters())
    assert loss.item() == pytest.approx(experiment().losses(0, 0)["caption_loss"].item(), rel=0.02)
