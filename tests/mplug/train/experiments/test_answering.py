"""Answers: the reference's losses with several weighted answers, and both ways of evaluating."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from experiment_cases import PIXELS, TOKENIZER, Loop, calm, check_restored, setup, some_rows, total
from golden.mplug_cases import GoldenCase, read_case, tiny
from mplug import load
from mplug.errors import MplugError
from mplug.loading import load_as
from mplug.train.experiments.answering import AnswerExperiment
from mplug.train.experiments.batches import AnswerBatch, AnswerExample, collate_answers
from mplug.train.experiments.evaluators import AnswerEvaluator, EvaluationBatch
from mplug.vqa import VqaModel

QUESTIONS = ["piece20 piece21", "piece22"]
KEYS = [f"{row}/{which}" for row in range(8) for which in range(2)]
ANSWERS = {key: f"piece{60 + 2 * int(key[0]) + int(key[2])}" for key in KEYS}
EXAMPLES = [
    AnswerExample(PIXELS[int(key[0])], QUESTIONS[int(key[2])], (ANSWERS[key], "piece90"), (0.9, 0.1))
    for key in KEYS
]


def batches(step: int, part: int) -> AnswerBatch:
    rows = some_rows(step, part)
    return collate_answers(TOKENIZER, [EXAMPLES[2 * row + which] for row in rows for which in range(2)])


def evaluation() -> list[EvaluationBatch]:
    rows = torch.tensor([int(key[0]) for key in KEYS])
    return [EvaluationBatch(torch.from_numpy(PIXELS)[rows], KEYS, [QUESTIONS[int(key[2])] for key in KEYS])]


def exact(written: Mapping[str, str]) -> dict[str, float]:
    return {"exact": sum(written[key] == answer for key, answer in ANSWERS.items()) / len(KEYS)}


def experiment(seed: int = 0, choices: tuple[str, ...] = ()) -> AnswerExperiment:
    evaluator = AnswerEvaluator(batches=evaluation, score=exact, choices=choices)
    return AnswerExperiment(calm(tiny(VqaModel, seed=seed)), setup(batches, evaluator))


def golden_batch(case: GoldenCase, answer: str, counts: list[int]) -> AnswerBatch:
    io = case.io
    return AnswerBatch(
        pixels=io["image"],
        ids_BL=io["question_input_ids"],
        mask_BL=io["question_attention_mask"].bool(),
        answer_ids_AL=io[f"{answer}_input_ids"],
        answer_mask_AL=io[f"{answer}_attention_mask"].bool(),
        answers_B=torch.tensor(counts),
        weights_A=io.get(f"{answer}_weights", torch.ones(sum(counts))),
    )


@pytest.mark.parametrize("name", ["vqa_base", "vqa_large", "vqa_stride6"])
@pytest.mark.parametrize(("answer", "counts"), [("answer", [1, 1]), ("answer3", [2, 1])])
def test_golden_losses(name: str, answer: str, counts: list[int], tmp_path: Path) -> None:
    case = read_case(name)
    stored = case.described["train"]
    plain = stored.get("loss_out_of_place", stored["loss"])
    model = load_as(case.write_modelscope(tmp_path), VqaModel).train()
    batch = golden_batch(case, answer, counts)
    loss = AnswerExperiment(model, setup(lambda step, part: batch)).losses(0, 0)["answer_loss"]
    wanted = plain if answer == "answer" else stored["loss_k21_weighted"]
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_answers_learned_by_heart_are_generated_chosen_and_served(tmp_path: Path) -> None:
    found = experiment()
    losses = Loop(found).run(range(100))
    assert losses[-1]["answer_loss"] < 0.5 * losses[0]["answer_loss"]
    assert found.evaluate()["exact"] >= 0.9
    choosing = experiment(choices=(*ANSWERS.values(), "piece90"))
    choosing.trained.load_state_dict(found.trained.state_dict())
    assert choosing.evaluate()["exact"] >= 0.9
    found.save(tmp_path)
    evaluator = AnswerEvaluator(batches=evaluation, score=exact)
    assert evaluator.texts(load(tmp_path, task="vqa")) == evaluator.texts(found.trained.eval())


def test_every_module_learns() -> None:
    found = experiment()
    total(found.losses(0, 0).values()).backward()  # type: ignore[no-untyped-call]
    unmoved = [name for name, each in found.trained.named_parameters() if each.grad is None]
    assert unmoved == []


def test_a_restored_run_is_the_unbroken_one() -> None:
    check_restored(experiment)


def test_bfloat16_autocast_is_near_float32() -> None:
    found = experiment()
    exact_loss = found.losses(0, 0)["answer_loss"].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = found.losses(0, 0)["answer_loss"]
    assert loss.item() == pytest.approx(exact_loss, rel=0.05)


@pytest.mark.parametrize(("answers", "weights"), [((), ()), (("piece60",), (0.5, 0.5))])
def test_each_answer_has_a_weight(answers: tuple[str, ...], weights: tuple[float, ...]) -> None:
    example = AnswerExample(PIXELS[0], "piece20", answers, weights)
    with pytest.raises(MplugError, match="'piece20' has"):
        collate_answers(TOKENIZER, [example])
