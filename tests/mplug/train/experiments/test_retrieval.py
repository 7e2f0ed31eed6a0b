"""Fine-tuning for retrieval: the reference's losses, twins, queue, and what is saved."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from experiment_cases import (
    EXAMPLES,
    TOKENIZER,
    Loop,
    check_restored,
    golden_texts,
    setup,
    some_rows,
    text_batch,
    total,
)
from golden.mplug_cases import GoldenCase, some_pixels, tiny, tiny_whole_config
from mplug import load
from mplug.loading import load_as
from mplug.retrieval import RetrievalModel
from mplug.train.experiments import contrast
from mplug.train.experiments.base import WithTwin, evaluating, image_tokens
from mplug.train.experiments.batches import (
    CaptionExample,
    TextBatch,
    collate_texts,
    identity_number,
    tokenize,
)
from mplug.train.experiments.evaluators import EvaluationBatch
from mplug.train.experiments.models import MatchingModel
from mplug.train.experiments.retrieval import RetrievalExperiment
from mplug.train.experiments.search_evaluator import SearchEvaluator
from mplug.train.experiments.settings import ContrastConfig, LearningRates, RetrievalObjective
from mplug.train.experiments.starting import with_backbone
from mplug.train.objectives import NO_IDENTITY, matching_pairs

TOLERANCE = 1e-5
SMALL_QUEUE = RetrievalObjective(contrast=ContrastConfig(queue_size=20, momentum=0.9))


def experiment(seed: int = 0) -> RetrievalExperiment:
    return RetrievalExperiment(tiny(MatchingModel, seed=seed), SMALL_QUEUE, setup(text_batch))


def twin_of(experiment: RetrievalExperiment) -> RetrievalModel:
    assert isinstance(experiment.model, WithTwin)
    assert experiment.model.twin is not None
    return experiment.model.twin


def golden_experiment(case: GoldenCase, folder: Path) -> RetrievalExperiment:
    model = load_as(case.write_modelscope(folder / "model"), MatchingModel)
    model.train()
    batch = golden_texts(case, "text", identity_B=case.io["idx"].flatten())
    found = RetrievalExperiment(
        model, RetrievalObjective(), setup(lambda step, part: batch, steps_per_epoch=1)
    )
    twins = {key.replace("_m.", ".", 1): t for key, t in case.weights.items() if "_m." in key}
    stored = load(case.write_modelscope(folder / "twin", {**twins, "temp": case.weights["temp"]}))
    assert isinstance(stored, RetrievalModel)
    twin_of(found).load_state_dict(stored.state_dict())
    found.restore(
        {
            "image_queue": case.weights["image_queue"].T.clone(),
            "text_queue": case.weights["text_queue"].T.clone(),
            "identity_queue": case.weights["idx_queue"][0].clone(),
            "queue_position": int(case.weights["queue_ptr"]),
        }
    )
    return found


def test_golden_losses_gradients_and_queue(retrieval_case: GoldenCase, tmp_path: Path) -> None:
    stored, found = retrieval_case.described["train"], golden_experiment(retrieval_case, tmp_path)
    found.after_step(0)  # the reference moves its twins before it asks them

    terms = found.losses(1, 0)

    assert terms["itc_loss"].item() == pytest.approx(stored["loss_ita"], rel=TOLERANCE)
    assert terms["itm_loss"].item() == pytest.approx(stored["loss_itm_out_of_place"], rel=TOLERANCE)
    total(terms.values()).backward()  # type: ignore[no-untyped-call]
    gradient = found.trained.itm_head.weight.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, retrieval_case.io["grad.itm_head.weight"], rtol=1e-4, atol=1e-6)
    found.after_step(1)
    after = found.contrast.queue
    torch.testing.assert_close(after.image_QE.T, retrieval_case.io["after_step.image_queue"])
    assert after.identity_Q.tolist() == retrieval_case.io["after_step.idx_queue"][0].tolist()


def test_a_toy_is_learned() -> None:
    def batches(step: int, part: int) -> TextBatch:
        rows = some_rows(step, part)
        return collate_texts(
            TOKENIZER, [dataclasses.replace(EXAMPLES[row], key=f"picture {row}") for row in rows]
        )

    config = RetrievalObjective(contrast=ContrastConfig(queue_size=6, momentum=0.9))
    rates = LearningRates(vision_tower=1e-3, rest=1e-3)
    found = RetrievalExperiment(tiny(MatchingModel), config, setup(batches, learning_rates=rates))
    losses = Loop(found).run(range(80))
    early, late = losses[8:12], losses[-4:]  # the queue is full of real embeddings after a few steps
    for name in ("itc_loss", "itm_loss"):
        assert sum(each[name] for each in late) < 0.8 * sum(each[name] for each in early), name


def test_the_twin_gets_no_gradient_and_moves_by_momentum() -> None:
    found = experiment()
    before = {name: each.clone() for name, each in twin_of(found).named_parameters()}
    loop = Loop(found)
    total(found.losses(0, 0).values()).backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is None for each in twin_of(found).parameters())
    assert all(each.grad is not None for each in found.trained.image_encoder.parameters())
    loop.step(0)
    theirs = dict(found.trained.named_parameters())
    for name, each in twin_of(found).named_parameters():
        torch.testing.assert_close(each, 0.9 * before[name] + 0.1 * theirs[name], atol=1e-6, rtol=1e-5)
    assert not twin_of(found).training
    names = [name for group in found.parameter_groups() for name, _ in group.parameters]
    assert not [name for name in names if name.startswith("twin.")]
    assert len(names) == len(list(found.trained.parameters()))


def test_the_tower_has_a_learning_rate_of_its_own() -> None:
    groups = {group.name: group for group in experiment().parameter_groups()}
    assert (groups["vision_tower"].lr, groups["rest"].lr) == (1e-3, 2e-3)
    assert all(".backbone." in name for name, _ in groups["vision_tower"].parameters)
    assert any("adapter" in name for name, _ in groups["rest"].parameters)


def test_alpha_grows_over_the_first_epoch() -> None:
    found = experiment().contrast
    assert [found.alpha(step) for step in (0, 1, 2, 4, 100)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])


def test_a_step_of_several_parts_turns_the_queue_once() -> None:
    found = experiment()
    loop = Loop(found, parts=2)
    assert found.contrast.queue.identity_Q.tolist() == [NO_IDENTITY] * 20
    loop.step(0)
    pushed = [*text_batch(0, 0).identity_B.tolist(), *text_batch(0, 1).identity_B.tolist()]
    assert found.contrast.queue.identity_Q.tolist() == [*pushed, *[NO_IDENTITY] * 8]


def test_a_restored_run_is_the_unbroken_one() -> None:
    check_restored(experiment)


def test_hard_negatives_never_share_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[TextBatch, list[int]]] = []
    drawn = matching_pairs

    def watched(*states: torch.Tensor, **picks: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append((batches[-1], [*picks["image_picks_B"].tolist(), *picks["text_picks_B"].tolist()]))
        return drawn(*states, **picks)

    batches: list[TextBatch] = []

    def keep(step: int, part: int) -> TextBatch:
        batches.append(text_batch(step, part))
        return batches[-1]

    monkeypatch.setattr(contrast, "matching_pairs", watched)
    Loop(RetrievalExperiment(tiny(MatchingModel), SMALL_QUEUE, setup(keep))).run(range(10))
    for batch, picks in seen:
        identity = batch.identity_B.tolist()
        assert all(identity[pick] != mine for pick, mine in zip(picks, [*identity, *identity], strict=True))
    assert len(seen) == 10


def test_what_is_saved_searches_and_reranks_like_the_trained_model(tmp_path: Path) -> None:
    found = experiment()
    Loop(found).run(range(3))
    found.save(tmp_path)
    batch, pixels = text_batch(0, 0), some_pixels(6)
    with evaluating(found.model):
        embeds = found.trained.embed_images(pixels)
        tokens = found.trained.encode_image(pixels)
        scores = found.trained.itm_scores(tokens, batch.ids_BL, batch.mask_BL)
    searching, reranking = load(tmp_path), load(tmp_path, task="rerank")
    with torch.no_grad():
        assert torch.equal(searching.embed_images(pixels), embeds)
        tokens = reranking.encode_image(pixels)
        assert torch.equal(reranking.itm_scores(tokens, batch.ids_BL, batch.mask_BL), scores)


def test_evaluation_asks_the_evaluator_and_restores_the_mode() -> None:
    modes = []

    def evaluate(model: MatchingModel) -> dict[str, float]:
        modes.append((model.training, torch.is_grad_enabled()))
        return {"recall": 1.0}

    found = RetrievalExperiment(tiny(MatchingModel), SMALL_QUEUE, setup(text_batch, evaluate))
    found.model.train()
    assert found.evaluate() == {"recall": 1.0}
    assert modes == [(False, False)]
    assert found.trained.training
    assert not twin_of(found).training


def test_bfloat16_autocast_is_near_float32() -> None:
    found = experiment()
    torch.manual_seed(0)
    exact = found.losses(0, 0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        rounded = found.losses(0, 0)
        total(rounded.values()).backward()  # type: ignore[no-untyped-call]
    assert rounded["itc_loss"].dtype == torch.float32
    for name, loss in exact.items():
        assert rounded[name].item() == pytest.approx(loss.item(), rel=0.05)


@pytest.mark.parametrize("backbone", ["timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224"])
def test_another_tower_is_one_value(backbone: str) -> None:
    model = tiny(MatchingModel, with_backbone(tiny_whole_config(), backbone))
    found = RetrievalExperiment(model, SMALL_QUEUE, setup(text_batch))
    losses = Loop(found).run(range(2))
    assert all(np.isfinite([*each.values()]).all() for each in losses)
    assert model.encode_image(some_pixels(1)).shape == (
        1,
        {"lite0": 2, "224": 5}[backbone.split("_")[-1]],
        48,
    )


def test_identities_are_the_same_everywhere_and_bytes_are_told_from_normalised_pictures() -> None:
    assert identity_number("picture 1") == 4227503934269710937
    batch = collate_texts(TOKENIZER, EXAMPLES[:2])
    assert batch.identity_B[0] == batch.identity_B[1]
    model = tiny(MatchingModel)
    normalised = model.image_encoder.normalised(batch.pixels)
    with torch.no_grad():
        assert torch.equal(image_tokens(model, batch.pixels), image_tokens(model, normalised))


def test_one_thing_alone_has_no_negatives() -> None:
    same = [CaptionExample(each.pixels, each.text, "one") for each in EXAMPLES[:3]]
    found = RetrievalExperiment(
        tiny(MatchingModel), SMALL_QUEUE, setup(lambda step, part: collate_texts(TOKENIZER, same))
    )
    with pytest.raises(ValueError, match="needs two different identities"):
        found.losses(0, 0)


def test_evaluation_searches_in_both_directions_and_all_orders() -> None:
    texts = {str(row): [each.text] for row, each in enumerate(EXAMPLES)}
    batch = EvaluationBatch(collate_texts(TOKENIZER, EXAMPLES).pixels, list(texts))
    evaluator = SearchEvaluator(batches=lambda: [batch], texts=texts, rerank_top=4)
    found = RetrievalExperiment(tiny(MatchingModel), SMALL_QUEUE, setup(text_batch, evaluator))
    metrics = found.evaluate()
    assert set(metrics) == {
        "r_mean",
        *(
            f"{direction}_{order}_r{depth}"
            for direction in ("text_to_image", "image_to_text")
            for order in ("itc", "itm", "both")
            for depth in (1, 5, 10)
        ),
    }
    assert metrics["text_to_image_itc_r10"] == 100
    matched = [value for name, value in metrics.items() if "_itm_" in name]
    assert metrics["r_mean"] == pytest.approx(sum(matched) / 6)
    with torch.no_grad():
        cosines = found.trained.embed_texts(*tokenize(TOKENIZER, [each.text for each in EXAMPLES]))
        cosines = cosines @ found.trained.embed_images(batch.pixels).T
    first = (cosines.argmax(1) == torch.arange(8)).float().mean().item() * 100
    assert metrics["text_to_image_itc_r1"] == pytest.approx(first)
