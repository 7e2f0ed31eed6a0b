"""Rows in the tokens of each family, and losses that are those of the reference's recipes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from golden.gpt3_cases import tiny_generator
from golden.palm_cases import tiny_palm
from golden.plug_cases import tiny_plug
from mplug.errors import MplugError
from mplug.gpt3 import masked_loss
from mplug.palm import plain_loss
from mplug.train.text.batches import TextBatch, collate
from mplug.train.text.families import AnyFamily, family_of, token_losses
from mplug.train.text.measuring import PerplexityMeasure, log_probabilities
from mplug.train.text.rows import TextRow

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES: dict[str, Callable[[], AnyFamily]] = {
    "gpt3 plain": lambda: family_of(tiny_generator("plain", ffn=128, eod_id=102), 24),
    "gpt3 distributed": lambda: family_of(tiny_generator("distributed"), 24),
    "palm": lambda: family_of(tiny_palm(), 24),
    "palm roberta": lambda: family_of(tiny_palm(roberta=True), 24),
    "plug": lambda: family_of(tiny_plug(), 24),
}
ROWS = {
    name: [TextRow("piece5 piece6", "piece7"), TextRow("piece8", "piece9 piece10 piece11")]
    for name in FAMILIES
} | {
    "gpt3 distributed": [TextRow("今天", "真好"), TextRow("明天", "也好吧")],
    "palm roberta": [TextRow("the hat", "cat"), TextRow("the cat", "the hat")],
}
by_family = pytest.mark.parametrize("name", FAMILIES)


def batch_of(family: AnyFamily, rows: list[TextRow]) -> TextBatch:
    return collate([family.example(row) for row in rows], family.pad_id)


@by_family
def test_an_example_begins_with_what_is_given_and_ends_with_the_end(name: str) -> None:
    family = FAMILIES[name]()
    for row in ROWS[name]:
        example = family.example(row)
        prompt = family.generator.read(row.source)
        assert example.ids[: example.given] == prompt.first
        assert example.source == prompt.source
        assert example.ids[-1] == family.generator.decoder.eos_id
        written = family.generator.text(example.ids, prompt)
        assert written.replace(" ", "") == row.target.replace(" ", "")


@by_family
def test_what_is_given_costs_nothing_and_what_follows_is_the_model_s_own_probability(name: str) -> None:
    family = FAMILIES[name]()
    batch = batch_of(family, ROWS[name])
    losses_P = token_losses(family, batch.source_BN, batch.ids_BL, batch.counts_BL)
    logits_BLV = family.generator.decoder.logits(family.states(batch.source_BN, batch.ids_BL[:, :-1]))
    expected = [
        -logits_BLV[row, place].log_softmax(-1)[batch.ids_BL[row, place + 1]]
        for row, place in batch.counts_BL.nonzero().tolist()
    ]
    torch.testing.assert_close(losses_P, torch.stack(expected))
    learnt = sum(len(example.ids) - example.given for example in map(family.example, ROWS[name]))
    assert len(losses_P) == learnt


def test_gpt3_learns_what_the_reference_does() -> None:
    family = FAMILIES["gpt3 distributed"]()
    examples = [family.example(row) for row in ROWS["gpt3 distributed"]]
    batch = collate(examples, family.pad_id)
    loss = token_losses(family, batch.source_BN, batch.ids_BL, batch.counts_BL).mean()
    logits_BLV = family.generator.decoder(batch.ids_BL[:, :-1])
    given_B = torch.tensor([example.given for example in examples])
    lengths_B = torch.tensor([len(example.ids) for example in examples])
    torch.testing.assert_close(loss, masked_loss(logits_BLV, batch.ids_BL[:, 1:], given_B, lengths_B))


def test_palm_learns_what_the_reference_does() -> None:
    family = FAMILIES["palm"]()
    batch = batch_of(family, ROWS["palm"])
    loss = token_losses(family, batch.source_BN, batch.ids_BL, batch.counts_BL).sum()
    logits_BLV = family.generator(batch.source_BN, batch.ids_BL[:, :-1])
    torch.testing.assert_close(loss, plain_loss(logits_BLV, batch.ids_BL[:, 1:], pad_id=0))


def test_plug_learns_what_the_reference_does_of_texts_of_one_length() -> None:
    family = FAMILIES["plug"]()  # of shorter ones the reference learns a [PAD], too
    batch = batch_of(family, [TextRow("piece5 piece6", "piece7"), TextRow("piece8", "piece9")])
    loss = token_losses(family, batch.source_BN, batch.ids_BL, batch.counts_BL).mean()
    torch.testing.assert_close(loss, family.generator.loss(batch.source_BN, batch.ids_BL))


@by_family
def test_a_row_s_losses_do_not_depend_on_its_neighbours(name: str) -> None:
    family = FAMILIES[name]()
    together = [list(each) for each in log_probabilities(family, ROWS[name], 2)]
    alone = [list(each) for each in log_probabilities(family, ROWS[name], 1)]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_perplexity_is_over_all_tokens() -> None:
    family = FAMILIES["palm"]()
    found = PerplexityMeasure(ROWS["palm"], 2)(family)
    values = [value for row in log_probabilities(family, ROWS["palm"], 2) for value in row]
    assert found["loss"] == pytest.approx(-sum(values) / len(values), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]), rel=1e-5)


@pytest.mark.parametrize("name", ["gpt3 plain", "gpt3 distributed"])
def test_a_text_alone_is_continued_from_its_beginning(name: str) -> None:
    family = FAMILIES[name]()
    example = family.example(TextRow("", "piece5 piece6" if name == "gpt3 plain" else "今天真好"))
    assert example.given == 1


@pytest.mark.parametrize("name", ["palm", "plug"])
def test_an_encoder_wants_a_source(name: str) -> None:
    with pytest.raises(MplugError, match="rows with source and target"):
        FAMILIES[name]().example(TextRow("", "piece5", origin="rows.jsonl, line 1"))


def test_a_long_text_keeps_its_beginning_and_no_end() -> None:
    family = family_of(tiny_generator("plain", ffn=128), 4)
    example = family.example(TextRow("piece5", "piece6 piece7 piece8"))
    assert len(example.ids) == 4
    assert example.ids[-1] != family.generator.decoder.eos_id


def test_a_source_that_fills_everything_is_refused() -> None:
    family = family_of(tiny_generator("plain", ffn=128), 4)
    with pytest.raises(MplugError, match="nothing of its target"):
        family.example(TextRow("piece5 piece6 piece7 piece8", "piece9"))


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(MplugError, match="has 48 positions"):
        family_of(tiny_generator("plain", ffn=128), 49)


def test_what_does_not_write_is_refused() -> None:
    with pytest.raises(MplugError, match="a Linear cannot be fine-tuned"):
        family_of(torch.nn.Linear(1, 1), 8)
