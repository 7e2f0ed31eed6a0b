"""Our stages beside what ModelScope's own classes computed, as recorded in the golden files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from golden.mplug_cases import GoldenCase, read_case
from mplug.preprocess import to_pixels
from mplug.tasks import MODELSCOPE_TASKS
from mplug.verification.compare import Array, compare
from mplug.verification.stages import StageInput, TaskStages, read_input
from mplug.verification.verify import drawn_picture

STAGES = {
    "caption": ["pixels", "vision tower", "image tokens", "first logits", "generated ids"],
    "vqa": [
        *("pixels", "vision tower", "image tokens", "text ids", "text states"),
        *("fused image", "fused text", "first logits", "generated ids"),
    ],
    "retrieval": [
        *("pixels", "vision tower", "image tokens", "text ids", "text states"),
        *("image vector", "text vector", "temperature"),
        *("fused image", "fused text", "matching logits", "matching scores"),
    ],
}
CASES = ("caption_large", "vqa_large", "vqa_stride6", "vqa_base", "vqa_distill", "retrieval_large")


def length_of(case: GoldenCase, row: int) -> int:
    prefix = "text" if "text_input_ids" in case.io else "question"
    return int(case.io[f"{prefix}_attention_mask"][row].sum())


def golden_input(case: GoldenCase, row: int) -> StageInput:
    prefix = "text" if "text_input_ids" in case.io else "question"
    ids = case.io[f"{prefix}_input_ids"][row, : length_of(case, row)]
    return StageInput(case.io["image"][row : row + 1], ids[None])


def recorded(case: GoldenCase, row: int) -> dict[str, Array]:
    """ModelScope's stages of one item, without padding."""
    given, io, length = golden_input(case, row), case.io, length_of(case, row)
    found = {
        "pixels": given.image_13RR,
        "vision tower": io["vision_tower"][row][None],
        "image tokens": io["image_embeds"][row][None],
        "text ids": given.ids_1L[0],
        "text states": io["text_embeds"][row, :length][None],
        "fused image": io["fusion_image"][row][None],
        "fused text": io["fusion_text"][row, :length][None],
    }
    if "itm_logits" in io:
        found["matching logits"], found["matching scores"] = io["itm_logits"][[row]], io["itm_scores"][[row]]
        found["image vector"], found["text vector"] = io["itc_image"][[row]], io["itc_text"][[row]]
        found["temperature"] = case.weights["temp"]
    else:
        found["first logits"] = io["decoder_logits"][row, :1]
        # The setting of this one is the yaml's.
        found["generated ids"] = torch.tensor(case.described["generation"]["default_top1"]["ids"][row][0])
    return {stage: tensor.numpy() for stage, tensor in found.items()}


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_stages_are_the_recorded_ones(name: str, row: int, tmp_path: Path) -> None:
    case = read_case(name)
    task = MODELSCOPE_TASKS[case.settings["task"]]

    ours = TaskStages(case.write_modelscope(tmp_path), task).run(golden_input(case, row))

    bridge = name != "vqa_base"
    assert list(ours) == [stage for stage in STAGES[task] if bridge or stage != "image tokens"]
    reference = {stage: array for stage, array in recorded(case, row).items() if stage in ours}
    found = compare(ours, reference)
    assert [one.stage for one in found] == list(ours), "every stage is recorded"
    assert [str(one.first) for one in found if not one.ok] == []


@pytest.mark.parametrize(
    ("name", "key", "stage"),
    [
        ("caption_large", "visual_encoder.visual.transformer.resblocks.1.ln_1.weight", "vision tower"),
        ("caption_large", "text_decoder.bert.embeddings.position_embeddings.weight", "first logits"),
        ("retrieval_large", "visn_layer_norm.bias", "image tokens"),
        ("retrieval_large", "text_encoder.encoder.layer.1.output.dense.bias", "text states"),
        ("retrieval_large", "text_proj.weight", "text vector"),
        ("retrieval_large", "temp", "temperature"),
        ("vqa_large", "fusion_encoder.encoder.layer.1.crossattention.output.dense.bias", "fused image"),
        ("vqa_stride6", "fusion_encoder.encoder.layer.5.output.dense.bias", "fused text"),
        ("retrieval_large", "itm_head.bias", "matching logits"),
    ],
)
def test_one_changed_weight_is_named_by_its_stage(name: str, key: str, stage: str, tmp_path: Path) -> None:
    case = read_case(name)
    changed = case.weights[key].clone()
    changed.view(-1)[0] += 0.01
    folder = case.write_modelscope(tmp_path, {**case.weights, key: changed})

    ours = TaskStages(folder, MODELSCOPE_TASKS[case.settings["task"]]).run(golden_input(case, 0))

    reference = {each: array for each, array in recorded(case, 0).items() if each in ours}
    differing = [one for one in compare(ours, reference) if not one.ok]
    assert differing[0].stage == stage
    assert differing[0].first is not None
    assert differing[0].first.index is not None


def test_input_is_what_the_model_makes_of_bytes(tmp_path: Path) -> None:
    model = TaskStages(read_case("vqa_base").write_modelscope(tmp_path), "vqa").model
    pixels = to_pixels(drawn_picture(), model.preprocess.image_size)
    given = read_input(pixels, "piece7 piece8", model.preprocess, model.tokenizer)
    assert torch.equal(given.image_13RR, model.image_encoder.normalised(torch.from_numpy(pixels)[None]))
    assert given.ids_1L.tolist() == [[101, 7, 8, 102]]


def test_the_drawn_picture_tells_directions_and_channels_apart() -> None:
    pixels = np.asarray(drawn_picture())
    variants = [pixels[::-1], pixels[:, ::-1], pixels[..., ::-1], pixels[..., [1, 0, 2]]]
    assert pixels.shape == (72, 96, 3)
    assert not any(np.array_equal(pixels, variant) for variant in variants)
