"""Loaded text models to runners, and to what callers may know of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from torch import nn

import mplug
from mplug.fingerprint import fingerprint, held_tensors
from mplug.loading import find_folder
from mplug.quantization import QUANTIZED, QUANTIZED_NAMES
from mplug.quantized_linear import QuantizedLinear
from mplug.structbert import Classifier, EntailmentClassifier
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_loading import module_of, own_task
from mplug_services.runners.judge import JudgeRunner, JudgingModel, modes_of
from mplug_services.runners.runner import Runner
from mplug_services.runners.text import ServedGenerator, WriteRunner
from mplug_services.served_model import ServedModel
from mplug_services.writer_facts import WriterFacts

WRITES = "text-generation"
"""The task of models that write; the other text tasks are of models that judge."""
JUDGES = "text-classification"
JUDGING_TASKS = (
    "text-classification",
    "zero-shot-classification",
    "token-classification",
    "faq-question-answering",
)
"""What a model that judges may have been made for."""


def make_text_runners(models: Mapping[str, object]) -> list[Runner]:
    """Runners of everything that text models, by task, can do."""
    runners: list[Runner] = []
    if WRITES in models:
        runners.append(WriteRunner(cast(ServedGenerator, models[WRITES])))
    judging = {task: cast(JudgingModel, model) for task, model in models.items() if task != WRITES}
    if judging:
        runners.append(JudgeRunner(judging))
    return runners


def judging_task(place: str) -> str:
    """What a folder was made for, if it judges; classification otherwise, for which it may not be loadable.

    Raises:
        CheckpointError: no text model, or the folder does not say.
    """
    own = own_task(find_folder(place))
    return own if own in JUDGING_TASKS else JUDGES


# Any: families have no base in common.
def load_text_model(task: str, place: str, device: str, dtype: str) -> Any:
    """Load a model of texts, one that judges for whatever its folder was made for; errors are those of `mplug.load`."""
    load: Any = mplug.load
    task = judging_task(place) if task == JUDGES else task
    model = load(place, task=task, device=device, dtype=dtype)
    if isinstance(model, Classifier) and model.config.task == "nli":
        return EntailmentClassifier(model)
    return model


def describe_text_model(task: str, model: object) -> ServedModel:
    """What callers may know of a text model."""
    # Any: all families have these; no protocol of theirs needs them.
    module: Any = module_of(model)
    weight = next(module.parameters())
    return ServedModel(
        name=module.name,
        task=task,
        fingerprint=_fingerprint(module),
        device=str(weight.device),
        dtype=_dtype_name(module),
        num_parameters=module.num_parameters,
        licence=getattr(module, "licence", ""),
        tokenizer=module.tokenizer,
        writer=_writer_facts(module) if task == WRITES else None,
        modes=() if task == WRITES else modes_of(cast(JudgingModel, model)),
    )


def _dtype_name(module: nn.Module) -> str:
    held = {type(part.matrix) for part in module.modules() if isinstance(part, QuantizedLinear)}
    quantized = (name for name, kind in QUANTIZED_NAMES.items() if QUANTIZED[kind] in held)
    plain = str(next(module.parameters()).dtype).removeprefix("torch.")
    return next(quantized, plain)


# Any: as in describe_text_model.
def _writer_facts(model: Any) -> WriterFacts:
    return WriterFacts(
        read=model.read,
        configure=model.generation_config,
        vocab_size=model.decoder.vocab_size,
        max_positions=model.decoder.max_positions,
        continues=not model.read("a").source,
    )


def _fingerprint(model: Any) -> str:
    tokenizer = model.tokenizer
    words = "\n".join(tokenizer.vocab) if isinstance(tokenizer, WordPieceTokenizer) else tokenizer.vocab_size
    text = {
        "max_length": tokenizer.max_length,
        "vocab": hashlib.sha256(str(words).encode()).hexdigest(),
    }
    shape = {name: value for name, value in asdict(model.config).items() if name != "licence"}
    return fingerprint(held_tensors(model), None, text, {**shape, "name": None})
