"""Names and shapes of the reference's classes, line by line, at every size: which task uses each, or why none does."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from golden.mplug_cases import CASES, GOLDEN, read_case
from mplug.checkpoints import names as reasons
from mplug.checkpoints.names import ReferenceNames, to_our_shape
from mplug.checkpoints.published import PUBLISHED
from mplug.checkpoints.settings import ReferenceSettings, VisionLibrary
from mplug.errors import ConfigError
from mplug.tasks import TASKS, task_size
from mplug.text.tokenizer import WordPieceTokenizer

Shapes = Mapping[str, tuple[int, ...]]

PUBLISHED_LISTS = {
    ("mplug-base", "vqa"): "base vqa",
    ("mplug-base", "retrieval"): "base retrieval",
    ("mplug-large", "vqa"): "large vqa",
    ("mplug-large", "retrieval"): "large retrieval",
}


@functools.cache
def key_lists() -> dict[str, Shapes]:
    """By heading: `tiny CASE`, `base vqa`... Each line is a name, a shape and a type."""
    lists: dict[str, dict[str, tuple[int, ...]]] = {}
    for file in ("keys_mplug.txt", "keys_published.txt"):
        current: dict[str, tuple[int, ...]] = {}
        for line in (GOLDEN / "mplug" / file).read_text().splitlines():
            if line.startswith("## "):
                current = lists.setdefault(line[3:].split(" (")[0], {})
            elif "\t" in line:
                name, shape, _ = line.split("\t")
                current[name] = tuple(int(size) for size in shape.strip("[]").split(",") if size)
    return dict(lists)


def tiny_settings(name: str) -> ReferenceSettings:
    case = read_case(name)
    return ReferenceSettings(where=Path(name), yaml=case.settings, bert=case.bert)


EVERY_LIST = {
    **{f"tiny {name}": functools.partial(tiny_settings, name) for name in CASES},
    **{
        heading: functools.partial(PUBLISHED.__getitem__, size)
        for (size, _), heading in PUBLISHED_LISTS.items()
    },
}


def names_of(settings: ReferenceSettings, library: VisionLibrary = "timm") -> ReferenceNames:
    return ReferenceNames(
        settings.to_config(library),
        num_blocks=settings.num_blocks,
        first_fusion_layer=settings.first_fusion_layer,
    )


def task_shapes(settings: ReferenceSettings, library: VisionLibrary = "timm") -> dict[str, Shapes]:
    """Each task's parameters by our names, on the meta device."""
    config = settings.to_config(library)
    tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], max_length=25)
    shapes: dict[str, Shapes] = {}
    for task, kind in TASKS.items():
        with torch.device("meta"):
            model = kind(config, tokenizer)
        shapes[task] = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return shapes


def our_shape(our_name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(to_our_shape(our_name, torch.empty(shape, device="meta")).shape)


def test_the_lists_are_there() -> None:
    assert set(key_lists()) == set(EVERY_LIST)
    assert {heading: len(shapes) for heading, shapes in key_lists().items()} == {
        "tiny vqa_large": 313,
        "tiny vqa_base": 241,
        "tiny vqa_stride6": 313,
        "tiny caption_large": 313,
        "tiny retrieval_large": 511,
        "tiny vqa_distill": 362,
        "base vqa": 2082,
        "base retrieval": 1447,
        "large vqa": 2378,
        "large retrieval": 1743,
    }


@pytest.mark.parametrize("library", ["timm", "open_clip"])
@pytest.mark.parametrize("heading", EVERY_LIST)
def test_every_line_is_used_by_a_task_or_unused_for_a_reason(heading: str, library: VisionLibrary) -> None:
    settings, listed = EVERY_LIST[heading](), key_lists()[heading]
    names, tasks = names_of(settings, library), task_shapes(settings, library)
    for key, shape in listed.items():
        if key not in names.used:
            assert names.why_unused(key), f"{key} is neither used nor explained"
            continue
        ours = names.used[key]
        users = [task for task, shapes in tasks.items() if ours in shapes]
        assert users, f"{key} is said to be used, and no task holds {ours}"
        for task in users:
            assert tasks[task][ours] == our_shape(ours, shape), key


@pytest.mark.parametrize("library", ["timm", "open_clip"])
@pytest.mark.parametrize("heading", EVERY_LIST)
def test_every_parameter_of_its_tasks_is_in_the_list(heading: str, library: VisionLibrary) -> None:
    settings, listed = EVERY_LIST[heading](), key_lists()[heading]
    names, tasks = names_of(settings, library), task_shapes(settings, library)
    held = {names.used[key] for key in listed if key in names.used}
    for task in ("retrieval", "rerank") if "retrieval" in heading else ("caption", "vqa"):
        assert set(tasks[task]) - held == set(), task


def count(shapes: Shapes, *prefixes: str) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefixes))


VISION = (
    "visual_encoder.visual.class_embedding",
    "visual_encoder.visual.positional_embedding",
    "visual_encoder.visual.conv1",
    "visual_encoder.visual.ln_",
    "visual_encoder.visual.transformer.",
    "visn_fc.",
    "visn_layer_norm.",
)
TEXT = ("text_encoder.embeddings.LayerNorm", "text_encoder.encoder.")
TEXT_TABLES = tuple(
    f"text_encoder.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")
)
DECODER = (
    "text_decoder.bert.embeddings.LayerNorm",
    *(f"text_decoder.bert.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")),
    "text_decoder.bert.encoder.",
    "text_decoder.cls.predictions.transform.",
    "text_decoder.cls.predictions.bias",
)


@pytest.mark.parametrize(("size", "connected"), [("mplug-base", ["9"]), ("mplug-large", [])])
def test_the_table_of_tasks_counts_what_the_reference_holds(size: str, connected: list[str]) -> None:
    answers = key_lists()[PUBLISHED_LISTS[size, "vqa"]]
    retrieval = key_lists()[PUBLISHED_LISTS[size, "retrieval"]]
    running = tuple(f"fusion_encoder.encoder.layer.{number}." for number in range(6, 12))
    dead = tuple(f"fusion_encoder.encoder.layer.{number}.crossattention." for number in connected)
    image, text = count(answers, *VISION), count(answers, *TEXT, *TEXT_TABLES)
    fusion, decoder = count(answers, *running) - count(answers, *dead), count(answers, *DECODER)
    heads = count(retrieval, "vision_proj.", "text_proj.", "temp")
    matching = count(retrieval, "itm_head.")

    sizes = {task: task_size(PUBLISHED[size].to_config(), task) for task in TASKS}

    assert {task: each.parameters for task, each in sizes.items()} == {
        "retrieval": image + text + heads,
        "rerank": image + text + fusion + matching,
        "caption": image + decoder,
        "vqa": image + text + fusion + decoder,
    }
    modules = {task: list(each.modules) for task, each in sizes.items()}
    assert modules == {
        "retrieval": ["image_encoder", "text_encoder", "logit_scale", "image_proj", "text_proj"],
        "rerank": ["image_encoder", "text_encoder", "fusion_encoder", "itm_head"],
        "caption": ["image_encoder", "text_decoder"],
        "vqa": ["image_encoder", "text_encoder", "fusion_encoder", "text_decoder"],
    }
    assert sizes["caption"].memory("float32") == 4 * (image + decoder)
    assert sizes["caption"].memory("bfloat16") == 2 * (image + decoder)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("visual_encoder.visual.proj", reasons.CLIP_REST),
        ("visual_encoder.transformer.resblocks.0.ln_1.weight", reasons.CLIP_REST),
        ("visual_encoder.logit_scale", reasons.CLIP_REST),
        ("text_encoder.embeddings.position_ids", reasons.COUNTER),
        ("text_decoder.bert.embeddings.position_ids", reasons.COUNTER),
        ("text_decoder.cls.predictions.decoder.weight", reasons.SECOND_COPY),
        ("text_decoder.cls.predictions.decoder.bias", reasons.SECOND_COPY),
        ("fusion_encoder.encoder.layer.0.attention.self.query.weight", reasons.DEAD_LAYER),
        ("fusion_encoder.encoder.layer.5.crossattention.output.LayerNorm.bias", reasons.DEAD_LAYER),
        ("fusion_encoder.encoder.layer.9.crossattention.self.key.weight", reasons.DEAD_CROSS_ATTENTION),
        ("fusion_encoder.encoder.layer.8.crossattention.self.key.weight", None),
        ("fusion_encoder.encoder.layer.9.attention.self.key.weight", None),
        ("fusion_encoder.encoder.layer.0.novelty.weight", None),
        ("fusion_encoder.encoder.layer.12.crossattention.self.key.weight", None),  # one too many
        ("text_encoder_m.encoder.layer.0.attention.self.query.bias", reasons.TWIN),
        ("fusion_encoder_m.encoder.layer.0.attention.self.query.bias", reasons.TWIN),
        ("visn_fc_m.weight", None),  # base has no bridge, so no twin of one
        ("novelty_m.weight", None),
        ("image_queue", reasons.QUEUE),
        ("queue_ptr", reasons.QUEUE),
        ("text_encoder.pooler.dense.weight", None),
        ("text_decoder.novelty", None),
    ],
)
def test_why_base_does_not_use_a_tensor(key: str, reason: str | None) -> None:
    assert names_of(PUBLISHED["mplug-base"]).why_unused(key) == reason


def test_parts_that_the_settings_do_not_describe() -> None:
    published = PUBLISHED["mplug-base"]
    bert = {
        key: value
        for key, value in published.bert.items()
        if key not in ("stride_layer", "text_decode_layers")
    }
    settings = ReferenceSettings(where=Path("x"), yaml=published.yaml, bert=bert)
    names = names_of(settings)
    for key in ("fusion_encoder.encoder.layer.7.output.dense.bias", "text_decoder.cls.predictions.bias"):
        assert names.why_unused(key) == reasons.NOT_DESCRIBED
    with pytest.raises(ConfigError, match="no fusion_encoder"):
        task_size(settings.to_config(), "rerank")
