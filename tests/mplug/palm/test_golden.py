"""The reference's own numbers, through the folders that users have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden.palm_cases import CASES, PalmCase, read_palm_case
from mplug import palm
from mplug.generation import generate
from mplug.palm import PalmGenerator, plain_loss
from mplug.text_generator import Prompt

TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-4
SETTINGS = ("alpha0.6_min4", "beam5", "default", "greedy", "min0")


def relative_error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.abs().max())


def loaded(name: str, folder: Path) -> tuple[PalmCase, PalmGenerator]:
    case = read_palm_case(name)
    return case, palm.load(case.write(folder / name))


def prompts(case: PalmCase) -> list[Prompt]:
    bos_id = case.described["info"]["symbols"]["BOS"]
    rows = zip(case.io["src"].tolist(), case.io["src_mask"].sum(1).tolist(), strict=True)
    return [Prompt((bos_id,), tuple(ids[:length])) for ids, length in rows]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_states_and_log_probabilities(name: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    source, mask, text = case.io["src"], case.io["src_mask"], case.io["tgt"][:, :-1]
    real = mask.bool()
    assert not real.all(), "the golden batch has padding"

    memory, is_real = model.encode(source, mask)
    states = model.decoder.states(text, memory, memory_mask_BN=is_real)

    assert torch.equal(is_real, real)
    assert relative_error(memory[real], case.io["encoder_states"][real]) < TOLERANCE
    assert relative_error(states, case.io["decoder_states"]) < TOLERANCE
    log_probs = model.decoder.logits(states).log_softmax(-1)
    assert relative_error(log_probs, case.io["log_probs"]) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_attention_to_the_source(name: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    last: Any = model.decoder.layers[-1]
    given: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(_: object, args: tuple[Tensor], kwargs: dict[str, Tensor]) -> None:
        given.append((args[0], kwargs["memory_BND"], kwargs["mask"]))

    last.cross_attention.register_forward_pre_hook(watch, with_kwargs=True)
    model(case.io["src"], case.io["tgt"][:, :-1])

    ((stream, memory, mask),) = given
    heads = last.cross_attention.num_heads
    query = last.cross_attention.query(stream).unflatten(-1, (heads, -1)).transpose(1, 2)
    key = last.cross_attention.key(memory).unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    assert relative_error(weights, case.io["last_cross_attention_probs"]) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_losses_and_a_gradient(name: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    stored, text = case.described["train"], case.io["tgt"]

    loss = model.loss(case.io["src"], text, mask_BN=case.io["src_mask"])
    loss.backward()  # type: ignore[no-untyped-call]

    assert loss.item() == pytest.approx(stored["loss_label_smoothing_sum"], rel=TOLERANCE)
    gradient = model.decoder.word.weight.grad
    assert gradient is not None
    assert relative_error(gradient, case.io["grad.decoder.embeddings.weight"]) < TOLERANCE
    logits = model(case.io["src"], text[:, :-1])
    plain = plain_loss(logits, text[:, 1:], pad_id=model.decoder.pad_id)
    assert plain.item() == pytest.approx(stored["nll_sum_without_smoothing"], rel=TOLERANCE)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", CASES)
def test_beam_search(name: str, setting: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    assert tuple(case.described["generation"]) == SETTINGS
    stored, given = case.described["generation"][setting], prompts(case)
    config = model.generation_config(
        beam_size=stored["beam_size"],
        min_length=stored["min_length"],
        max_length=stored["max_length"],
        length_penalty=stored["alpha"],
    )

    texts = generate(
        model.decoder,
        lambda items: model.start([given[item] for item in items]),
        [prompt.first for prompt in given],
        config,
    )

    assert [[list(one.ids[1:]) for one in some] for some in texts] == stored["ids"]
    for some, scores in zip(texts, stored["scores"], strict=True):
        assert [one.score for one in some] == pytest.approx(scores, rel=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_the_folder_s_own_settings_are_those_of_generate(name: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    given = prompts(case)
    texts = generate(
        model.decoder,
        lambda items: model.start([given[item] for item in items]),
        [prompt.first for prompt in given],
        model.generation_config(),
    )
    assert [list(some[0].ids[1:]) for some in texts] == case.described["info"]["generate_api_sequences"]
