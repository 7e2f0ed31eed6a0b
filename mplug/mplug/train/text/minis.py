"""The stages of gpt3-poem-mini and palm-mini: from a configuration and the data folder to the experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from mplug import prompts
from mplug.evaluation.forms import form_rate, forms_by_tune, score_couplets
from mplug.train.parallel import own_device
from mplug.train.splits import Split
from mplug.train.text import poems, titles
from mplug.train.text.config import MINI_TEXT_LICENCE, MiniTextConfig
from mplug.train.text.experiment import Measure, TextExperiment
from mplug.train.text.families import AnyFamily, family_of
from mplug.train.text.finetuning import start_family
from mplug.train.text.measuring import PerplexityMeasure, Score, WritingMeasure, target_score
from mplug.train.text.rows import TextRow
from mplug.train.text.small import character_vocabulary, new_gpt3, new_palm


class _Parted(Protocol):
    @property
    def split(self) -> Split: ...


P = TypeVar("P", bound=_Parted)


class MiniTextExperiment(TextExperiment):
    """A stage of a small model, whose best is also written as it ships."""

    def export(self, best: Path, folder: Path) -> None:
        """Write the best model as int8 rows, with its licence."""
        family = start_family(dataclasses.replace(self.config, start=str(best)))
        family.generator.config = dataclasses.replace(family.generator.config, licence=MINI_TEXT_LICENCE)
        family.save(folder, int8=True)


def poem_mini(config: MiniTextConfig, data: Path) -> MiniTextExperiment:
    """A stage of gpt3-poem-mini.

    Args:
        config: of the stage.
        data: folder with the files of `poems`.

    Raises:
        MplugError: a file is missing, or there is no start for the second stage.
    """
    verses, couplets = poems.read_poems(data), poems.read_couplets(data)
    make = poems.general_rows if config.general else poems.prompt_rows
    train, dev = (make(of(verses, split), of(couplets, split)) for split in (Split.TRAIN, Split.DEV))
    if config.general:
        known = poems.prompt_rows(of(verses, Split.TRAIN), of(couplets, Split.TRAIN))
        family = _new(config, new_gpt3, known)
        return MiniTextExperiment(family, train, config, [_perplexity(config, dev)])
    measures = [_perplexity(config, dev), *_poem_measures(config, verses, couplets)]
    return MiniTextExperiment(start_family(config), train, config, measures)


def palm_mini(config: MiniTextConfig, data: Path) -> MiniTextExperiment:
    """A stage of palm-mini; arguments and errors as of `poem_mini`."""
    abstracts, couplets = titles.read_abstracts(data), poems.read_couplets(data)
    verses = poems.read_poems(data)
    make = titles.copying_rows if config.general else titles.answering_rows
    train = make(of(abstracts, Split.TRAIN), of(couplets, Split.TRAIN), of(verses, Split.TRAIN))
    dev = titles.title_rows(of(abstracts, Split.DEV), of(couplets, Split.DEV))
    if config.general:
        family = _new(config, new_palm, train)
        return MiniTextExperiment(family, train, config, [_perplexity(config, dev)])
    measures = [
        _perplexity(config, dev),
        _writing(config, titles.title_rows(of(abstracts, Split.DEV), [])),
        _second_lines(config, of(couplets, Split.DEV)),
    ]
    return MiniTextExperiment(start_family(config), train, config, measures)


def of(rows: Sequence[P], split: Split) -> list[P]:
    """Those of a split."""
    return [row for row in rows if row.split == split]


class _Maker(Protocol):
    # Any of the families' generators, which are modules.
    def __call__(self, config: MiniTextConfig, vocab: list[str]) -> torch.nn.Module: ...


def _new(config: MiniTextConfig, make: _Maker, rows: Sequence[TextRow]) -> AnyFamily:
    """A new model that knows the characters of these rows."""
    torch.manual_seed(config.seed)
    texts = [text for row in rows for text in (row.source, row.target)]
    vocab = character_vocabulary(texts, config.shape.least_count)
    return family_of(make(config, vocab).to(own_device()), config.max_text_tokens)


def _perplexity(config: MiniTextConfig, dev: Sequence[TextRow]) -> Measure:
    return PerplexityMeasure(dev, config.measure.batch_size)


def _writing(config: MiniTextConfig, rows: Sequence[TextRow]) -> Measure:
    some = rows[: config.measure.written]
    return _written(config, [row.source for row in some], target_score(some))


def _written(config: MiniTextConfig, given: Sequence[str], score: Score) -> Measure:
    return WritingMeasure(given, score, config.measure.max_length, config.measure.batch_size)


def _poem_measures(
    config: MiniTextConfig, verses: Sequence[poems.Poem], couplets: Sequence[poems.Couplet]
) -> list[Measure]:
    """How many poems have a form of their tune, and second lines one of their first."""
    forms = forms_by_tune((poem.tune, poem.text) for poem in of(verses, Split.TRAIN))
    known = [poem.tune for poem in of(verses, Split.DEV) if poem.tune in forms]
    tunes = known[: config.measure.written]

    def score(texts: Sequence[str]) -> dict[str, float]:
        return {"form": form_rate(list(zip(tunes, texts, strict=True)), forms)}

    return [
        _written(config, [prompts.poem(tune=tune) for tune in tunes], score),
        _second_lines(config, of(couplets, Split.DEV)),
    ]


def _second_lines(config: MiniTextConfig, couplets: Sequence[poems.Couplet]) -> Measure:
    firsts = [couplet.first for couplet in couplets][: config.measure.written]
    return _written(
        config, [*map(prompts.couplet, firsts)], lambda texts: score_couplets(firsts, texts).metrics()
    )
