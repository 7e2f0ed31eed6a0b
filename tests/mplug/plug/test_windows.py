"""Long texts from PLUG's pipeline: the sliding windows themselves, as texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mplug
from golden.plug_cases import tiny_plug
from mplug.errors import MplugError
from mplug.generation import Finished, Hypothesis
from mplug.plug import PlugGenerator, save, sliding, write_windows
from text_models import write_folder

TEXTS = ["piece9 piece10 piece11", "piece20", "piece30 piece31 piece32 piece33"]
SEP = 102


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("windows") / "plug"
    save(tiny_plug(positions=160), place, ranks=1)
    return place


@pytest.fixture(scope="module")
def ending() -> PlugGenerator:
    """A model that says [SEP] nearly as often as the word it likes best."""
    model = tiny_plug(original_vocab_size=140)
    with torch.no_grad():
        words = model.encoder.embeddings.word.weight
        words[SEP] = 0.9 * words[127]
    return model


def slid(model: PlugGenerator, text: str, length: int, **settings: Any) -> Hypothesis:
    config = model.window_config(max_length=length, **settings)
    (*_, last) = model.stream_windows([model.read(text)], config)
    assert isinstance(last, Finished)
    return last.hypotheses[0]


@pytest.mark.parametrize(
    ("out_length", "settings"),
    [
        (5, {"method": "greedy"}),
        (5, {"top_k": 3, "seed": 2}),
        (sliding.WINDOW + 12, {"method": "greedy"}),
        (sliding.WINDOW + 12, {"seed": 4}),
    ],
)
def test_the_pipeline_writes_by_windows(out_length: int, settings: dict[str, Any], folder: Path) -> None:
    model = mplug.load(folder, task="text-generation")
    assert isinstance(model, PlugGenerator)
    expected = []
    for text in TEXTS:
        one = slid(model, text, out_length, **settings)
        assert len(one.log_probs) > 0.8 * min(out_length, 6)
        expected.append({"text": model.text(one.ids, model.read(text))})

    with mplug.pipeline("plug-generation", folder, out_length=out_length, **settings) as pipeline:
        assert pipeline(TEXTS) == expected
        assert pipeline(TEXTS, batch_size=3) == expected
    with mplug.pipeline("text-generation", folder) as pipeline:
        assert pipeline(TEXTS[1], out_length=out_length, **settings) == expected[1]


def test_reasons_and_tokens(ending: PlugGenerator) -> None:
    seeds = list(range(12))
    written = write_windows(ending, [TEXTS[0]] * 12, out_length=14, seeds=seeds, top_k=9)
    for seed, (text,) in zip(seeds, written, strict=True):
        one = slid(ending, TEXTS[0], 14, seed=seed, top_k=9)
        assert (text.token_ids, text.finish_reason == "end") == (one.ids, one.ids[-1] == SEP)
        assert len(text.log_probs) == len(one.ids) - 1
        assert text.score == pytest.approx(one.score, rel=1e-3)
    assert {text.finish_reason for (text,) in written} == {"end", "length"}


def test_a_text_is_cut_before_a_stop_string(ending: PlugGenerator) -> None:
    ((whole,),) = write_windows(ending, TEXTS[:1], out_length=9, method="greedy")
    stop = whole.text[3:9]
    ((text,),) = write_windows(ending, TEXTS[:1], out_length=9, method="greedy", stop=["?", stop])
    assert (text.text, text.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    assert text.token_ids == whole.token_ids


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out_length": 0}, "out_length is 0; it must be at least 1"),
        ({"out_length": 9, "max_length": 4}, "out_length is 9 and max_length 4; give out_length alone"),
        ({"out_length": 9, "beam_size": 2}, "method is 'beam'.*windows take 'greedy' or 'sample'"),
        ({"out_length": 9, "num_results": 2}, "num_results 2"),
        ({"out_length": 9, "stop": ""}, "a stop string is empty"),
        ({"out_length": 9, "beams": 2}, "unknown among beams"),
    ],
)
def test_what_windows_cannot_have(settings: dict[str, Any], message: str, folder: Path) -> None:
    pipeline = mplug.pipeline("text-generation", folder)
    with pytest.raises(MplugError, match=message):
        pipeline(TEXTS[0], **settings)


@pytest.mark.parametrize("family", ["gpt3", "palm"])
def test_a_family_without_windows_refuses_their_length(family: str, tmp_path: Path) -> None:
    pipeline = mplug.pipeline("text-generation", write_folder(family, tmp_path), out_length=200)
    with pytest.raises(MplugError, match=f"out_length is 200, and {family} writes without.*give max_length"):
        pipeline(TEXTS[0])


def test_a_broken_model_says_so(tmp_path: Path) -> None:
    model = tiny_plug()
    with torch.no_grad():
        model.decoder.norm.weight.fill_(torch.nan)
    save(model, tmp_path / "broken", ranks=1)
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        mplug.pipeline("text-generation", tmp_path / "broken", out_length=9)(TEXTS[0])
