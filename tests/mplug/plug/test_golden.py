"""The reference's own numbers, through the folders that users have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden.plug_cases import CASES, PlugCase, read_plug_case
from mplug import plug
from mplug.generation import Finished, Token, generate
from mplug.plug import PlugGenerator
from mplug.text_generator import Prompt

TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-4
BEAMS = ("beam1_min0_max8", "beam3_min2_max10", "beam5_min1_max8")


def relative_error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.abs().max())


def loaded(name: str, folder: Path) -> tuple[PlugCase, PlugGenerator]:
    case = read_plug_case(name)
    # post_ln's parts among ranks are not stored; two files of pre_ln are the usual case.
    ranks = 2 if name == "pre_ln" else 1
    return case, plug.load(case.write(folder / name, ranks=ranks), pretraining=True)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_encoder_s_states(name: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    io, encoder = case.io, model.encoder
    ids, mask = io["input_ids"], io["attention_mask"]

    states = encoder.states(ids, mask)[1:]

    assert len(states) == 3
    if encoder.norm is not None:
        states[-1] = encoder.norm(states[-1])  # the reference lists the last one behind a norm
    for number, state in enumerate(states):
        assert relative_error(state, io[f"encoder_layer{number}"]) < TOLERANCE
    assert relative_error(encoder(ids, mask), io["encoder_states_inference"]) < TOLERANCE
    typed = encoder(ids, mask, io["token_type_ids"])
    assert relative_error(typed, io["encoder_states_inference_token_types"]) < TOLERANCE
    trained = encoder.train()(ids, mask)
    assert relative_error(trained, io["encoder_states_training_checkpointed"]) < TOLERANCE
    assert torch.equal(trained, encoder.eval()(ids, mask)) == (name == "post_ln")


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_and_losses(name: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    io, stored = case.io, case.described["train"]
    source, mask, text = io["input_ids"], io["attention_mask"], io["target_ids"]

    logits = model(source, text[:, :-1], mask_BN=mask)
    assert relative_error(logits, io["decoder_logits_inference"]) < TOLERANCE
    assert relative_error(logits, io["train_logits_ckFalse"]) < TOLERANCE
    loss = model.loss(source, text, mask_BN=mask)
    assert loss.item() == pytest.approx(stored["loss_checkpoint_activations_False"], rel=TOLERANCE)

    model.train()
    logits = model(source, text[:, :-1], mask_BN=mask)
    assert relative_error(logits, io["train_logits_ckTrue"]) < TOLERANCE
    loss = model.loss(source, text)
    assert loss.item() == pytest.approx(stored["loss_checkpoint_activations_True"], rel=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_heads_of_pretraining(name: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    assert model.heads is not None
    states = model.encoder(case.io["input_ids"], case.io["attention_mask"])
    words, relation = model.heads(states, model.encoder.embeddings.word.weight)
    assert relative_error(words, case.io["mlm_scores"]) < TOLERANCE
    assert relative_error(relation, case.io["seq_relationship"]) < TOLERANCE


@pytest.mark.parametrize("setting", BEAMS)
@pytest.mark.parametrize("name", CASES)
def test_beam_search(name: str, setting: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    stored = case.described["generation"][setting]
    rows = zip(case.io["input_ids"].tolist(), case.io["attention_mask"].sum(1).tolist(), strict=True)
    prompts = [Prompt((101,), tuple(ids[:length])) for ids, length in rows]
    config = model.generation_config(
        method="beam",
        beam_size=stored["beam_size"],
        min_length=stored["min_length"],
        max_length=stored["max_length"],
    )

    texts = generate(
        model.decoder,
        lambda items: model.start([prompts[item] for item in items]),
        [prompt.first for prompt in prompts],
        config,
    )

    assert [[list(one.ids[1:]) for one in some] for some in texts] == stored["ids"]
    for some, scores in zip(texts, stored["scores"], strict=True):
        assert [one.score for one in some] == pytest.approx(scores, rel=SCORE_TOLERANCE)


def windowed(model: PlugGenerator, source: Sequence[int], length: int) -> list[int]:
    config = model.window_config(method="greedy", max_length=length)
    events = list(model.stream_windows([Prompt((101,), tuple(source))], config))
    tokens = [event.id for event in events if isinstance(event, Token)]
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.hypotheses[0].ids == (101, *tokens)
    return tokens[:-1] if tokens[-1] == 102 else tokens  # the reference's ids are without the end


@pytest.mark.parametrize("name", CASES)
def test_greedy_generation(name: str, tmp_path: Path) -> None:
    case, model = loaded(name, tmp_path)
    stored = case.described["generation"]
    assert {*stored} == {*BEAMS, "greedy_out12", "greedy_padded_out12", "greedy_window_out140"}
    length = int(case.io["attention_mask"][0].sum())
    source = case.io["input_ids"][0, :length].tolist()

    assert windowed(model, source, 12) == stored["greedy_out12"]
    assert windowed(model, [*source, *[0] * 3], 12) == stored["greedy_padded_out12"]
    sliding = stored["greedy_window_out140"]
    assert sliding["out_length"] > 128
    assert windowed(model, source, sliding["out_length"]) == sliding["ids"]
    padded = [*source, *[0] * (sliding["input_len"] - length)]
    assert windowed(model, padded, sliding["out_length"]) == sliding["ids"]
