"""Losses, gradients and training state of the reference's fine-tuning steps."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from golden.mplug_cases import GoldenCase, read_case
from mplug.loading import load
from mplug.reranking import RerankModel
from mplug.retrieval import RetrievalModel
from mplug.train.objectives import (
    NO_IDENTITY,
    FeatureQueue,
    ItcResult,
    JointBatch,
    answer_loss,
    caption_loss,
    draw_negatives,
    itm_loss,
    matching_pairs,
    queued_itc_loss,
    spread,
    token_losses,
    update_twin,
)
from mplug.vqa import VqaModel

TOLERANCE = 1e-5


def close(ours: Tensor, reference: Tensor) -> None:
    assert ours.shape == reference.shape
    assert float((ours - reference).abs().max() / reference.abs().max()) < TOLERANCE


def image_tokens(model: Any, image: Tensor) -> Tensor:
    """Tower and bridge on the golden picture, which is stored normalised."""
    tokens: Tensor = model.image_encoder.adapter(model.image_encoder.backbone(image))
    return tokens


def check_encoder_gradients(model: Any, case: GoldenCase) -> None:
    conv = model.image_encoder.backbone.tower.patch_embed.proj.weight.grad
    close(conv, case.io["grad.visual_encoder.visual.conv1.weight"])
    words = model.text_encoder.embeddings.word.weight.grad
    close(words, case.io["grad.text_encoder.embeddings.word_embeddings.weight"])


# Answers and captions.


def answer_step(model: VqaModel, case: GoldenCase, answer: str, answers_B: Tensor) -> Tensor:
    io = case.io
    tokens = image_tokens(model, io["image"])
    memory, mask = model.decoder_memory(
        tokens, io["question_input_ids"], io["question_attention_mask"].bool()
    )
    ids = io[f"{answer}_input_ids"]
    logits = model.text_decoder(
        ids,
        spread(memory, answers_B),
        mask_BL=io[f"{answer}_attention_mask"].bool(),
        memory_mask_BN=spread(mask, answers_B),
    )
    weights = io.get(f"{answer}_weights")
    return answer_loss(logits, ids, num_images=len(tokens), weights_A=weights)


@pytest.mark.parametrize("name", ["vqa_base", "vqa_distill", "vqa_large", "vqa_stride6"])
def test_answer_loss_and_gradients(name: str, tmp_path: Path) -> None:
    case = read_case(name)
    model = load(case.write_modelscope(tmp_path), task="vqa").train()
    stored = case.described["train"]

    loss = answer_step(model, case, "answer", torch.tensor([1, 1]))

    assert loss.item() == pytest.approx(stored.get("loss_out_of_place", stored["loss"]), rel=TOLERANCE)
    if name != "vqa_distill":  # its gradients were not stored
        loss.backward()  # type: ignore[no-untyped-call]
        check_encoder_gradients(model, case)


@pytest.mark.parametrize("name", ["vqa_base", "vqa_large", "vqa_stride6"])
def test_several_weighted_answers_to_one_question(name: str, tmp_path: Path) -> None:
    case = read_case(name)
    model = load(case.write_modelscope(tmp_path), task="vqa")
    loss = answer_step(model, case, "answer3", torch.tensor([2, 1]))
    assert loss.item() == pytest.approx(case.described["train"]["loss_k21_weighted"], rel=TOLERANCE)


def test_caption_loss_and_that_no_text_encoder_is_needed(tmp_path: Path) -> None:
    case = read_case("caption_large")
    model = load(case.write_modelscope(tmp_path), task="caption")
    ids, mask = case.io["answer_input_ids"], case.io["answer_attention_mask"]
    logits = model.text_decoder(ids, image_tokens(model, case.io["image"]), mask_BL=mask.bool())
    assert caption_loss(logits, ids).item() == pytest.approx(case.described["train"]["loss"], rel=TOLERANCE)


def test_token_losses_are_of_the_next_token_and_never_of_padding() -> None:
    ids = torch.tensor([[5, 6, 7], [5, 6, 0]])
    logits = torch.full((2, 3, 10), -50.0)
    logits[:, 0, 6], logits[:, 1, 7], logits[:, 2, :] = 50.0, 50.0, float("nan")
    losses = token_losses(logits, ids, pad_id=0)
    assert losses.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert caption_loss(logits, ids).item() == 0.0
    assert token_losses(logits.flip(1), ids, pad_id=9).isnan().sum() == 2


def test_given_tokens_are_not_guessed_and_labels_can_be_smoothed() -> None:
    ids = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])
    logits = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    given = torch.tensor([2, 1])
    losses = token_losses(logits, ids, pad_id=0, given_B=given)
    everything = token_losses(logits, ids, pad_id=0)
    assert (losses != 0).tolist() == [[False, False, True], [False, True, False]]
    assert torch.equal(losses[losses != 0], everything[losses != 0])
    assert caption_loss(logits, ids, given_B=given).item() == pytest.approx(float(losses.sum()) / 2)
    log_p = logits[0, 2].log_softmax(0)
    smoothed = -(0.9 * log_p[2] + 0.1 * log_p.mean())
    found = token_losses(logits, ids, pad_id=0, given_B=given, label_smoothing=0.1)
    assert found[0, 2].item() == pytest.approx(float(smoothed), rel=1e-5)


# Retrieval: both losses, with twins and a queue.


class RetrievalStep:
    """The golden step: contrastive half, matching half on the same encoders, twins, queue."""

    def __init__(self, case: GoldenCase, folder: Path) -> None:
        self.io = case.io
        self.model = self._contrastive(case.write_modelscope(folder / "model"))
        self.matching = load(folder / "model", task="rerank")
        self.matching.image_encoder = self.model.image_encoder
        self.matching.text_encoder = self.model.text_encoder
        twins = {
            key.replace("_m.", ".", 1): tensor
            for key, tensor in case.weights.items()
            if key.split(".")[0].endswith("_m")
        }
        weights = {**twins, "temp": case.weights["temp"]}
        self.twin = self._contrastive(case.write_modelscope(folder / "twin", weights))
        self.queue = FeatureQueue(
            image_QE=case.weights["image_queue"].T.clone(),
            text_QE=case.weights["text_queue"].T.clone(),
            identity_Q=case.weights["idx_queue"][0].clone(),
            position=int(case.weights["queue_ptr"]),
        )
        self.ids = self.io["text_input_ids"]
        self.mask = self.io["text_attention_mask"].bool()

    def _contrastive(self, folder: Path) -> RetrievalModel:
        model = load(folder)
        assert isinstance(model, RetrievalModel)
        return model.train()

    def embed(self, model: RetrievalModel) -> tuple[JointBatch, Tensor, Tensor]:
        tokens = image_tokens(model, self.io["image"])
        states = model.encode_text(self.ids, self.mask)
        image, text = model.project_image(tokens), model.project_text(states, self.mask)
        return JointBatch(image, text, self.io["idx"].flatten()), tokens, states

    def contrast(self) -> tuple[ItcResult, Tensor, Tensor]:
        with torch.no_grad():
            update_twin(self.twin, self.model)
            twin, _, _ = self.embed(self.twin)
        batch, tokens, states = self.embed(self.model)
        result = queued_itc_loss(batch, twin, self.queue, self.model.logit_scale.exp(), alpha=0.4)
        self.queue.push(twin.image_BE, twin.text_BE, twin.identity_B)
        return result, tokens, states

    def match(self, tokens: Tensor, states: Tensor, picks: list[int]) -> Tensor:
        count = len(tokens)
        images, texts, masks = matching_pairs(
            tokens,
            states,
            self.mask,
            image_picks_B=torch.tensor(picks[:count]),
            text_picks_B=torch.tensor(picks[count:]),
        )
        matching: RerankModel = self.matching
        _, fused = matching.fusion_encoder(images, texts, text_mask_BL=masks)
        logits: Tensor = matching.itm_head(fused[:, 0])
        return logits


@pytest.fixture
def retrieval_step(retrieval_case: GoldenCase, tmp_path: Path) -> RetrievalStep:
    return RetrievalStep(retrieval_case, tmp_path)


def test_retrieval_losses_and_gradients(retrieval_case: GoldenCase, retrieval_step: RetrievalStep) -> None:
    stored, step = retrieval_case.described["train"], retrieval_step
    picks = stored["multinomial_picks_in_call_order_t2i_then_i2t"]

    contrastive, tokens, states = step.contrast()
    logits = step.match(tokens, states, picks)
    matching = itm_loss(logits)

    assert contrastive.loss.item() == pytest.approx(stored["loss_ita"], rel=TOLERANCE)
    assert matching.item() == pytest.approx(stored["loss_itm_out_of_place"], rel=TOLERANCE)
    total = contrastive.loss + matching
    assert total.item() == pytest.approx(stored["loss_total_out_of_place"], rel=TOLERANCE)
    total.backward()  # type: ignore[no-untyped-call]
    check_encoder_gradients(step.model, retrieval_case)
    assert step.matching.itm_head.weight.grad is not None
    close(step.matching.itm_head.weight.grad, retrieval_case.io["grad.itm_head.weight"])
    # logit_scale = -log(temp), so d/dtemp = d/dlogit_scale * (-1 / temp).
    assert step.model.logit_scale.grad is not None
    close(-step.model.logit_scale.grad / retrieval_case.weights["temp"], retrieval_case.io["grad.temp"])


def test_retrieval_state_after_a_step(retrieval_case: GoldenCase, retrieval_step: RetrievalStep) -> None:
    after = {
        key.removeprefix("after_step."): t for key, t in retrieval_case.io.items() if "after_step" in key
    }
    retrieval_step.contrast()
    queue = retrieval_step.queue
    close(queue.image_QE.T, after["image_queue"])
    close(queue.text_QE.T, after["text_queue"])
    assert queue.identity_Q.tolist() == after["idx_queue"][0].tolist()
    assert queue.position == int(after["queue_ptr"])
    # The queue holds features of the twins after their update. The stored text_proj_m is the one from before it.
    close(retrieval_case.weights["text_proj_m.weight"], after["text_proj_m.weight"])


def test_drawn_negatives_follow_the_stored_picks(
    retrieval_case: GoldenCase, retrieval_step: RetrievalStep
) -> None:
    # Two different pictures: each has one possible negative, which is what the reference drew.
    picks = retrieval_case.described["train"]["multinomial_picks_in_call_order_t2i_then_i2t"]
    contrastive, _, _ = retrieval_step.contrast()
    identity = retrieval_case.io["idx"].flatten()
    assert draw_negatives(contrastive.text_to_image_BB, identity).tolist() == picks[:2]
    assert draw_negatives(contrastive.image_to_text_BB, identity).tolist() == picks[2:]


@given(
    identity=st.lists(st.integers(0, 3), min_size=2, max_size=9).filter(lambda values: len(set(values)) > 1),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.0, 1.0, 300.0]),
)
def test_a_negative_never_shows_the_same_thing(identity: list[int], seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.tensor(identity)
    similarity = scale * torch.rand(len(identity), len(identity), generator=generator)
    picks = draw_negatives(similarity, numbers, generator)
    assert not (numbers[picks] == numbers).any()
    again = draw_negatives(similarity, numbers, torch.Generator().manual_seed(seed))
    assert torch.equal(again, draw_negatives(similarity, numbers, torch.Generator().manual_seed(seed)))


def test_likelier_negatives_are_drawn_more_often() -> None:
    rows = 4000
    identity = torch.cat([torch.zeros(rows - 2, dtype=torch.int64), torch.tensor([1, 2])])
    similarity = torch.zeros(rows, rows)
    similarity[:, -1] = math.log(3)
    picks = draw_negatives(similarity, identity, torch.Generator().manual_seed(1))[:-2]
    assert (picks == rows - 1).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_a_batch_of_one_thing_has_no_negatives() -> None:
    with pytest.raises(ValueError, match="needs two different identities"):
        draw_negatives(torch.zeros(2, 2), torch.tensor([4, 4]))


def test_a_queue_wraps_round_whatever_the_batch() -> None:
    queue = FeatureQueue.random(5, 3, torch.Generator().manual_seed(0))
    assert torch.allclose(queue.image_QE.norm(dim=1), torch.ones(5))
    assert queue.identity_Q.tolist() == [NO_IDENTITY] * 5
    for first in (0, 3):
        rows = torch.arange(first, first + 3.0)[:, None].expand(3, 3)
        queue.push(rows, -rows, torch.arange(first, first + 3))
    assert queue.identity_Q.tolist() == [5, 1, 2, 3, 4]
    assert queue.image_QE[:, 0].tolist() == [5, 1, 2, 3, 4]
    assert queue.text_QE[:, 0].tolist() == [-5, -1, -2, -3, -4]
    assert queue.position == 1
    with pytest.raises(ValueError, match="a batch of 6 does not fit a queue of 5"):
        queue.push(torch.zeros(6, 3), torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64))


@given(alpha=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 2**31))
def test_a_perfect_twin_makes_the_soft_part_an_entropy(alpha: float, seed: int) -> None:
    # With alpha 1 and the model as its own twin the loss is the entropy of the model's distribution.
    generator = torch.Generator().manual_seed(seed)
    rows = nn.functional.normalize(torch.randn(4, 6, generator=generator), dim=1)
    batch = JointBatch(rows, rows.flip(1), torch.arange(4))
    queue = FeatureQueue.random(5, 6, generator)
    loss = queued_itc_loss(batch, batch, queue, torch.tensor(10.0), alpha=alpha).loss
    sides = [
        (rows, torch.cat([rows.flip(1), queue.text_QE])),
        (rows.flip(1), torch.cat([rows, queue.image_QE])),
    ]
    entropies, hard = [], []
    for left, right in sides:
        log_p = (10.0 * left @ right.T).log_softmax(1)
        entropies.append(-(log_p.exp() * log_p).sum(1).mean())
        hard.append(-log_p.diagonal().mean())
    expected = alpha * sum(entropies) / 2 + (1 - alpha) * sum(hard) / 2
    assert loss.item() == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_twins_move_towards_the_model() -> None:
    model = nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.weight += 1
    update_twin(twin, model, momentum=0.75)
    assert torch.allclose(twin.weight, model.weight - 0.75)
    with pytest.raises(ValueError, match=r"not twins, the model lacks 0\.bias, 0\.weight"):
        update_twin(nn.Sequential(model), model)


def test_twins_take_statistics_over_and_need_not_have_all_of_the_model() -> None:
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(3), "head": nn.Linear(3, 2)})
    twin = nn.ModuleDict({"norm": copy.deepcopy(model["norm"])})
    model["norm"].train()(torch.randn(8, 3))
    update_twin(twin, model)
    assert torch.equal(twin.state_dict()["norm.running_var"], model.state_dict()["norm.running_var"])


def test_matching_pairs_are_laid_out_as_the_reference_does() -> None:
    images, texts = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[[10.0]], [[20.0]]])
    mask = torch.tensor([[True], [False]])
    pairs = matching_pairs(
        images, texts, mask, image_picks_B=torch.tensor([1, 0]), text_picks_B=torch.tensor([1, 0])
    )
    assert [side.flatten().tolist() for side in pairs] == [
        [1, 2, 2, 1, 1, 2],
        [10, 20, 10, 20, 20, 10],
        [True, False, True, False, False, True],
    ]
    sure = torch.tensor([[-9.0, 9.0]] * 2 + [[9.0, -9.0]] * 4)
    assert itm_loss(sure).item() < 1e-6
    assert itm_loss(-sure).item() > 10
