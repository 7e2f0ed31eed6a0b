"""Folders as ModelScope has them, read, refused and written, for any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.drawn_weights import check_rank
from golden.plug_cases import CASES, read_plug_case, tiny_plug
from loading_memory import HAS_PEAK, peak_of_loading
from mplug import plug
from mplug.checkpoints.report import MismatchError
from mplug.errors import CheckpointError, MplugError
from mplug.plug import SIZES, PlugConfig, PlugModel

RANK_0 = "mp_rank_00_model_states.pt"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_files_of_ranks_are_merged(ranks: int, tmp_path: Path) -> None:
    case = read_plug_case("pre_ln")
    model = plug.load(case.write(tmp_path / "plug", ranks=ranks), pretraining=True)
    ours, theirs = model.state_dict(), case.weights
    fused = theirs["bert.encoder.layer.1.attention.self.query_key_value.weight"]
    parts = [ours[f"encoder.layers.1.attention.{part}.weight"] for part in ("query", "key", "value")]
    assert torch.equal(torch.cat(parts), fused)
    fused = theirs["decoder.decoder.layer.0.cross_attention.key_value.bias"]
    parts = [ours[f"decoder.layers.0.cross_attention.{part}.bias"] for part in ("key", "value")]
    assert torch.equal(torch.cat(parts), fused)
    output = ours["decoder.layers.1.feed_forward.contract.weight"]
    assert torch.equal(output, theirs["decoder.decoder.layer.1.output.weight"])
    assert model.decoder.embeddings is model.encoder.embeddings
    assert torch.equal(model.decoder.embeddings.word.weight, theirs["bert.embeddings.word_embeddings.weight"])


def test_the_reference_s_two_files_are_written_back_equal(tmp_path: Path) -> None:
    model = plug.load(read_plug_case("pre_ln").write(tmp_path / "plug", ranks=1), pretraining=True)
    plug.save(model, tmp_path / "again", ranks=2)
    for rank in range(2):
        path = tmp_path / "again" / "model" / f"mp_rank_{rank:02d}_model_states.pt"
        check_rank("plug", rank, torch.load(path, weights_only=True))


@settings(max_examples=6, deadline=None)
@given(first=st.sampled_from([1, 2, 4]), second=st.sampled_from([1, 2, 4]), pre_norm=st.booleans())
def test_splitting_and_merging_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, first: int, second: int, pre_norm: bool
) -> None:
    folder = tmp_path_factory.mktemp("ranks")
    model = tiny_plug(pretraining=True, pre_norm=pre_norm)
    plug.save(model, folder / "first", ranks=first)
    once = plug.load(folder / "first", pretraining=True)
    plug.save(once, folder / "second", ranks=second)
    twice = plug.load(folder / "second", pretraining=True)
    assert len(list((folder / "second" / "model").iterdir())) == second
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, twice.state_dict()[name]), name
    assert {"first": once.config, "second": twice.config} == {
        name: PlugConfig(**{**config_values(model.config), "name": name}) for name in ("first", "second")
    }


def config_values(config: PlugConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


@pytest.mark.parametrize("pretraining", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_every_key_is_accounted_for(name: str, pretraining: bool, tmp_path: Path) -> None:
    case = read_plug_case(name)
    weights = {**case.weights, "mystery": torch.zeros(2)}
    report = plug.load(case.write(tmp_path / name, weights=weights), pretraining=pretraining).report
    assert report.unknown == ("mystery",)
    of_heads = {key for key in case.weights if key.startswith(("bert.pooler.", "cls."))}
    assert {*report.unused} == ({"cls.predictions.decoder_weight"} if pretraining else of_heads)
    assert (report.missing, report.mis_shaped) == ((), ())


def test_names_may_begin_with_a_wrapping(tmp_path: Path) -> None:
    case = read_plug_case("post_ln")
    wrapped = {f"module.model.{name}": tensor for name, tensor in case.weights.items()}
    report = plug.load(case.write(tmp_path / "plug", weights=wrapped), pretraining=True).report
    assert report.unknown == ()


def test_a_missing_tensor_is_named_as_the_file_would(tmp_path: Path) -> None:
    case = read_plug_case("pre_ln")
    gone = "decoder.decoder.layer.1.cross_attention.key_value.weight"
    weights = {name: tensor for name, tensor in case.weights.items() if name != gone}
    with pytest.raises(MismatchError, match=r"layer\.1\.cross_attention\.key_value\.weight"):
        plug.load(case.write(tmp_path / "plug", ranks=2, weights=weights))


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("bert.encoder.layer.0.output.dense.weight", torch.zeros(64)),
        ("bert.encoder.layer.1.attention.self.query_key_value.bias", torch.zeros(1)),
        ("decoder.decoder.final_layernorm.bias", torch.tensor(0.0)),
    ],
)
def test_tensors_of_another_kind_are_refused_by_their_shapes(
    name: str, stored: torch.Tensor, tmp_path: Path
) -> None:
    case = read_plug_case("pre_ln")
    with pytest.raises(MismatchError, match=f"have another shape: {name}: stored"):
        plug.load(case.write(tmp_path / "plug", weights={**case.weights, name: stored}))


def test_ranks_whose_parts_differ_are_refused(tmp_path: Path) -> None:
    folder = read_plug_case("pre_ln").write(tmp_path / "plug", ranks=2)
    held = torch.load(folder / "model" / RANK_0, weights_only=True)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    held["module"][name] = held["module"][name][:-1]
    torch.save(held, folder / "model" / RANK_0)
    with pytest.raises(CheckpointError, match=f"ranks have parts of {name}"):
        plug.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"attn_separate": True}, "attn_separate True"),
        ({"num_attention_heads": 7}, "heads is 7; it must divide hidden"),
        ({"original_vocab_size": 161}, "original_vocab_size is 161"),
        ({"original_vocab_size": 149}, "has 150 pieces, original_vocab_size is 149"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        plug.load(read_plug_case("pre_ln").write(tmp_path / "plug", **change))


def test_sampling_is_the_folder_s(tmp_path: Path) -> None:
    folder = read_plug_case("pre_ln").write(tmp_path / "plug")
    own = plug.load(folder).config
    assert (own.sampling.top_k, own.sampling.top_p, own.sampling.temperature) == (20, 0.0, 0.9)
    assert own.max_length == 160, "512 by default, and no more than there are positions"
    values = {"model": {"type": "plug", "top_k": 0, "top_p": 0.8, "temperature": 1}}
    (folder / "configuration.json").write_text(
        json.dumps({**values, "preprocessor": {"sequence_length": 64}})
    )
    changed = plug.load(folder)
    config = changed.generation_config()
    assert (config.top_k, config.top_p, config.temperature) == (0, 0.8, 1.0)
    assert changed.config.max_length == 64


def test_a_vocabulary_that_is_not_plug_s_is_refused(tmp_path: Path) -> None:
    folder = read_plug_case("pre_ln").write(tmp_path / "plug")
    lines = (folder / "vocab.txt").read_text().splitlines()
    lines[100], lines[99] = lines[99], lines[100]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(CheckpointError, match=r"token 100 of the vocabulary is not \[UNK\]"):
        plug.load(folder)


def test_ranks_that_cannot_be_are_refused(tmp_path: Path) -> None:
    model = tiny_plug()
    with pytest.raises(MplugError, match="ranks is 3; it must be a power of two"):
        plug.save(model, tmp_path, ranks=3)
    with pytest.raises(MplugError, match=r"ranks is 8, which does not divide heads \(4\)"):
        plug.save(model, tmp_path)
    plug.save(model, tmp_path, ranks=4)
    with pytest.raises(MplugError, match="holds 4 files of ranks"):
        plug.save(model, tmp_path, ranks=2)
    plug.save(model, tmp_path, ranks=4)


def test_the_meta_device_shows_whether_everything_is_there(tmp_path: Path) -> None:
    model = plug.load(read_plug_case("pre_ln").write(tmp_path / "plug", ranks=4), shapes_only=True)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_weights_can_be_bfloat16(tmp_path: Path) -> None:
    model = plug.load(read_plug_case("pre_ln").write(tmp_path / "plug", ranks=2), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training


def test_the_published_size_is_counted_without_memory() -> None:
    config = SIZES["27B"]
    assert plug.count_parameters(config) == 25_966_305_280
    with torch.device("meta"):
        encoder = PlugModel(config).encoder
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 19_522_904_064


@pytest.mark.long
@pytest.mark.skipif(not HAS_PEAK, reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(("ranks", "dtype"), [(1, torch.float32), (8, torch.float16)])
def test_the_peak_is_a_tenth_above_the_weights(ranks: int, dtype: torch.dtype, tmp_path: Path) -> None:
    # So large that what reading itself takes, some ten megabytes however large a model, is no tenth of it.
    sizes: dict[str, Any] = {"hidden": 768, "heads": 16, "ffn": 3072, "vocab_size": 4096, "layers": 6}
    plug.save(tiny_plug(), tmp_path / "tiny", ranks=2)
    plug.save(tiny_plug(**sizes).to(dtype), tmp_path / "large", ranks=ranks)
    peak, weights = peak_of_loading("mplug.plug", tmp_path / "tiny", tmp_path / "large")
    assert weights > 100e6
    assert peak <= 1.1 * weights
