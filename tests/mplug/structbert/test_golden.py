"""The reference's own numbers, through the folders that users have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden.mplug_cases import small_vocab
from golden.structbert_cases import FAQ_CASES, StructBertCase, read_plug_mental_case, read_structbert_case
from mplug.structbert import AdapterConfig, Classifier, FaqAnswerer, Tagger, WordFiller, load
from mplug.structbert.checkpoint import fill
from mplug.structbert.settings import read_settings, to_config
from mplug.text.tokenizer import WordPieceTokenizer

TOLERANCE = 1e-5


def relative_error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.abs().max())


@torch.inference_mode()
def test_classifier(tmp_path: Path) -> None:
    case = read_structbert_case("seq_cls")
    model = load(case.write(tmp_path / "case"), Classifier)
    ids, mask, types = case.batch
    assert not mask.all(), "the golden batch has padding"
    encoder = model.encoder.text_encoder
    words = encoder.embeddings.word(ids)
    assert relative_error(words, case.io["word_embeddings_only"]) == 0
    states = encoder.states(encoder.embeddings(ids, types), mask)
    for number, state in enumerate(states):
        assert relative_error(state, case.io[f"hidden{number}"]) < TOLERANCE
    assert relative_error(model.encoder(ids, mask, types).pooled_BD, case.io["pooler_output"]) < TOLERANCE
    assert relative_error(model(ids, mask, types), case.io["logits"]) < TOLERANCE
    assert relative_error(model(ids, mask), case.io["logits_no_token_types"]) < TOLERANCE
    assert model.report.unknown == ()


def test_losses_of_a_classifier(tmp_path: Path) -> None:
    case = read_structbert_case("seq_cls")
    model = load(case.write(tmp_path / "case"), Classifier)
    ids, mask, types = case.batch
    labels = case.io["labels"]
    expected = case.described
    assert model.loss(ids, mask, labels, types_BL=types).item() == pytest.approx(
        expected["loss_eval"], rel=TOLERANCE
    )
    generator = torch.Generator().manual_seed(3)
    trained = model.train().loss(ids, mask, labels, types_BL=types, generator=generator)
    assert trained.item() == pytest.approx(expected["loss_train_with_adv_seed3"], rel=TOLERANCE)
    trained.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.inference_mode()
def test_tagger(tmp_path: Path) -> None:
    case = read_structbert_case("token_cls")
    model = load(case.write(tmp_path / "case"), Tagger)
    ids, mask, types = case.batch
    assert relative_error(model(ids, mask, types), case.io["logits"]) < TOLERANCE
    loss = model.loss(ids, mask, case.io["labels"], types_BL=types)
    assert loss.item() == pytest.approx(case.described["loss_eval"], rel=TOLERANCE)
    assert model.report.unknown == ()


@torch.inference_mode()
def test_filler(tmp_path: Path) -> None:
    case = read_structbert_case("fill_mask")
    model = load(case.write(tmp_path / "case"), WordFiller)
    ids, mask, types = case.batch
    assert relative_error(model(ids, mask, types), case.io["logits"]) < TOLERANCE
    loss = model.loss(ids, mask, case.io["labels"], types_BL=types)
    assert loss.item() == pytest.approx(case.described["loss"], rel=TOLERANCE)
    assert model.report.unknown == ()


@pytest.mark.parametrize("prefixed", [True, False], ids=["network.", "bare"])
@pytest.mark.parametrize("name", FAQ_CASES)
@torch.inference_mode()
def test_faq(name: str, prefixed: bool, tmp_path: Path) -> None:
    case = read_structbert_case(name)
    weights = {f"{'network.' * prefixed}{key}": tensor for key, tensor in case.weights.items()}
    model = load(case.write(tmp_path / "case", weights), FaqAnswerer)
    io = case.io
    known = model.remember_ids(io["support"], io["support_mask"], io["support_labels"])
    logits = model(io["query"], io["query_mask"], known)
    assert relative_error(logits, io["logits"]) < TOLERANCE
    assert relative_error(model.network.scores(logits), io["scores"]) < TOLERANCE
    assert relative_error(model.network.scores(logits), torch.tensor(case.described["scores"])) < TOLERANCE
    states = model.text_encoder(io["query"], io["query_mask"])
    embedded = model.network.embed(states, io["query_mask"].bool())
    assert relative_error(embedded, io["sentence_embedding"]) < TOLERANCE
    assert model.report.unknown == ()


def plug_mental_model(case: StructBertCase, folder: Path) -> Classifier:
    """The reference's constants were made small for this case, and no file holds them."""
    inside = case.described["adapter_constants_patched"]
    settings = read_settings(case.write(folder))
    roomy = dataclasses.replace(settings, config={**settings.config, "adapter_size": 768})
    adapters = AdapterConfig(
        states=tuple(case.config["adapter_list"]),
        hidden=inside["hidden_size"],
        heads=inside["num_attention_heads"],
        ffn=inside["intermediate_size"],
    )
    config = dataclasses.replace(to_config(roomy), adapters=adapters)
    model = Classifier(config, WordPieceTokenizer(small_vocab(config.encoder.vocab_size), max_length=40))
    fill(model, case.weights, where=folder)
    return model.eval()


@torch.inference_mode()
def test_plug_mental(tmp_path: Path) -> None:
    case = read_plug_mental_case()
    model = plug_mental_model(case, tmp_path / "case")
    ids, mask, types = case.batch
    words = model.encoder.text_encoder.embeddings.word(ids)
    encoded = model.encoder.encode_words(words, mask, types, adapt_padding=True)
    assert relative_error(encoded.pooled_BD, case.io["pooler_output"]) < TOLERANCE
    logits = model.classifier(encoded.pooled_BD)
    assert relative_error(logits, case.io["logits"]) < TOLERANCE
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0]))
    assert loss.item() == pytest.approx(case.described["loss"], rel=TOLERANCE)
    assert model.report.unknown == ()


@torch.inference_mode()
def test_plug_mental_alone_is_the_reference_and_stays_so_in_a_batch(tmp_path: Path) -> None:
    case = read_plug_mental_case()
    model = plug_mental_model(case, tmp_path / "case")
    ids, mask, types = case.batch
    batched = model(ids, mask, types)
    assert relative_error(batched[:1], case.io["logits"][:1]) < TOLERANCE, "the first text has no padding"
    assert relative_error(batched[1:], case.io["logits"][1:]) > 1e-3, (
        "the reference's adapters attend to padding"
    )
    real = int(mask[1].sum())
    alone = model(ids[1:, :real], mask[1:, :real], types[1:, :real])
    assert relative_error(batched[1:], alone) < TOLERANCE
