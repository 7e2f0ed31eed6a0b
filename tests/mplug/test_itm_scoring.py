"""The reranker's scores are those of the plain model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden.mplug_cases import GoldenCase, small_vocab, tiny_config
from mplug.checkpoints import modelscope
from mplug.config import FusionEncoderConfig
from mplug.itm_scoring import ItmScorer
from mplug.layers import Attention
from mplug.reranking import RerankModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug_kernels.rates import Rates

MIDDLING = Rates(
    project_flops=90e9, attend_flops=60e9, absorb_flops=80e9, bytes_per_second=20e9, call_seconds=1e-9
)
MACHINES = {
    "always absorbing": replace(MIDDLING, absorb_flops=1e18),
    "never absorbing": replace(MIDDLING, absorb_flops=1.0),
    "middling": MIDDLING,
}


def rerank_model(layers: int, stride: int, *, seed: int = 0) -> RerankModel:
    fusion = FusionEncoderConfig(
        hidden=48, layers=layers, stride_layer=stride, heads=4, ffn=64, memory_width=48
    )
    config = tiny_config(fusion_encoder=fusion)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RerankModel(config, WordPieceTokenizer(small_vocab(130), max_length=25)).eval()
        for parameter in model.fusion_encoder.parameters():
            parameter.data *= 2  # attention sharper than at initialisation
    return _spread(model)


@torch.no_grad()
def _spread(model: RerankModel) -> RerankModel:
    # A head under which scores differ: the margin of some pairs has mean 0 and deviation 1.
    model.itm_head.weight[0] = -model.itm_head.weight[1]
    ids = some_ids(8).expand(16, -1)
    margin_B = model.itm_logits(some_images(16), ids, ids != 0).diff(dim=1)[:, 0]
    model.itm_head.weight /= margin_B.std()
    margin_B = model.itm_logits(some_images(16), ids, ids != 0).diff(dim=1)[:, 0]
    model.itm_head.bias[1] -= margin_B.mean()
    return model


def some_images(count: int, tokens: int = 17, *, seed: int = 1) -> Tensor:
    return torch.randn(count, tokens, 48, generator=torch.Generator().manual_seed(seed))


def some_ids(length: int) -> Tensor:
    return torch.tensor([[101, *range(5, 3 + length), 102]])


def plain(model: RerankModel, ids: Tensor, images: Tensor) -> Tensor:
    with torch.inference_mode():
        rows = ids.expand(len(images), -1)
        return model.itm_scores(images, rows, torch.ones_like(rows, dtype=torch.bool))


def worst(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    assert ours.dtype == torch.float32
    return float((ours - reference).abs().max())


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("stride", [1, 2, 3, 6])
@pytest.mark.parametrize("layers", [1, 2, 3, 5, 6])
def test_scores_are_those_of_the_model(layers: int, stride: int, machine: str) -> None:
    model, images, ids = rerank_model(layers, stride), some_images(7), some_ids(9)
    reference = plain(model, ids, images)
    assert reference.std() > 0.01, "equal scores would prove nothing"
    scorer = ItmScorer(model, machine=MACHINES[machine], chunk_bytes=100_000)
    assert worst(scorer.score(ids, images), reference) < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    layers=st.integers(1, 7),
    stride=st.integers(1, 7),
    count=st.integers(1, 9),
    tokens=st.integers(2, 30),
    length=st.integers(2, 20),
    padding=st.integers(0, 5),
    chunk_bytes=st.integers(1, 1_000_000),
    machine=st.sampled_from(sorted(MACHINES)),
    seed=st.integers(0, 1000),
)
def test_scores_are_those_of_the_model_for_any_shape(
    layers: int,
    stride: int,
    count: int,
    tokens: int,
    length: int,
    padding: int,
    chunk_bytes: int,
    machine: str,
    seed: int,
) -> None:
    # In float64: weights that sharpen attention and the head sharpen float32's rounding as well.
    model = rerank_model(layers, stride, seed=seed).double()
    images, ids = some_images(count, tokens).double(), some_ids(length)
    padded = torch.nn.functional.pad(ids, (0, padding))
    scorer = ItmScorer(model, machine=MACHINES[machine], chunk_bytes=chunk_bytes)
    ours = scorer.score(padded, list(images), mask_1L=padded != 0)
    assert worst(ours, plain(model, ids, images)) < 1e-6


@pytest.mark.parametrize("texts", [1, 2, 100])
@pytest.mark.parametrize(("layers", "stride"), [(6, 3), (6, 6), (4, 1), (5, 4), (1, 1), (5, 2)])
def test_pictures_prepared_once_serve_many_texts(layers: int, stride: int, texts: int) -> None:
    model, images = rerank_model(layers, stride), some_images(3)
    before = images.clone()
    scorer = ItmScorer(model, machine=MIDDLING)
    prepared = scorer.prepare_images(images, texts=texts)
    for length in (3, 12, 7):
        ids = some_ids(length)
        ours = scorer.score_chunk(scorer.prepare_text(ids), prepared)
        assert worst(ours, plain(model, ids, images)) < 1e-5
    assert torch.equal(images, before), "the caller's tokens stay as they are"


def test_what_texts_share_is_prepared_only_where_it_pays() -> None:
    scorer = ItmScorer(rerank_model(6, 3), machine=MIDDLING)
    alone = scorer.prepare_images(some_images(3))
    assert (len(alone.key_values), alone.joint) == (0, None)
    many = scorer.prepare_images(some_images(3), texts=100)
    assert sorted(many.key_values) == [0, 1, 2], "the layers in front of the first connected one"
    assert many.joint is not None
    # Where the connected layer is the last, only [CLS] looks at the picture.
    assert (
        ItmScorer(rerank_model(4, 3), machine=MIDDLING).prepare_images(some_images(3), texts=9).joint is None
    )


@pytest.mark.parametrize(("stride", "called"), [(3, 1), (6, 0)])
def test_keys_of_the_picture_are_made_only_by_connected_layers(
    stride: int, called: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, ids = rerank_model(6, stride), some_images(4, tokens=40), some_ids(6)
    scorer = ItmScorer(model, machine=MACHINES["always absorbing"])
    projected: list[int] = []

    def spy(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        projected.append(inputs[0].shape[1])

    for module in model.fusion_encoder.modules():
        if isinstance(module, Attention):
            module.key.register_forward_pre_hook(spy)
    scorer.score(ids, images)
    assert sum(rows >= 40 for rows in projected) == called
    assert {rows for rows in projected if rows < 40} == {6}, "the text is not padded"


def test_the_text_is_encoded_once() -> None:
    model, images = rerank_model(3, 3), some_images(9)
    batches: list[tuple[int, ...]] = []
    model.text_encoder.register_forward_pre_hook(lambda _, inputs: batches.append(tuple(inputs[0].shape)))
    scored = ItmScorer(model, machine=MIDDLING, chunk_bytes=1).score(some_ids(5), images)
    assert (batches, len(scored)) == ([(1, 5)], 9)


@pytest.mark.parametrize("in_time", [0, 1, 3, 100])
def test_the_deadline_stops_between_chunks(in_time: int) -> None:
    model, images, ids = rerank_model(3, 3), some_images(8), some_ids(5)
    scorer = ItmScorer(model, machine=MIDDLING, chunk_bytes=1)  # one candidate a chunk
    left = in_time

    def deadline() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    scored = scorer.score(ids, images, deadline=deadline)
    assert len(scored) == min(in_time, 8)
    assert worst(scored, plain(model, ids, images)[: len(scored)]) < 1e-5 if len(scored) else True


@given(count=st.integers(0, 100), chunk_bytes=st.integers(1, 400_000))
def test_chunks_cover_every_candidate_once_within_the_budget(count: int, chunk_bytes: int) -> None:
    scorer = ItmScorer(SMALL, machine=MIDDLING, chunk_bytes=chunk_bytes)
    text = scorer.prepare_text(some_ids(5))
    sizes = [part.stop - part.start for part in scorer.chunks(some_images(count), text)]
    covered = [number for part in scorer.chunks(some_images(count), text) for number in range(count)[part]]
    assert covered == list(range(count))
    if sizes:
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
        assert max(sizes) == 1 or max(sizes) * 17 * 48 * 4 <= chunk_bytes


SMALL = rerank_model(2, 2)


def test_no_candidates_no_scores() -> None:
    scorer = ItmScorer(SMALL, machine=MIDDLING)
    assert scorer.score(some_ids(5), []).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_tokens_may_be_of_another_dtype(dtype: torch.dtype) -> None:
    images, ids = some_images(4).to(dtype), some_ids(5)
    ours = ItmScorer(SMALL, machine=MIDDLING).score(ids, images)
    assert worst(ours, plain(SMALL, ids, images.float())) < 1e-5


def test_a_model_in_bfloat16_scores_nearly_the_same() -> None:
    model, images, ids = rerank_model(6, 3), some_images(16), some_ids(9)
    reference = plain(model, ids, images)
    narrow = plain(model.to(torch.bfloat16), ids, images.bfloat16())
    ours = ItmScorer(model, machine=MACHINES["always absorbing"]).score(ids, images)
    assert (ours - reference).abs().mean() < 1.5 * (narrow - reference).abs().mean() + 0.005


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (some_ids(5).expand(2, -1), None, r"ids are \(2, 5\); candidates are scored for one text"),
        (some_ids(3), torch.tensor([[True, False, True]]), "its padding must be behind it"),
        (some_ids(3), torch.zeros(1, 3, dtype=torch.bool), "the text must have a token"),
    ],
)
def test_texts_that_cannot_be_are_refused(ids: Tensor, mask: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItmScorer(SMALL, machine=MIDDLING).score(ids, some_images(2), mask_1L=mask)


@pytest.mark.parametrize("machine", MACHINES)
def test_scores_are_those_of_the_reference(
    machine: str, retrieval_case: GoldenCase, retrieval_folder: Path
) -> None:
    model = modelscope.load(retrieval_folder, RerankModel)
    scorer = ItmScorer(model, machine=MACHINES[machine])
    io = retrieval_case.io
    for row, image in enumerate(io["image_embeds"]):
        ids, mask = io["text_input_ids"][row : row + 1], io["text_attention_mask"][row : row + 1]
        score = scorer.score(ids, [image], mask_1L=mask)
        assert worst(score, io["itm_scores"][row : row + 1, 1]) < 1e-5
