"""What pretraining makes of texts: how many words are masked and as what, and how texts are split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiment_cases import TOKENIZER
from golden.mplug_cases import small_vocab
from mplug.errors import ConfigError, MplugError
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.train.experiments.settings import MaskConfig
from mplug.train.experiments.text_objectives import (
    NOT_MASKED,
    draw_prefixes,
    mask_tokens,
    masked_loss,
    split_texts,
)

MASK = 103


def long_texts() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, 90, (400, 100), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 101
    ids[:200, 59], ids[:200, 60:], ids[200:, 99] = 102, 0, 102
    return ids, ids != 0


def test_15_percent_are_masked_80_10_10() -> None:
    torch.manual_seed(0)
    ids, mask = long_texts()
    masked = mask_tokens(ids, mask, TOKENIZER, MaskConfig())
    chosen = masked.targets_BL != NOT_MASKED
    pieces = mask & (ids != 101) & (ids != 102)
    assert not (chosen & ~pieces).any()
    assert torch.equal(masked.targets_BL[chosen], ids[chosen])
    assert torch.equal(masked.ids_BL[~chosen], ids[~chosen])
    assert chosen.sum() / pieces.sum() == pytest.approx(0.15, abs=0.01)
    became = masked.ids_BL[chosen]
    assert (became == MASK).float().mean() == pytest.approx(0.8, abs=0.02)
    same = became == ids[chosen]
    assert same.float().mean() == pytest.approx(0.1, abs=0.02)
    others = became[(became != MASK) & ~same]
    assert len(others) / len(became) == pytest.approx(0.1, abs=0.02)
    assert len(set(others.tolist())) > 100  # of 130 pieces


def test_shares_can_be_set_and_are_checked() -> None:
    torch.manual_seed(0)
    ids, mask = long_texts()
    masked = mask_tokens(ids, mask, TOKENIZER, MaskConfig(probability=1.0, as_mask=1.0, as_random=0.0))
    assert (masked.ids_BL[mask & (ids != 101) & (ids != 102)] == MASK).all()
    with pytest.raises(ConfigError, match=r"probability is 0\.0"):
        MaskConfig(probability=0.0)
    with pytest.raises(ConfigError, match="shares of one whole"):
        MaskConfig(as_mask=0.8, as_random=0.3)


def test_a_vocabulary_without_mask_is_refused() -> None:
    vocab = [piece if piece != "[MASK]" else "piece103" for piece in small_vocab(130)]
    with pytest.raises(MplugError, match=r"no \[MASK\]"):
        mask_tokens(*long_texts(), WordPieceTokenizer(vocab, max_length=25), MaskConfig())


def test_a_batch_without_masked_words_costs_nothing() -> None:
    logits = torch.zeros(0, 130, requires_grad=True)
    loss = masked_loss(logits, torch.zeros(0, dtype=torch.int64))
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 2**31))
def test_a_prefix_and_its_rest_are_the_text(lengths: list[int], seed: int) -> None:
    texts = [[101, *range(1, length + 1), 102] for length in lengths]
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    torch.manual_seed(seed)
    prefixes = draw_prefixes(ids != 0)
    halves = split_texts(ids, ids != 0, prefixes, 0)
    for row, (text, prefix) in enumerate(zip(texts, prefixes.tolist(), strict=True)):
        before = halves.prefix_ids_BL[row][halves.prefix_mask_BL[row]].tolist()
        behind = halves.rest_ids_BL[row][halves.rest_mask_BL[row]].tolist()
        assert before == [101, *text[1 : 1 + prefix], 102]
        assert behind == [101, *text[1 + prefix :]]
        assert len(behind) > 2 or len(text) == 2
    assert not halves.prefix_ids_BL[~halves.prefix_mask_BL].any()
    assert not halves.rest_ids_BL[~halves.rest_mask_BL].any()
    assert halves.rest_mask_BL.any(0).all()


def test_prefixes_of_all_lengths_are_drawn() -> None:
    torch.manual_seed(0)
    drawn = draw_prefixes(torch.ones(3000, 7, dtype=torch.bool))
    shares = drawn.bincount() / 3000
    assert len(shares) == 5
    assert shares.min() > 0.17
