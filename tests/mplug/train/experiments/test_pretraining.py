"""All four objectives at once: their losses where the reference has them, switches, and what is saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from experiment_cases import (
    EXAMPLES,
    TOKENIZER,
    Loop,
    calm,
    check_restored,
    golden_texts,
    setup,
    some_rows,
    text_batch,
    total,
)
from golden.mplug_cases import GoldenCase, read_case, tiny, tiny_whole_config
from mplug import load
from mplug.config import TextDecoderConfig
from mplug.errors import ConfigError
from mplug.loading import load_as
from mplug.train.experiments import pretraining
from mplug.train.experiments.base import WithTwin
from mplug.train.experiments.batches import TextBatch, collate_texts
from mplug.train.experiments.models import MatchingModel, WholeModel
from mplug.train.experiments.pretraining import PretrainingExperiment
from mplug.train.experiments.retrieval import RetrievalExperiment
from mplug.train.experiments.settings import (
    ContrastConfig,
    LearningRates,
    PretrainingObjective,
    RetrievalObjective,
)
from mplug.train.experiments.starting import take_over
from mplug.vqa import VqaModel

CONTRAST = ContrastConfig(queue_size=12, momentum=0.9)
TERMS = ("itc_loss", "itm_loss", "mlm_loss", "prefix_lm_loss")
ALONE = dict.fromkeys(("itc_weight", "itm_weight", "mlm_weight", "prefix_lm_weight"), 0.0)


def objective(**changes: Any) -> PretrainingObjective:
    return PretrainingObjective(**{"contrast": CONTRAST, **changes})


def experiment(seed: int = 0, weights: Mapping[str, float] = MappingProxyType({})) -> PretrainingExperiment:
    config = objective(**weights)
    torch.manual_seed(seed)  # of the head of masked words
    return PretrainingExperiment(tiny(WholeModel, seed=seed), config, setup(text_batch))


def losses(found: PretrainingExperiment, step: int = 0) -> dict[str, float]:
    torch.manual_seed(step)
    return {name: term.item() for name, term in found.losses(step, 0).items()}


def test_contrast_and_matching_are_those_of_the_reference(retrieval_case: GoldenCase, tmp_path: Path) -> None:
    case = retrieval_case
    part = load_as(case.write_modelscope(tmp_path), MatchingModel)
    decoder = TextDecoderConfig(
        vocab_size=part.config.text_encoder.vocab_size,
        hidden=8,
        layers=1,
        heads=2,
        ffn=8,
        memory_width=part.config.image_encoder.output_width,
    )
    whole = WholeModel(dataclasses.replace(part.config, text_decoder=decoder), part.tokenizer)
    assert all(name.startswith("text_decoder.") for name in take_over(whole, part))
    batch = golden_texts(case, "text", identity_B=case.io["idx"].flatten())
    both = PretrainingExperiment(
        whole, PretrainingObjective(mlm_weight=0), setup(lambda step, part: batch, steps_per_epoch=1)
    )
    reference = RetrievalExperiment(
        part, RetrievalObjective(), setup(lambda step, part: batch, steps_per_epoch=1)
    )
    ours, theirs = both.losses(1, 0), reference.losses(1, 0)
    assert ours["itm_loss"].item() == pytest.approx(
        case.described["train"]["loss_itm_out_of_place"], rel=1e-5
    )
    for name in ("itc_loss", "itm_loss"):
        assert torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize("name", ["vqa_base", "vqa_large"])
def test_a_rest_behind_its_prefix_costs_what_an_answer_to_a_question_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # [CLS] question [SEP] as the prefix, [CLS] answer [SEP] as the rest: one text of both, split between them.
    case = read_case(name)
    part = load_as(case.write_modelscope(tmp_path), VqaModel)
    whole = WholeModel(part.config, part.tokenizer)
    take_over(whole, part)
    io = case.io
    halves = [
        (io[f"{text}_input_ids"], io[f"{text}_attention_mask"].sum(1)) for text in ("question", "answer")
    ]
    (questions, first), (answers, second) = halves
    joined = [
        [*questions[row, : first[row] - 1].tolist(), *answers[row, 1 : second[row]].tolist()]
        for row in range(len(questions))
    ]
    ids = torch.zeros(len(joined), max(map(len, joined)), dtype=torch.int64)
    for row, text in enumerate(joined):
        ids[row, : len(text)] = torch.tensor(text)
    batch = golden_texts(case, "question", ids_BL=ids, mask_BL=ids != 0)
    config = objective(**{**ALONE, "prefix_lm_weight": 1.0})
    found = PretrainingExperiment(whole, config, setup(lambda step, part: batch))
    monkeypatch.setattr(pretraining, "draw_prefixes", lambda mask: first - 2)
    stored = case.described["train"]
    wanted = stored.get("loss_out_of_place", stored["loss"])  # the sum of tokens, by pictures
    by_token = wanted * len(questions) / int((second - 1).sum())
    assert found.losses(0, 0)["prefix_lm_loss"].item() == pytest.approx(by_token, rel=1e-5)


def test_a_toy_is_learned() -> None:
    def batches(step: int, part: int) -> TextBatch:
        rows = some_rows(step, part)
        return collate_texts(
            TOKENIZER, [dataclasses.replace(EXAMPLES[row], key=f"picture {row}") for row in rows]
        )

    config = PretrainingObjective(contrast=ContrastConfig(queue_size=6, momentum=0.9))
    rates = LearningRates(vision_tower=1e-3, rest=1e-3)
    found = PretrainingExperiment(calm(tiny(WholeModel)), config, setup(batches, learning_rates=rates))
    run = Loop(found).run(range(150))
    for name in TERMS:
        early, late = (sum(each[name] for each in some) for some in (run[8:18], run[-10:]))
        assert late < 0.88 * early, name


@pytest.mark.parametrize("term", TERMS)
def test_every_term_has_a_switch_and_a_weight(term: str) -> None:
    weight = term.replace("_loss", "_weight")
    every = losses(experiment())
    assert tuple(every) == TERMS
    without = losses(experiment(weights={weight: 0.0}))
    assert tuple(without) == tuple(name for name in TERMS if name != term)
    doubled = losses(experiment(weights={weight: 2.0}))
    assert doubled[term] == pytest.approx(2 * every[term], rel=1e-5)
    alone = experiment(weights={**ALONE, weight: 1.0})
    assert tuple(losses(alone)) == (term,)
    assert isinstance(alone.model, WithTwin)
    assert (alone.model.twin is not None) == (term == "itc_loss")
    assert (len(alone.model.heads) > 0) == (term == "mlm_loss")


def test_nothing_to_minimise_is_refused() -> None:
    with pytest.raises(ConfigError, match="one must be above 0"):
        objective(**ALONE)


def test_gradients_reach_what_they_should() -> None:
    found = experiment()
    found.model.train()
    total(found.losses(0, 0).values()).backward()  # type: ignore[no-untyped-call]
    without = [name for name, each in found.model.named_parameters() if each.grad is None]
    assert all(name.startswith("twin.") for name in without)
    head = experiment(weights={**ALONE, "mlm_weight": 1.0})
    head.losses(0, 0)["mlm_loss"].backward()  # type: ignore[no-untyped-call]
    assert head.trained.text_encoder.embeddings.word.weight.grad is not None
    assert head.trained.text_decoder.head.dense.weight.grad is None
    names = [name for group in head.parameter_groups() for name, _ in group.parameters]
    assert "heads.mlm.dense.weight" in names


def test_a_restored_run_is_the_unbroken_one() -> None:
    check_restored(experiment)


def test_what_is_saved_does_every_task(tmp_path: Path) -> None:
    found = experiment()
    found.save(tmp_path)
    weights: dict[str, Any] = {}
    for task in ("retrieval", "rerank", "caption", "vqa"):
        model: Any = load(tmp_path, task=task)
        weights |= model.state_dict()
    assert weights.keys() == found.trained.state_dict().keys()
    assert all(torch.equal(weights[name], each) for name, each in found.trained.state_dict().items())


def test_bfloat16_autocast_is_near_float32() -> None:
    exact = losses(experiment())
    with torch.autocast("cpu", torch.bfloat16):
        found = experiment()
        rounded = losses(found)
        torch.manual_seed(0)
        total(found.losses(0, 0).values()).backward()  # type: ignore[no-untyped-call]
    for name in TERMS:
        assert rounded[name] == pytest.approx(exact[name], rel=0.05), name


def test_a_model_of_all_tasks_is_one_of_each() -> None:
    model = tiny(WholeModel, tiny_whole_config())
    assert isinstance(model, MatchingModel)
    assert isinstance(model, VqaModel)
    assert len({id(each) for each in model.parameters()}) == len(model.state_dict())
