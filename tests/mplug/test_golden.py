"""The reference's own numbers, through the folders that users have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from golden.mplug_cases import CASES, GOLDEN, GoldenCase, read_case, small_vocab
from mplug.captioning import CaptionModel
from mplug.checkpoints import modelscope
from mplug.encoders import Encoders
from mplug.image_encoder import normalise
from mplug.loading import load, load_encoders
from mplug.preprocess import CLIP_MEAN, CLIP_STD, to_pixels
from mplug.reranking import RerankModel
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.vqa import VqaModel

TOLERANCE = 1e-5


def relative_error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.abs().max())


def golden_tower(model: Encoders | CaptionModel, image: Tensor) -> tuple[Tensor, Tensor]:
    """Tower and bridge on the golden picture, which is stored normalised."""
    tower = model.image_encoder.backbone(image)
    return tower, model.image_encoder.adapter(tower)


def golden_text(case: GoldenCase) -> tuple[Tensor, Tensor]:
    prefix = "text" if "text_input_ids" in case.io else "question"
    return case.io[f"{prefix}_input_ids"], case.io[f"{prefix}_attention_mask"].bool()


@pytest.mark.parametrize("vision_library", ["timm", "open_clip"])
@pytest.mark.parametrize("wrapping", ["model", "module", "model.module", "prefix", "none"])
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_encoders_give_the_reference_numbers(
    name: str, wrapping: str, vision_library: Literal["timm", "open_clip"], tmp_path: Path
) -> None:
    case = read_case(name)
    wrappings: dict[str, dict[str, Any]] = {
        "model": {"model": case.weights},
        "module": {"module": case.weights},
        "model.module": {"model": {"module": case.weights}},
        "prefix": {f"model.{key}": tensor for key, tensor in case.weights.items()},
        "none": case.weights,
    }
    folder = case.write_modelscope(tmp_path / name, wrappings[wrapping])

    model = load_encoders(folder, vision_library=vision_library)

    tower, image_tokens = golden_tower(model, case.io["image"])
    assert relative_error(tower, case.io["vision_tower"]) < TOLERANCE
    assert relative_error(image_tokens, case.io["image_embeds"]) < TOLERANCE
    ids, mask = golden_text(case)
    assert not mask.all(), "the golden batch has padding"
    assert relative_error(model.encode_text(ids, mask), case.io["text_embeds"]) < TOLERANCE
    assert model.report.unknown == ()


@pytest.mark.parametrize("vision_library", ["timm", "open_clip"])
@torch.inference_mode()
def test_retrieval_gives_the_reference_embeddings(
    vision_library: Literal["timm", "open_clip"], retrieval_case: GoldenCase, retrieval_folder: Path
) -> None:
    model = load(retrieval_folder, task="image-text-retrieval", vision_library=vision_library)

    assert isinstance(model, RetrievalModel)
    _, image_tokens = golden_tower(model, retrieval_case.io["image"])
    assert relative_error(model.project_image(image_tokens), retrieval_case.io["itc_image"]) < TOLERANCE
    embedded = model.embed_texts(*golden_text(retrieval_case))
    assert relative_error(embedded, retrieval_case.io["itc_text"]) < TOLERANCE
    assert float(model.logit_scale.exp()) == pytest.approx(
        1 / float(retrieval_case.weights["temp"]), rel=1e-6
    )


def golden_pair(model: Encoders, case: GoldenCase) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens of the golden picture, ids and mask of the golden text."""
    _, image_tokens = golden_tower(model, case.io["image"])
    return image_tokens, *golden_text(case)


@pytest.mark.parametrize("vision_library", ["timm", "open_clip"])
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_fusion_gives_the_reference_states(
    name: str, vision_library: Literal["timm", "open_clip"], tmp_path: Path
) -> None:
    case = read_case(name)
    task: Any = "rerank" if name.startswith("retrieval") else "vqa"
    model = load(case.write_modelscope(tmp_path), task=task, vision_library=vision_library)
    assert isinstance(model, RerankModel | VqaModel)
    image_tokens, ids, mask = golden_pair(model, case)
    states = model.encode_text(ids, mask)
    before = image_tokens.clone()

    fused_image, fused_text = model.fusion_encoder(image_tokens, states, text_mask_BL=mask)

    assert relative_error(fused_image, case.io["fusion_image"]) < TOLERANCE
    assert relative_error(fused_text, case.io["fusion_text"]) < TOLERANCE
    assert torch.equal(image_tokens, before)
    assert model.report.unknown == ()


@torch.inference_mode()
def test_matching_gives_the_reference_scores(retrieval_case: GoldenCase, retrieval_folder: Path) -> None:
    model = load(retrieval_folder, task="rerank")
    pair = golden_pair(model, retrieval_case)
    assert relative_error(model.itm_logits(*pair), retrieval_case.io["itm_logits"]) < TOLERANCE
    assert relative_error(model.itm_scores(*pair), retrieval_case.io["itm_scores"][:, 1]) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("vqa")])
@torch.inference_mode()
def test_answering_gives_the_reference_memory_and_logits(name: str, tmp_path: Path) -> None:
    case = read_case(name)
    model = load(case.write_modelscope(tmp_path), task="visual-question-answering")

    memory, memory_mask = model.decoder_memory(*golden_pair(model, case))

    assert relative_error(memory, case.io["decoder_memory"]) < TOLERANCE
    assert torch.equal(memory_mask, case.io["decoder_memory_mask"].bool())
    logits = model.text_decoder(
        case.io["answer_input_ids"],
        memory,
        mask_BL=case.io["answer_attention_mask"].bool(),
        memory_mask_BN=memory_mask,
    )
    assert relative_error(logits, case.io["decoder_logits"]) < TOLERANCE


@torch.inference_mode()
def test_captioning_gives_the_reference_logits_from_the_picture_alone(tmp_path: Path) -> None:
    case = read_case("caption_large")
    model = load(case.write_modelscope(tmp_path), task="image-captioning")
    assert isinstance(model, CaptionModel)
    assert {name for name, _ in model.named_children()} == {"image_encoder", "text_decoder"}
    _, image_tokens = golden_tower(model, case.io["image"])
    answers, mask = case.io["answer_input_ids"], case.io["answer_attention_mask"].bool()
    logits = model.text_decoder(answers, image_tokens, mask_BL=mask)
    assert relative_error(logits, case.io["decoder_logits"]) < TOLERANCE


@torch.inference_mode()
def test_padding_changes_no_embedding(retrieval_case: GoldenCase, retrieval_folder: Path) -> None:
    model = modelscope.load(retrieval_folder, RetrievalModel)
    ids, mask = golden_text(retrieval_case)
    alone = [
        model.embed_texts(row[keep][None], keep[keep][None]) for row, keep in zip(ids, mask, strict=True)
    ]
    assert relative_error(torch.cat(alone), model.embed_texts(ids, mask)) < TOLERANCE


@torch.inference_mode()
def test_raw_layout_gives_the_reference_embeddings(retrieval_case: GoldenCase, tmp_path: Path) -> None:
    # As the training scripts leave it: bert. and fusion. in names, optimizer beside, yaml naming configs/.
    weights = {
        key.replace("text_encoder.", "text_encoder.bert.").replace(
            "fusion_encoder.", "fusion_encoder.fusion."
        ): tensor
        for key, tensor in retrieval_case.weights.items()
    }
    settings = {**retrieval_case.settings, "bert_config": "configs/config_bert.json"}
    (tmp_path / "retrieval_flickr30k.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "config_bert.json").write_text(json.dumps(retrieval_case.bert))
    WordPieceTokenizer(small_vocab(130), max_length=25).save(tmp_path / "vocab.txt")
    torch.save({"model": weights, "epoch": 7}, tmp_path / "checkpoint_07.pth")

    model = load(tmp_path)

    assert isinstance(model, RetrievalModel)
    _, image_tokens = golden_tower(model, retrieval_case.io["image"])
    assert relative_error(model.project_image(image_tokens), retrieval_case.io["itc_image"]) < TOLERANCE
    assert (
        relative_error(model.embed_texts(*golden_text(retrieval_case)), retrieval_case.io["itc_text"])
        < TOLERANCE
    )
    assert model.report.unknown == ()


def test_raw_layout_resizes_positions(retrieval_case: GoldenCase, tmp_path: Path) -> None:
    settings = {**retrieval_case.settings, "image_res": 48}
    folder = retrieval_case.write_modelscope(tmp_path)
    (folder / "config.yaml").rename(folder / "retrieval.yaml").write_text(yaml.safe_dump(settings))
    (folder / "pytorch_model.bin").rename(folder / "mplug.pth")

    model = load(folder)

    assert isinstance(model, RetrievalModel)
    table = model.state_dict()["image_encoder.backbone.tower.pos_embed"]
    stored = retrieval_case.weights["visual_encoder.visual.positional_embedding"]
    assert table.shape == (1, 1 + 6 * 6, 128)
    assert torch.equal(table[0, 0], stored[0])
    # Bilinear without aligned corners, 4 -> 6: the corners stay where they are.
    assert torch.allclose(table[0, 1], stored[1])
    assert torch.allclose(table[0, -1], stored[-1])


@pytest.mark.parametrize(
    ("source", "mode", "expected"),
    [
        ("in.a_50x70", "RGB", "out.a_50x70"),
        ("in.b_20x15_upscale", "RGB", "out.b_20x15_upscale"),
        ("in.c_gradient_90x64", "RGB", "out.c_gradient_90x64"),
        ("in.a_50x70", "L", "out.gray_from_channel0_of_a"),
    ],
)
def test_preprocessing_is_bit_equal(source: str, mode: str, expected: str) -> None:
    stored = load_file(GOLDEN / "preproc" / "images.safetensors")
    array = stored[source].numpy()
    picture = Image.fromarray(array[..., 0] if mode == "L" else array).convert("RGB")

    pixels = torch.from_numpy(to_pixels(picture, 32))

    assert torch.equal(normalise(pixels[None], CLIP_MEAN, CLIP_STD)[0], stored[expected])


def test_tokenizer_gives_the_reference_ids() -> None:
    described = json.loads((GOLDEN / "preproc" / "text.json").read_text())
    tokenizer = WordPieceTokenizer(described["vocab"], max_length=described["max_length"])
    for text, expected in described["cases"].items():
        length = sum(expected["attention_mask"])
        tokens = tokenizer.encode(text)
        assert tokens.ids.dtype == np.int64
        assert tokens.ids.tolist() == expected["input_ids"][:length], text
        assert tokens.truncated == text.startswith("zz zz"), text
