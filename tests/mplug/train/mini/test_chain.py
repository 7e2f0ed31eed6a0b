"""The stages one after another with the one trainer, and what their last folder does; the cache of image_tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import mplug
from mini_pictures import QUESTION, small, stage_config
from mplug.checkpoints import native
from mplug.images import decode_image
from mplug.loading import find_folder
from mplug.preprocess import to_pixels
from mplug.retrieval import RetrievalModel
from mplug.train.config import DataConfig
from mplug.train.data import Split, read_captions
from mplug.train.experiments.models import WholeModel
from mplug.train.features import list_views
from mplug.train.mini import config as recipes
from mplug.train.mini.config import WholeShape, WholeStageConfig
from mplug.train.mini.experiment import open_stage
from mplug.train.mini.tokens import TokenCache, open_tokens
from mplug.train.mini.whole import open_whole, whole_config
from mplug.train.trainer import Trainer

STEPS = 4
BATCHES = (
    ("reranked_r1", small(pairs=8)),
    ("writing", small(captioned=6, questions=6, pairs=4)),
    ("writing", small(rewarded=6, questions=6)),
)


def chained(start: Path, number: int) -> WholeStageConfig:
    goal, batch = BATCHES[number]
    kept_apart = DataConfig(num_dev_images=2, num_views=2, set_repeats=())
    return stage_config(start, goal=goal, batch=batch, data=kept_apart, evaluation_steps=STEPS, epochs=1)


@pytest.fixture(scope="module")
def last(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of (d)."""
    runs, begin = tmp_path_factory.mktemp("runs"), start
    for number in range(len(BATCHES)):
        config = chained(begin, number)
        output = runs / str(number)
        Trainer(open_stage(config, data), config, output).fit()
        begin = output / "output_best"
    return begin.parent


def test_all_tasks_load_from_the_export_and_do_as_before_it(data: Path, last: Path) -> None:
    before = native.load(last / "output_best", WholeModel)
    native.save(before, last / "rounded", storage="int8")
    rounded = native.load(last / "rounded", WholeModel)
    picture = data / "images" / "photo" / "red-plain.png"
    pixels = _pixels(picture)
    folder = last / "export"
    rerank, vqa = mplug.load(folder, task="rerank"), mplug.load(folder, task="vqa")
    caption = mplug.load(folder, task="caption")
    tokens = rounded.encode_image(pixels)
    ids = torch.from_numpy(rounded.tokenizer.encode("a plain red wall").ids)[None]
    assert torch.equal(mplug.load(folder).embed_images(pixels), rounded.embed_images(pixels))
    assert torch.equal(rerank.itm_scores(tokens, ids, ids > 0), rounded.itm_scores(tokens, ids, ids > 0))
    assert vqa.answer(pixels, [QUESTION]) == rounded.answer(pixels, [QUESTION])
    (written,) = caption.caption(pixels)[0]
    state = rounded.text_decoder.start(tokens)
    logits = rounded.text_decoder.step(torch.tensor([[caption.text_decoder.bos_id]]), state)
    assert written.hypothesis.ids[1] in logits.topk(3).indices
    torch.testing.assert_close(  # int8 rounding
        rerank.itm_scores(tokens, ids, ids > 0), before.itm_scores(tokens, ids, ids > 0), atol=0.02, rtol=0
    )


def _pixels(picture: Path) -> torch.Tensor:
    return torch.from_numpy(to_pixels(decode_image(picture.read_bytes()), 32))[None]


def test_an_index_of_the_retrieval_half_stays_valid(start: Path, last: Path) -> None:
    assert (
        native.load(last / "export", RetrievalModel).fingerprint
        == native.load(start, RetrievalModel).fingerprint
    )


def test_a_killed_run_goes_on(data: Path, start: Path, tmp_path: Path) -> None:
    config = chained(start, 1)
    unbroken = Trainer(open_stage(config, data), config, tmp_path / "unbroken")
    unbroken.fit()
    _stop_after(2, Trainer(open_stage(config, data), config, tmp_path / "broken"))
    again = Trainer(open_stage(config, data), config, tmp_path / "broken")
    again.fit()
    states = [run.experiment.model.state_dict() for run in (unbroken, again)]
    assert all(torch.equal(one, states[1][name]) for name, one in states[0].items())


class _StopError(Exception):
    pass


def _stop_after(steps: int, run: Trainer) -> None:
    after = run.experiment.after_step

    def stop(step: int) -> None:
        after(step)
        if step == steps:
            raise _StopError

    run.experiment.after_step = stop  # type: ignore[method-assign]
    with pytest.raises(_StopError):
        run.fit()


def test_a_token_cache_made_anew_is_the_same(data: Path, start: Path, cache: Path) -> None:
    encoder = native.load(start, RetrievalModel).image_encoder
    config = DataConfig(num_dev_images=0, num_views=3)
    images = [image for image in read_captions(data, config) if image.split == Split.TRAIN]
    views = list_views(images, config)
    keys = [(view.path, view.number) for view in views]
    shutil.rmtree(cache / "image-tokens", ignore_errors=True)
    first = open_tokens(data, views, encoder, config.min_crop).read(keys)
    shutil.rmtree(cache / "image-tokens")
    second: TokenCache = open_tokens(data, views, encoder, config.min_crop)
    assert torch.equal(first, second.read(keys))
    assert torch.equal(first[:, :1], second.first(keys))
    plain = encoder(_pixels(data / views[0].path))
    torch.testing.assert_close(first[:1], plain, atol=2e-3, rtol=2e-3)  # float16
    assert not torch.equal(first[0], first[1])


def test_parts_begin_as_the_text_encoder(start: Path) -> None:
    whole = open_whole(start, WholeShape(fusion_layers=3, decoder_layers=2))
    layers = whole.text_encoder.layers
    for part, sources in ((whole.fusion_encoder, (0, 1, 2)), (whole.text_decoder, (0, 2))):
        for layer, source in zip(part.layers, sources, strict=True):
            ours, theirs = layer.state_dict(), layers[source].state_dict()
            assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert whole.text_decoder.embeddings.word is whole.text_encoder.embeddings.word


def test_the_recipes_fit_into_forty_megabytes() -> None:
    config = whole_config(native.read_config(find_folder("mplug-mini") / "config.json"), WholeShape())
    with torch.device("meta"):
        model = WholeModel(config, native.load(find_folder("mplug-mini"), RetrievalModel).tokenizer)
    tensors = {
        name: t
        for name, t in model.state_dict().items()
        if not name.startswith("text_decoder.embeddings.word")
    }
    rows = sum(t.numel() + 2 * t.shape[0] for t in tensors.values() if t.dim() > 1)
    rest = sum(4 * t.numel() for t in tensors.values() if t.dim() <= 1)
    assert 32_000_000 < rows + rest < 33_000_000
    assert config.fusion_encoder is not None
    assert config.fusion_encoder.connected_layers == (1,)
    for stage in (recipes.matching(), recipes.writing(), recipes.rewarding()):
        assert stage.batch.pairs % stage.batch.neighbours == 0
