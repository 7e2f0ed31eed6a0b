"""Text models in int8, int4 and bfloat16: made at load, a quarter of the bytes, nearly the same decisions."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mplug
from golden.gpt3_cases import tiny_generator
from golden.mplug_cases import tiny as tiny_mplug
from golden.palm_cases import tiny_palm
from golden.plug_cases import tiny_plug
from golden.structbert_cases import tiny as tiny_structbert
from loading_memory import HAS_PEAK, peak_of_loading
from mplug import freeze, gpt3, palm, plug, structbert
from mplug.agreement import agreement
from mplug.config import TextEncoderConfig
from mplug.errors import MplugError
from mplug.palm.config import PalmDecoderConfig
from mplug.quantization import INT4, quantize
from mplug.quantized_linear import Int4Groups, Int8Rows, QuantizedEmbedding, QuantizedLinear
from mplug.reranking import RerankModel
from mplug.structbert.classifier import Classifier
from mplug.structbert.filler import WordFiller
from mplug.text_generator import TextGenerator

TEXTS = ["今天天气", "月亮圆圆的"]
KINDS = {"bfloat16": torch.bfloat16, "int8": torch.int8, "int4": INT4}
LEAST_EQUAL = {"bfloat16": 0.9, "int8": 0.85, "int4": 0.35}
"""Of random models, whose likeliest tokens are close to each other; trained ones agree more often."""
FAMILIES = {"gpt3": gpt3, "palm": palm, "plug": plug}


def drawn(family: str) -> Any:
    """A random model whose widths int4 can have."""
    sizes: dict[str, Any] = {"hidden": 64, "heads": 8, "ffn": 256}
    if family == "gpt3":
        return tiny_generator("plain", vocab_size=416, **sizes)
    if family == "plug":
        return tiny_plug(**sizes)
    encoder = TextEncoderConfig(vocab_size=144, layers=1, positions=40, pad_id=0, **sizes)
    special = {"bos_id": 101, "eos_id": 102, "pad_id": 0}
    decoder = PalmDecoderConfig(layers=2, heads=8, ffn=256, dropout=0.0, positions=64, **special)
    return tiny_palm(encoder=encoder, decoder=decoder)


def held(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_loaded_in_fewer_bits_decides_nearly_the_same(
    family: str, dtype: str, tmp_path: Path
) -> None:
    exact = drawn(family)
    FAMILIES[family].save(exact, tmp_path)
    loaded = FAMILIES[family].load(tmp_path, dtype=KINDS[dtype])
    assert loaded.dtype == torch.bfloat16
    found = agreement(exact, loaded, TEXTS, behind=20)
    assert found.equal >= LEAST_EQUAL[dtype], str(found)
    assert found.other_perplexity == pytest.approx(
        found.perplexity, rel={"bfloat16": 0.05, "int8": 0.1, "int4": 1.0}[dtype]
    )


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_quantizing_at_load_is_quantizing_what_was_loaded(family: str, dtype: str, tmp_path: Path) -> None:
    FAMILIES[family].save(drawn(family), tmp_path)
    loaded = FAMILIES[family].load(tmp_path, dtype=KINDS[dtype])
    later = quantize(FAMILIES[family].load(tmp_path), KINDS[dtype])
    wanted, found = later.state_dict(), loaded.state_dict()
    assert found.keys() == wanted.keys() == drawn(family).state_dict().keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert loaded.report.missing == ()
    assert held(loaded) == held(later)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_words_is_one(family: str) -> None:
    model = quantize(drawn(family), INT4)
    words = model.decoder.words
    assert isinstance(words, QuantizedEmbedding)
    assert words.matrix.levels.dtype == torch.int8
    if family == "plug":
        assert model.encoder.embeddings.word is words
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    assert len(layers) >= 12
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert all(isinstance(layer.matrix, Int4Groups) for layer in layers)


def test_what_int4_cannot_hold_is_int8() -> None:
    model = quantize(tiny_generator("plain", hidden=24, heads=4, ffn=96), INT4)
    kinds = {
        (layer.out_features, layer.in_features): type(layer.matrix)
        for layer in model.modules()
        if isinstance(layer, QuantizedLinear)
    }
    assert kinds == {(24, 24): Int8Rows, (96, 24): Int8Rows, (24, 96): Int8Rows}
    assert model.decoder.step(torch.tensor([[5, 6]]), model.decoder.start(1)).isfinite().all()


def test_saved_again_it_is_what_it_was(tmp_path: Path) -> None:
    model = quantize(drawn("gpt3"), torch.int8)
    gpt3.save(model, tmp_path)
    again = gpt3.load(tmp_path, dtype=torch.int8)
    agreed = agreement(model, again, TEXTS)
    assert agreed.equal == 1.0
    assert agreed.max_error == 0.0


def test_freezing_leaves_quantized_layers() -> None:
    model = quantize(drawn("gpt3"), torch.int8)
    before = agreement(model, freeze(model), TEXTS)
    assert before.max_error == 0.0
    with pytest.raises(MplugError, match="the model is frozen; quantize it"):
        quantize(freeze(drawn("gpt3")), torch.int8)


def test_classifiers_keep_their_heads_and_their_scores() -> None:
    exact, quantized = tiny_structbert(Classifier), quantize(tiny_structbert(Classifier), torch.int8)
    for wanted, found in zip(exact.classify(TEXTS), quantized.classify(TEXTS), strict=True):
        scores = {each.label: each.score for each in wanted.scores}
        assert {each.label: each.score for each in found.scores} == pytest.approx(scores, abs=0.1)
    heads = [module for module in quantized.modules() if type(module) is nn.Linear]
    assert [head.out_features for head in heads] == [3]


def test_a_filler_fills_nearly_the_same() -> None:
    exact, quantized = tiny_structbert(WordFiller), quantize(tiny_structbert(WordFiller), torch.int8)
    (wanted,), (found,) = exact.fill(["天[MASK]"]), quantized.fill(["天[MASK]"])
    assert found.masks[0][0].score == pytest.approx(wanted.masks[0][0].score, abs=0.1)


def test_what_cannot_be_quantized_is_refused() -> None:
    with pytest.raises(
        MplugError, match=r"dtype is torch\.float16; quantized types are torch\.int8, torch\.int4"
    ):
        quantize(drawn("gpt3"), torch.float16)
    with pytest.raises(MplugError, match="only text models can be quantized"):
        quantize(tiny_mplug(RerankModel), torch.int8)


def test_a_model_agrees_with_itself_and_less_with_another() -> None:
    exact: TextGenerator[Any] = drawn("gpt3")
    same = agreement(exact, exact, TEXTS)
    assert same.equal == 1.0
    assert same.max_error == same.mean_error == 0.0
    assert same.perplexity == same.other_perplexity
    assert "100.00% of" in str(same)
    other = drawn("gpt3")
    torch.nn.init.normal_(other.decoder.layers[0].feed_forward.contract.weight, 0, 0.5)
    less = agreement(exact, other, TEXTS)
    assert less.equal < 1.0
    assert less.mean_error > 0
    with pytest.raises(MplugError, match="give at least one of both"):
        agreement(exact, exact, [])


@pytest.mark.long
@pytest.mark.skipif(not HAS_PEAK, reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_loading_never_holds_the_model_in_more_bits(dtype: str, tmp_path: Path) -> None:
    gpt3.save(drawn("gpt3"), tmp_path / "tiny")
    large = tiny_generator("plain", hidden=1024, heads=8, ffn=4096, vocab_size=8192, layers=8)
    largest = max(parameter.nbytes for parameter in large.parameters())
    gpt3.save(large, tmp_path / "large")
    peak, weights = peak_of_loading("mplug.gpt3", tmp_path / "tiny", tmp_path / "large", dtype)
    assert weights > 60e6
    assert peak <= 1.1 * weights + largest


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
def test_the_one_door_takes_the_types_by_name(dtype: str, tmp_path: Path) -> None:
    gpt3.save(drawn("gpt3"), tmp_path)
    model = mplug.load(tmp_path, task="text-generation", dtype=dtype)
    assert isinstance(model, gpt3.Gpt3Generator)
    assert model.dtype == torch.bfloat16
    assert any(isinstance(module, QuantizedLinear) for module in model.modules()) == (dtype != "bfloat16")


def test_the_one_door_quantizes_no_model_of_pictures() -> None:
    with pytest.raises(MplugError, match="dtype is 'int8'; known are float32, bfloat16, float16"):
        mplug.load("mplug-mini", dtype="int8")


def test_classifiers_are_quantized_at_load(tmp_path: Path) -> None:
    exact = tiny_structbert(Classifier)
    structbert.save(exact, tmp_path / "structbert")
    loaded = structbert.load(tmp_path / "structbert", Classifier, dtype=torch.int8)
    for wanted, found in zip(exact.classify(TEXTS), loaded.classify(TEXTS), strict=True):
        scores = {each.label: each.score for each in wanted.scores}
        assert {each.label: each.score for each in found.scores} == pytest.approx(scores, abs=0.1)

    plug.save(drawn("plug"), tmp_path / "plug")
    new = plug.load_classifier(tmp_path / "plug", labels=("yes", "no"), dtype=torch.int8)
    assert sum(isinstance(module, QuantizedLinear) for module in new.modules()) == 12
    assert new.classify(TEXTS)[0].best.label in ("yes", "no")
