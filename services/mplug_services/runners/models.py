"""From sources to loaded models, and from these to runners and to what callers may know of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import mplug
from mplug.captioning import Captioner
from mplug.coca import CocaModel
from mplug.contrastive import ContrastiveModel
from mplug.errors import MplugError
from mplug.fingerprint import fingerprint
from mplug.model_maps import explained_layers
from mplug.open_clip_model import OpenClipModel
from mplug.reranking import RerankModel
from mplug.task_model import TaskModel
from mplug.text_decoder import TextDecoder, share_words
from mplug.text_encoder import TextEncoder
from mplug.vqa import VqaModel
from mplug.writing import WritingModel
from mplug_services.config import IMAGE_SIZE_SETTINGS, MODEL_SETTINGS, TEXT_TASKS, ModelSource
from mplug_services.runners.embed import EmbedRunner
from mplug_services.runners.explain import ExplainRunner
from mplug_services.runners.generate import AnswerRunner, CaptionRunner
from mplug_services.runners.runner import Runner
from mplug_services.runners.text_models import describe_text_model, load_text_model, make_text_runners
from mplug_services.served_model import ServedModel
from mplug_services.work import WorkKind

Model = ContrastiveModel | Captioner | TaskModel
# Any: models of texts, which have no base in common; runners.text_models knows what they are.
Models = Mapping[str, Model | Any]
"""By task."""


def model_loader(sources: Mapping[str, ModelSource], device: str, dtype: str) -> Callable[[], Models]:
    """A function that loads a model for each task; it is called in the worker's thread.

    Its errors are those of `mplug.load`; where an image size is set, they name the setting.

    Args:
        sources: by task, as `config.MODEL_SETTINGS` has them; tasks of one folder of mPLUG share its modules in
            memory, the image encoder only at one size.
        device: as for `mplug.load`.
        dtype: as for `mplug.load`, where a source gives none.
    """

    def load() -> Models:
        models: dict[str, Model | Any] = {}
        for task, source in sources.items():
            models[task] = _load(task, source, device, source.dtype or dtype)
            for other in (name for name in models if name != task and sources[name].place == source.place):
                _share_modules(models[other], models[task])
        return models

    return load


# Any: as in Models.
def _load(task: str, source: ModelSource, device: str, dtype: str) -> Model | Any:
    if task in TEXT_TASKS:
        return load_text_model(task, source.place, device, dtype)
    # Any: which task it is, and so which of load's overloads, shows only here.
    load: Any = mplug.load
    try:
        model: Model = load(source.place, task=task, device=device, dtype=dtype, image_size=source.image_size)
    except MplugError as error:
        if source.image_size is None:
            raise
        size = f"{IMAGE_SIZE_SETTINGS[task]} {source.image_size}"
        raise MplugError(f"{MODEL_SETTINGS[task]} {source.place} at {size}: {error}") from error
    return model


def _share_modules(first: Model, second: Model) -> None:
    """Let the second model of a checkpoint use the first one's modules, as far as they hold the same weights."""
    if isinstance(first, OpenClipModel) and isinstance(second, CocaModel):
        second.image_encoder, second.text_decoder.text = first.clip.visual, first.clip.text
    if isinstance(first, TaskModel) and isinstance(second, TaskModel):
        one_size = first.preprocess == second.preprocess
        for name, module in first.named_children():
            if hasattr(second, name) and (one_size or name != "image_encoder"):
                setattr(second, name, module)
        _share_words(first, second)


def _share_words(first: TaskModel, second: TaskModel) -> None:
    # A decoder that was loaded without the text encoder has made the table that they share for itself.
    encoder = getattr(second, "text_encoder", getattr(first, "text_encoder", None))
    for model in (first, second):
        decoder = getattr(model, "text_decoder", None)
        if isinstance(encoder, TextEncoder) and isinstance(decoder, TextDecoder):
            share_words(decoder, encoder)


def make_runners(models: Models) -> dict[WorkKind, Runner]:
    """Runners of everything that the models can do."""
    texts = {task: model for task, model in models.items() if task in TEXT_TASKS}
    runners: list[Runner] = make_text_runners(texts)
    for model in models.values():
        if isinstance(model, RerankModel):
            runners += _rerank_runners(model)
        elif isinstance(model, Captioner):
            runners.append(CaptionRunner(model))
        elif isinstance(model, VqaModel):
            runners.append(AnswerRunner(model))
        elif isinstance(model, ContrastiveModel):
            runners += [EmbedRunner(model, kind) for kind in (WorkKind.IMAGE, WorkKind.TEXT)]
    explained = {task: model for task, model in models.items() if explained_layers(model)}
    if explained:
        runners.append(ExplainRunner(explained))
    return {runner.kind: runner for runner in runners}


def _rerank_runners(model: RerankModel) -> list[Runner]:
    from mplug_services.runners.rerank import make_runners as make_rerank_runners

    return make_rerank_runners(model)


# Any: as in Models.
def describe(task: str, model: Model | Any) -> ServedModel:
    """What callers may know of a model."""
    if task in TEXT_TASKS:
        return describe_text_model(task, model)
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
        decoder=model.decoder_facts if isinstance(model, WritingModel) else None,
        explained_layers=explained_layers(model),
    )


def _vision_fingerprint(model: Model) -> str:
    if not isinstance(model, RerankModel):
        return ""
    from mplug_services.runners.rerank import vision_fingerprint

    return vision_fingerprint(model)


def _fingerprint(model: Model) -> str:
    """An index's fingerprint, or of a model without vectors the like of it: what its answers depend on."""
    if isinstance(model, ContrastiveModel | CocaModel):
        return model.fingerprint
    assert isinstance(model, TaskModel), model
    text = {
        "max_length": model.tokenizer.max_length,
        "lower_case": model.tokenizer.lower_case,
        "vocab": hashlib.sha256("\n".join(model.tokenizer.vocab).encode()).hexdigest(),
    }
    shape = {**asdict(model.config), "name": None, "licence": None, "preprocess": None}
    return fingerprint(model.state_dict(), model.preprocess, text, shape)
