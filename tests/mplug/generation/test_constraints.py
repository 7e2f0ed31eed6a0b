"""What settings forbid."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generation_cases import EOS, TableDecoder
from mplug.generation import GenerationConfig, generate
from mplug.generation.constraints import BANNED, constrained_log_probs, repeating_tokens

tokens = st.lists(st.integers(0, 4), max_size=14)


@given(text=tokens, size=st.integers(1, 4))
def test_repeating_tokens_are_those_that_complete_a_seen_run(text: list[int], size: int) -> None:
    def runs(some: list[int]) -> list[tuple[int, ...]]:
        return [tuple(some[at : at + size]) for at in range(len(some) - size + 1)]

    wanted = [
        token for token in range(5) if runs([*text, token])[-1:] and runs([*text, token])[-1] in runs(text)
    ]
    assert repeating_tokens(text, size) == wanted


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999), size=st.integers(2, 3), method=st.sampled_from(["beam", "greedy", "sample"])
)
def test_no_run_comes_twice(seed: int, size: int, method: str) -> None:
    decoder = TableDecoder(20, seed, eos_bonus=-20.0)
    config = GenerationConfig(method=method, no_repeat_ngram_size=size, max_length=24)  # type: ignore[arg-type]
    (texts,) = generate(decoder, decoder.start, [[5, 6, 5]], config)
    ids = texts[0].ids
    runs = list(zip(*(ids[offset:] for offset in range(size)), strict=False))
    assert len(runs) == len(set(runs))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999),
    method=st.sampled_from(["beam", "greedy", "sample"]),
    bounds=st.tuples(st.integers(0, 6), st.integers(1, 6)).filter(lambda pair: pair[0] <= pair[1]),
)
def test_lengths_are_kept(seed: int, method: str, bounds: tuple[int, int]) -> None:
    decoder = TableDecoder(12, seed, eos_bonus=4.0)
    config = GenerationConfig(method=method, min_length=bounds[0], max_length=bounds[1])  # type: ignore[arg-type]
    (texts,) = generate(decoder, decoder.start, [[5, 6]], config)
    generated = texts[0].ids[2:]
    assert len(generated) <= bounds[1]
    assert EOS not in generated[: bounds[0]]


def test_bans_leave_the_others_as_they_are() -> None:
    logits = torch.randn(1, 12)
    config = GenerationConfig(min_length=3, no_repeat_ngram_size=1)
    log_probs = constrained_log_probs(logits.clone(), [[5, 7]], [2], config, EOS)
    for token, (ours, plain) in enumerate(zip(log_probs[0], logits.log_softmax(-1)[0], strict=True)):
        assert ours == (BANNED if token in (5, 7, EOS) else plain)


def test_repetition_is_penalised_on_both_sides_of_zero() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0, -2.0]])
    config = GenerationConfig(repetition_penalty=2.0, min_length=0)
    log_probs = constrained_log_probs(logits.clone(), [[0, 1, 1]], [0], config, 3)
    assert torch.allclose(log_probs, torch.tensor([[0.5, -2.0, 2.0, -2.0]]).log_softmax(-1))


def test_forbidding_everything_forbids_nothing() -> None:
    decoder = TableDecoder(4, 0)
    config = GenerationConfig(method="sample", no_repeat_ngram_size=1, min_length=8, max_length=8)
    (texts,) = generate(decoder, decoder.start, [[1]], config)
    ids = texts[0].ids
    assert set(ids[:3]) == {0, 1, 3}, "whatever is not forbidden comes first"
    assert len(ids) == 9 or ids[-1] == EOS
    assert texts[0].score < -1e19, "and the score tells"
