"""Fine-tuning on a user's own rows: from a configuration and data to the experiment that the trainer runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mplug.errors import MplugError
from mplug.layers import set_dropout
from mplug.loading import find_folder
from mplug.text_loading import load_text, module_of
from mplug.train.parallel import own_device
from mplug.train.readers import Data
from mplug.train.text.config import TextRunConfig
from mplug.train.text.experiment import Measure, TextExperiment
from mplug.train.text.families import AnyFamily, family_of
from mplug.train.text.measuring import PerplexityMeasure, WritingMeasure, target_score
from mplug.train.text.rows import TextRow, read_rows


def finetuning(config: TextRunConfig, data: Data) -> TextExperiment:
    """A text generator goes on learning.

    Args:
        config: of the run.
        data: rows with `text` (or `source`), and `target` where there is one.

    Raises:
        MplugError: as `read_rows`, there is no start or it does not write, or rows that it cannot learn.
    """
    rows = read_rows(config, data)
    return TextExperiment(start_family(config), rows.train, config, measures_of(config, rows.dev))


def start_family(config: TextRunConfig) -> AnyFamily:
    """The model that training starts from.

    Raises:
        MplugError: none is named, it does not write, or its decoder is too short.
    """
    if not config.start:
        raise MplugError("start is empty: name the model to fine-tune, a folder, with --set start=FOLDER")
    folder = find_folder(config.start)
    generator = load_text(folder, "text-generation", device=own_device(), dtype=torch.float32)
    if config.dropout >= 0:
        set_dropout(module_of(generator), config.dropout)
    return family_of(generator, config.max_text_tokens)


def measures_of(config: TextRunConfig, dev: Sequence[TextRow]) -> list[Measure]:
    """Perplexity, and where there are targets how near to them what is written comes."""
    measure = config.measure
    measures: list[Measure] = [PerplexityMeasure(dev, measure.batch_size)]
    answered = [row for row in dev if row.source][: measure.written]
    if answered:
        sources = [row.source for row in answered]
        score = target_score(answered)
        measures.append(WritingMeasure(sources, score, measure.max_length, measure.batch_size))
    return measures
