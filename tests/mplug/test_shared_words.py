"""One table of word embeddings for text encoder and decoder: stored once, and the same whichever task loads it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mplug
from golden.mplug_cases import some_pixels, some_text, tiny, tiny_whole_config
from mplug.captioning import CaptionModel
from mplug.checkpoints import native
from mplug.checkpoints.native import DECODER_WORDS, WORDS
from mplug.config import MplugConfig
from mplug.errors import ConfigError
from mplug.task_model import TaskModel
from mplug.train.experiments.models import WholeModel
from mplug_services.config import ModelSource
from mplug_services.runners.models import model_loader


def shared_config() -> MplugConfig:
    config = tiny_whole_config()
    assert config.text_decoder is not None
    return dataclasses.replace(
        config, text_decoder=dataclasses.replace(config.text_decoder, shared_words=True)
    )


@pytest.fixture
def whole() -> WholeModel:
    return tiny(WholeModel, shared_config())


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_the_table_is_stored_once_and_is_equal_after_loading(
    whole: WholeModel, tmp_path: Path, storage: str
) -> None:
    native.save(whole, tmp_path, storage=storage)  # type: ignore[arg-type]
    stored = load_file(tmp_path / native.WEIGHTS_FILE)
    assert WORDS in stored
    assert DECODER_WORDS not in stored
    vqa, caption = mplug.load(tmp_path, task="vqa"), mplug.load(tmp_path, task="caption")
    assert vqa.text_decoder.embeddings.word is vqa.text_encoder.embeddings.word
    words = vqa.text_encoder.embeddings.word.weight
    assert torch.equal(caption.state_dict()[DECODER_WORDS], words)
    if storage == "float32":
        assert torch.equal(words, whole.text_encoder.embeddings.word.weight)
    assert WORDS not in caption.report.unused
    assert "text_encoder.layers.0.attention.query.weight" in caption.report.unused


@pytest.mark.parametrize("task", ["retrieval", "rerank", "caption", "vqa"])
def test_every_task_loads_from_one_folder_with_what_it_needs(
    whole: WholeModel, tmp_path: Path, task: str
) -> None:
    native.save(whole, tmp_path, storage="int8")
    loaded = mplug.load(tmp_path, task=task)  # type: ignore[call-overload]
    parts = {name.split(".")[0] for name, _ in loaded.named_parameters()}
    heads = {"image_proj", "text_proj", "logit_scale"}
    wanted = {
        "retrieval": {"image_encoder", "text_encoder", *heads},
        "rerank": {"image_encoder", "text_encoder", "fusion_encoder", "itm_head"},
        "caption": {"image_encoder", "text_decoder"},
        "vqa": {"image_encoder", "text_encoder", "fusion_encoder", "text_decoder"},
    }
    assert parts == wanted[task]
    assert loaded.report.unknown == loaded.report.missing == ()


def test_a_second_rounding_changes_nothing(whole: WholeModel, tmp_path: Path) -> None:
    """Ids and scores of an export are those of the model that was rounded before."""
    native.save(whole, tmp_path / "once", storage="int8")
    once = native.load(tmp_path / "once", WholeModel)
    native.save(once, tmp_path / "twice", storage="int8")
    pixels, (ids, mask) = some_pixels(), some_text()
    first, second = (mplug.load(tmp_path / name, task="caption") for name in ("once", "twice"))
    texts = [each.caption(pixels) for each in (first, second)]
    assert [c.hypothesis for some in texts[0] for c in some] == [
        c.hypothesis for some in texts[1] for c in some
    ]
    tokens = once.encode_image(pixels)
    scores = mplug.load(tmp_path / "twice", task="rerank").itm_scores(tokens, ids, mask)
    torch.testing.assert_close(scores, once.itm_scores(tokens, ids, mask))
    close = whole.itm_scores(whole.encode_image(pixels), ids, mask)
    torch.testing.assert_close(scores, close, atol=0.02, rtol=0)  # int8 rounding


def test_a_captioner_saved_alone_keeps_the_table(whole: WholeModel, tmp_path: Path) -> None:
    native.save(whole, tmp_path / "whole")
    caption = native.load(tmp_path / "whole", CaptionModel)
    native.save(caption, tmp_path / "alone")
    again = native.load(tmp_path / "alone", CaptionModel)
    assert torch.equal(again.state_dict()[DECODER_WORDS], whole.state_dict()[WORDS])


def test_copies_share_their_own_table(whole: WholeModel) -> None:
    other = copy.deepcopy(whole)
    assert other.text_decoder.embeddings.word is other.text_encoder.embeddings.word
    assert other.text_encoder.embeddings.word is not whole.text_encoder.embeddings.word


def test_tables_of_different_sizes_are_refused() -> None:
    config = tiny_whole_config()
    assert config.text_decoder is not None
    decoder = dataclasses.replace(config.text_decoder, shared_words=True, vocab_size=200)
    with pytest.raises(ConfigError, match="shared_words is set"):
        dataclasses.replace(config, text_decoder=decoder)


def test_texts_in_a_row_share_a_picture(whole: WholeModel) -> None:
    """The keys and values of fewer memories than texts are made once; the logits are those of repeated memories."""
    ids, mask = some_text()
    tokens = whole.encode_image(some_pixels())
    ids, mask = ids.repeat(2, 1), mask.repeat(2, 1)
    memory_mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    shared = whole.text_decoder(ids, tokens, mask_BL=mask, memory_mask_BN=memory_mask)
    repeated = whole.text_decoder(
        ids,
        tokens.repeat_interleave(2, 0),
        mask_BL=mask,
        memory_mask_BN=memory_mask.repeat_interleave(2, 0),
    )
    torch.testing.assert_close(shared, repeated)


@pytest.mark.parametrize(
    "tasks", [("retrieval", "caption", "vqa"), ("caption", "retrieval"), ("caption", "vqa")]
)
def test_a_server_keeps_the_table_once(whole: WholeModel, tmp_path: Path, tasks: tuple[str, ...]) -> None:
    native.save(whole, tmp_path)
    models = model_loader({task: ModelSource(str(tmp_path)) for task in tasks}, "cpu", "float32")()
    tables = {
        tensor.data_ptr()
        for model in models.values()
        if isinstance(model, TaskModel)
        for name, tensor in model.state_dict(keep_vars=True).items()
        if name in (WORDS, DECODER_WORDS)
    }
    assert len(tables) == 1
