"""Every generation setting that the reference was run with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from generation_cases import GOLDEN_DECODERS, Memories, golden_decoder
from golden.mplug_cases import read_case
from mplug.generation import GenerationConfig, Hypothesis, generate

SCORE_TOLERANCE = 1e-4
SETTINGS = [
    (name, setting) for name in GOLDEN_DECODERS for setting in read_case(name).described["generation"]
]


def check(found: list[tuple[Hypothesis, ...]], stored: dict[str, Any]) -> None:
    assert [[list(one.ids) for one in texts] for texts in found] == stored["ids"]
    for texts, scores in zip(found, stored["scores"], strict=True):
        assert [one.score for one in texts] == pytest.approx(scores, abs=SCORE_TOLERANCE)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_ids_and_scores_are_the_reference_ones(
    name: str, setting: str, deterministic: bool, tmp_path: Path
) -> None:
    golden = golden_decoder(name, tmp_path / name)
    stored = golden.case.described["generation"][setting]
    config = GenerationConfig(
        beam_size=stored["beam_size"],
        min_length=stored["min_length"],
        max_length=stored["max_length"],
        num_results=stored["out_size"],
        deterministic=deterministic,
    )
    check(generate(golden.decoder, golden.start, [[101], [101]], config), stored)


@pytest.mark.parametrize("name", GOLDEN_DECODERS)
def test_greedy_is_the_reference_with_one_beam(name: str, tmp_path: Path) -> None:
    golden = golden_decoder(name, tmp_path / name)
    config = GenerationConfig(method="greedy", max_length=8)
    stored = golden.case.described["generation"]["greedy_beam1"]
    check(generate(golden.decoder, golden.start, [[101], [101]], config), stored)


@pytest.mark.parametrize("name", GOLDEN_DECODERS)
def test_the_checkpoint_s_own_settings_give_what_its_forward_gives(name: str, tmp_path: Path) -> None:
    golden = golden_decoder(name, tmp_path / name)
    config = GenerationConfig(beam_size=3, max_length=8)
    found = generate(golden.decoder, golden.start, [[101], [101]], config)
    check(found, golden.case.described["beam_top1_forward"])


def test_captions_from_the_fused_memory(tmp_path: Path) -> None:
    # The reference's path for self-critical training attends to the fused picture and text.
    golden = golden_decoder("caption_large", tmp_path / "caption_large")
    io = golden.case.io
    memory = torch.cat([io["fusion_image"], io["fusion_text"]], dim=1)
    mask = torch.cat([torch.ones(2, 17, dtype=torch.bool), io["question_attention_mask"].bool()], dim=1)
    config = GenerationConfig(beam_size=3, max_length=8, num_results=3)
    found = generate(golden.decoder, Memories(golden.decoder, memory, mask), [[101], [101]], config)
    check(found, golden.case.described["scst_beam_fused"])


def test_the_reference_shows_its_quirks() -> None:
    # What the files above hold, so that a change of them that loses a quirk is seen.
    results = [
        ids
        for name in GOLDEN_DECODERS
        for stored in read_case(name).described["generation"].values()
        for item in stored["ids"]
        for ids in item
    ]
    assert any(102 in ids[1:-1] for ids in results), "a beam lives on behind its end"
    assert any(ids[-1] != 102 and len(ids) < 8 for ids in results), "unfinished beams are results"
