"""The reference's own numbers, through the folders that users have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden.gpt3_cases import CASES, Gpt3Case, read_gpt3_case
from mplug import gpt3
from mplug.generation import GenerationConfig, Hypothesis, generate
from mplug.gpt3 import Gpt3Generator, masked_loss, mean_loss, token_losses
from mplug.text_generator import Prompt

TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-4
BEAMS = ("eod7_beam2", "eod7_beam4", "eod90_beam2", "eod90_beam4")


def relative_error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.abs().max())


def loaded(case: Gpt3Case, folder: Path, **changes: Any) -> Gpt3Generator:
    return gpt3.load(case.write(folder / case.name, **changes))


def texts(
    generator: Gpt3Generator, prompts: Sequence[Sequence[int]], config: GenerationConfig
) -> list[tuple[Hypothesis, ...]]:
    given = [Prompt(tuple(prompt)) for prompt in prompts]
    return generate(
        generator.decoder, lambda items: generator.start([given[item] for item in items]), prompts, config
    )


def greedy_ids(generator: Gpt3Generator, prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    config = generator.generation_config(method="greedy", max_length=length)
    return [list(one.ids) for (one,) in texts(generator, prompts, config)]


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_states_and_logits(name: str, tmp_path: Path) -> None:
    case = read_gpt3_case(name)
    decoder = loaded(case, tmp_path).decoder
    ids = case.io["input_ids"]
    states = [decoder.embeddings(ids, torch.arange(ids.shape[1]))]
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    for layer in decoder.layers:
        states.append(layer(states[-1], causal))

    logits = decoder(ids)

    assert relative_error(logits, case.io["logits"]) < TOLERANCE
    stored = [case.io[f"layer{number}.out"] for number in range(3) if f"layer{number}.out" in case.io]
    assert len(stored) == (3 if name == "base" else 0)
    for ours, reference in zip(states[1:], stored, strict=False):
        assert relative_error(ours, reference) < TOLERANCE


@torch.inference_mode()
def test_the_plain_loss(tmp_path: Path) -> None:
    case = read_gpt3_case("base")
    logits = loaded(case, tmp_path).decoder(case.io["input_ids"])
    loss = mean_loss(logits, case.io["labels"])
    assert float(loss) == pytest.approx(float(case.io["loss_mean_ce"]), rel=TOLERANCE)


@torch.inference_mode()
def test_the_masked_losses(tmp_path: Path) -> None:
    case = read_gpt3_case("dist")
    logits, labels = loaded(case, tmp_path).decoder(case.io["input_ids"]), case.io["labels"]
    assert relative_error(token_losses(logits, labels), case.io["token_losses"]) < TOLERANCE
    continued = case.generation["loss_prompts_only"]
    answered = case.generation["loss_with_inputs_len"]
    ours = masked_loss(logits, labels, torch.tensor(continued["prompts_len"]))
    assert float(ours) == pytest.approx(continued["loss"], rel=TOLERANCE)
    prompts, inputs = torch.tensor(answered["prompts_len"]), torch.tensor(answered["inputs_len"])
    assert float(masked_loss(logits, labels, prompts, inputs)) == pytest.approx(
        answered["loss"], rel=TOLERANCE
    )


@pytest.mark.parametrize("name", CASES)
def test_greedy(name: str, tmp_path: Path) -> None:
    case = read_gpt3_case(name)
    generator = loaded(case, tmp_path)
    assert greedy_ids(generator, case.io["input_ids"].tolist(), 9) == case.generation["greedy"]


def test_greedy_with_prompts_of_unequal_length(tmp_path: Path) -> None:
    case = read_gpt3_case("dist")
    stored = case.generation["greedy_ragged"]
    prompts = [
        ids[:length] for ids, length in zip(case.io["input_ids"].tolist(), stored["prompts_len"], strict=True)
    ]
    found = greedy_ids(loaded(case, tmp_path), prompts, 11)
    assert [ids[:14] for ids in found] == stored["sequences"]


def test_a_text_stops_at_its_own_end(tmp_path: Path) -> None:
    case = read_gpt3_case("base")
    stored = case.generation["greedy_batch1_stops_at_eod"]
    generator = loaded(case, tmp_path, eod_id=stored["eod_id"])
    first, second = greedy_ids(generator, case.io["input_ids"].tolist(), 9)
    assert [first] == stored["sequences"]
    # The reference goes on behind the end as long as the other text does.
    assert stored["batch2"][0][: len(first)] == first != stored["batch2"][0]
    assert second == stored["batch2"][1]


def test_the_wrapper_s_prompts_are_those_of_read(tmp_path: Path) -> None:
    case = read_gpt3_case("base")
    stored = case.generation["wrapper_len_minus_1"]
    generator = loaded(case, tmp_path)
    prompts = [generator.read("piece25 piece40 piece99 piece31").first, generator.read("piece77").first]
    assert [list(prompt) for prompt in prompts] == [[101, 25, 40, 99, 31], [101, 77]]
    assert [len(prompt) for prompt in prompts] == stored["prompt_length"]
    found = greedy_ids(generator, prompts, 12)
    assert [ids[:14] for ids in found] == stored["sequences"]


@pytest.mark.parametrize("name", BEAMS)
def test_beams(name: str, tmp_path: Path) -> None:
    case = read_gpt3_case("dist")
    assert tuple(case.generation["beam"]) == BEAMS
    stored = case.generation["beam"][name]
    generator = loaded(case, tmp_path, eod_id=stored["eod_id"])
    config = generator.generation_config(
        method="beam", beam_size=stored["beam_size"], num_results=stored["beam_size"]
    )
    assert config.max_length == case.described["config"]["tokens_to_generate"]

    (found,) = texts(generator, [case.io["input_ids"][0].tolist()], config)

    padded = [[*one.ids, *[stored["eod_id"]] * (14 - len(one.ids))] for one in found]
    assert padded == stored["sequences"]
    assert [one.score for one in found] == pytest.approx(stored["scores"], rel=SCORE_TOLERANCE)


def test_the_golden_beams_show_the_quirks() -> None:
    stored = read_gpt3_case("dist").generation["beam"]
    assert all(ids[-1] == 90 for ids in stored["eod90_beam4"]["sequences"]), "all of them ended"
    assert all(7 not in ids for ids in stored["eod7_beam4"]["sequences"]), "none of them did"
