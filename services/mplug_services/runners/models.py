"""From sources to loaded models, and from these to runners and to what callers may know of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import mplug
from mplug.captioning import CaptionModel
from mplug.contrastive import ContrastiveModel
from mplug.fingerprint import fingerprint
from mplug.reranking import RerankModel
from mplug.task_model import TaskModel
from mplug.vqa import VqaModel
from mplug_services.runners.embed import EmbedRunner
from mplug_services.runners.generate import AnswerRunner, CaptionRunner
from mplug_services.runners.runner import Runner
from mplug_services.served_model import DecoderFacts, ServedModel
from mplug_services.work import WorkKind

Model = ContrastiveModel | TaskModel
Models = Mapping[str, Model]
"""By task."""


def model_loader(sources: Mapping[str, str], device: str, dtype: str) -> Callable[[], Models]:
    """A function that loads a model for each task; it is called in the worker's thread.

    Its errors are those of `mplug.load`.

    Args:
        sources: by task (`retrieval`, `rerank`, `caption`, `vqa`); tasks of one folder share its modules in memory.
        device: as for `mplug.load`.
        dtype: as for `mplug.load`.
    """

    def load() -> Models:
        # Any: which task it is, and so which of load's overloads, shows only here.
        load_any: Any = mplug.load
        models: dict[str, Model] = {}
        for task, source in sources.items():
            models[task] = load_any(source, task=task, device=device, dtype=dtype)
            for other in (name for name in models if name != task and sources[name] == source):
                _share_modules(models[other], models[task])
        return models

    return load


def _share_modules(first: Model, second: Model) -> None:
    """Let the second model of a checkpoint use the first one's modules, which hold the same weights."""
    if isinstance(first, TaskModel) and isinstance(second, TaskModel):
        for name, module in first.named_children():
            if hasattr(second, name):
                setattr(second, name, module)


def make_runners(models: Models) -> dict[WorkKind, Runner]:
    """Runners of everything that the models can do."""
    runners: list[Runner] = []
    for model in models.values():
        if isinstance(model, RerankModel):
            runners += _rerank_runners(model)
        elif isinstance(model, CaptionModel):
            runners.append(CaptionRunner(model))
        elif isinstance(model, VqaModel):
            runners.append(AnswerRunner(model))
        elif isinstance(model, ContrastiveModel):
            runners += [EmbedRunner(model, kind) for kind in (WorkKind.IMAGE, WorkKind.TEXT)]
    return {runner.kind: runner for runner in runners}


def _rerank_runners(model: RerankModel) -> list[Runner]:
    from mplug_services.runners.rerank import make_runners as make_rerank_runners

    return make_rerank_runners(model)


def describe(task: str, model: Model) -> ServedModel:
    """What callers may know of a model."""
    return ServedModel(
        name=model.name,
        task=task,
        fingerprint=_fingerprint(model),
        vision_fingerprint=_vision_fingerprint(model),
        embed_dim=model.embed_dim if isinstance(model, ContrastiveModel) else 0,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        num_parameters=model.num_parameters,
        licence=model.licence,
        image_size=model.preprocess.image_size,
        tokenizer=model.tokenizer,
        decoder=_decoder(model),
    )


def _vision_fingerprint(model: Model) -> str:
    if not isinstance(model, RerankModel):
        return ""
    from mplug_services.runners.rerank import vision_fingerprint

    return vision_fingerprint(model)


def _decoder(model: Model) -> DecoderFacts | None:
    if not isinstance(model, CaptionModel | VqaModel):
        return None
    decoder = model.text_decoder
    return DecoderFacts(
        tokenizer=model.tokenizer,
        bos_id=decoder.config.bos_id,
        vocab_size=decoder.vocab_size,
        max_positions=decoder.max_positions,
        defaults=model.config.generation,
    )


def _fingerprint(model: Model) -> str:
    """An index's fingerprint, or of a model without vectors the like of it: what its answers depend on."""
    if isinstance(model, ContrastiveModel):
        return model.fingerprint
    text = {
        "max_length": model.tokenizer.max_length,
        "lower_case": model.tokenizer.lower_case,
        "vocab": hashlib.sha256("\n".join(model.tokenizer.vocab).encode()).hexdigest(),
    }
    shape = {**asdict(model.config), "name": None, "licence": None, "preprocess": None}
    return fingerprint(model.state_dict(), model.preprocess, text, shape)
