"""The JSON files of a ModelScope folder, to a configuration and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mplug.checkpoints.files import read_json, read_json_if_there
from mplug.checkpoints.labels import find_labels, section
from mplug.config import TextEncoderConfig
from mplug.errors import CheckpointError, ConfigError
from mplug.structbert.config import (
    AdapterConfig,
    AdversarialConfig,
    FaqConfig,
    Metric,
    Network,
    Pooling,
    StructBertConfig,
)

CONFIG_FILE = "config.json"
CONFIGURATION_FILE = "configuration.json"
LABELS_FILE = "label_mapping.json"
TOKENIZER_FILE = "tokenizer_config.json"

PLUG_MENTAL = "plug-mental"
FAQ_TASK = "faq-question-answering"
MAX_LENGTH = 512
FAQ_MAX_LENGTH = 50
"""Tokens that ModelScope's pipelines read, 128 for spans and masks; here those read what positions allow, too."""

# ModelScope's SbertConfig: our field of `TextEncoderConfig`, its key, its default.
ENCODER_KEYS: tuple[tuple[str, str, int | float], ...] = (
    ("vocab_size", "vocab_size", 30522),
    ("hidden", "hidden_size", 768),
    ("layers", "num_hidden_layers", 12),
    ("heads", "num_attention_heads", 12),
    ("ffn", "intermediate_size", 3072),
    ("positions", "max_position_embeddings", 512),
    ("types", "type_vocab_size", 2),
    ("pad_id", "pad_token_id", 0),
    ("eps", "layer_norm_eps", 1e-12),
    ("dropout", "hidden_dropout_prob", 0.1),
)
FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
"""What StructBERT has no choice of."""
PREPROCESSORS = {
    "nli": "nli-tokenizer",
    "sentence-similarity": "sen-sim-tokenizer",
    "zero-shot-classification": "zero-shot-cls-tokenizer",
    "token-classification": "token-cls-tokenizer",
    "word-segmentation": "token-cls-tokenizer",
    "part-of-speech": "token-cls-tokenizer",
    "fill-mask": "fill-mask",
    FAQ_TASK: "faq-question-answering-preprocessor",
}
"""By task; all others have `sen-cls-tokenizer`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the files beside the weights say. Any: JSON."""

    where: Path
    config: Mapping[str, Any]
    configuration: Mapping[str, Any]
    label_mapping: Mapping[str, Any] | None = None
    tokenizer: Mapping[str, Any]

    @property
    def model(self) -> Mapping[str, Any]:
        """The section on the model."""
        return section(self.configuration, "model")

    @property
    def preprocessor(self) -> Mapping[str, Any]:
        """The section on reading texts: that of evaluation, where training has its own."""
        whole = section(self.configuration, "preprocessor")
        return whole if "type" in whole or "val" not in whole else section(whole, "val")


def read_settings(folder: Path) -> Settings:
    """Read the files; all but `config.json` may be missing.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    return Settings(
        where=folder,
        config=read_json(folder / CONFIG_FILE, "the model's sizes"),
        configuration=read_json_if_there(folder / CONFIGURATION_FILE) or {},
        label_mapping=read_json_if_there(folder / LABELS_FILE),
        tokenizer=read_json_if_there(folder / TOKENIZER_FILE) or {},
    )


def to_config(settings: Settings) -> StructBertConfig:
    """Translate.

    Raises:
        CheckpointError: a setting that StructBERT does not have, or settings that contradict each other.
    """
    try:
        encoder = _encoder(settings.config)
        adapted = _is_plug_mental(settings)
        task = str(settings.configuration.get("task", ""))
        return StructBertConfig(
            name=settings.where.resolve().name,
            encoder=encoder,
            labels=find_labels(settings.label_mapping, settings.configuration, settings.config),
            max_length=min(_max_length(settings, task), encoder.positions),
            lower_case=bool(settings.tokenizer.get("do_lower_case", True)),
            prefix=str(settings.config.get("base_model_prefix", "bert")),
            task=task,
            # plug_mental's reference has the term switched off, whatever its files say.
            adversarial=AdversarialConfig(factor=None) if adapted else _adversarial(settings.config),
            adapters=_adapters(settings.config) if adapted else None,
            faq=_faq(settings),
        )
    except ConfigError as error:
        raise CheckpointError(f"{settings.where}: {error}") from error


def from_config(config: StructBertConfig) -> dict[str, dict[str, Any]]:
    """Write the files: name to JSON."""
    kind = PLUG_MENTAL if config.adapters else "structbert"
    values: dict[str, Any] = {"model_type": kind, **FIXED}
    values |= {key: getattr(config.encoder, ours) for ours, key, _ in ENCODER_KEYS}
    values["attention_probs_dropout_prob"] = config.encoder.dropout
    if config.prefix != "bert":
        values["base_model_prefix"] = config.prefix
    if config.adapters is None:
        steps = config.adversarial
        values |= {"adv_grad_factor": steps.factor, "sigma": steps.sigma, "adv_bound": steps.bound}
    else:
        inner = config.adapters
        values |= {"adapter_list": list(inner.states), "adapter_size": inner.hidden}
        values["adapter_transformer_layers"] = inner.layers
    files = {CONFIG_FILE: values, TOKENIZER_FILE: {"do_lower_case": config.lower_case}}
    files[CONFIGURATION_FILE] = _configuration(config, kind)
    if config.labels:
        numbers = {label: number for number, label in enumerate(config.labels)}
        values["label2id"], values["id2label"] = numbers, {str(n): label for label, n in numbers.items()}
        files[LABELS_FILE] = numbers
    return files


def _configuration(config: StructBertConfig, kind: str) -> dict[str, Any]:
    task, faq = config.task or "text-classification", config.faq
    model: dict[str, Any] = {"type": kind}
    preprocessor: dict[str, Any] = {"type": PREPROCESSORS.get(task, "sen-cls-tokenizer")}
    if task == FAQ_TASK:
        model |= {"network": faq.network, "metric": faq.metric, "pooling": faq.pooling}
        model |= {"instance_level_interaction": faq.instance_level}
        model |= {"episode_level_interaction": faq.episode_level}
        preprocessor |= {"max_seq_length": config.max_length, "pad_support": faq.balanced}
    else:
        preprocessor["max_length"] = config.max_length
    return {
        "framework": "pytorch",
        "task": task,
        "preprocessor": preprocessor,
        "model": model,
        "pipeline": {"type": task},
    }


def _encoder(config: Mapping[str, Any]) -> TextEncoderConfig:
    for key, only in FIXED.items():
        if config.get(key, only) != only:
            raise ConfigError(f"{key} is {config[key]!r}; StructBERT has {only!r}")
    sizes = {ours: _number(config, key, default) for ours, key, default in ENCODER_KEYS}
    return TextEncoderConfig(**sizes)


def _adversarial(config: Mapping[str, Any]) -> AdversarialConfig:
    usual = AdversarialConfig()
    is_off = "adv_grad_factor" in config and config["adv_grad_factor"] is None
    sigma = _number(config, "sigma", usual.sigma)
    return AdversarialConfig(
        factor=None if is_off else _number(config, "adv_grad_factor", 5e-5),
        sigma=sigma,
        bound=_number(config, "adv_bound", 2 * sigma),
    )


def _is_plug_mental(settings: Settings) -> bool:
    kinds = {str(settings.model.get("type")), str(settings.config.get("model_type"))}
    return not kinds.isdisjoint({PLUG_MENTAL, "plug_mental"})


def _adapters(config: Mapping[str, Any]) -> AdapterConfig:
    states = config.get("adapter_list", [11])
    if not isinstance(states, list) or not all(isinstance(state, int) for state in states):
        raise ConfigError(f"adapter_list is {states!r}; it must list numbers of states")
    return AdapterConfig(
        states=tuple(states),
        hidden=_number(config, "adapter_size", AdapterConfig().hidden),
        layers=_number(config, "adapter_transformer_layers", AdapterConfig().layers),
    )


def _faq(settings: Settings) -> FaqConfig:
    model = settings.model
    choices = {"network": get_args(Network), "metric": get_args(Metric), "pooling": get_args(Pooling)}
    chosen: dict[str, Any] = {}
    for key, known in choices.items():
        chosen[key] = model.get(key, known[0])
        if chosen[key] not in known:
            raise ConfigError(
                f"{CONFIGURATION_FILE} says {key} is {chosen[key]!r}; known are {', '.join(known)}"
            )
    return FaqConfig(
        **chosen,
        instance_level=bool(model.get("instance_level_interaction", True)),
        episode_level=bool(model.get("episode_level_interaction", True)),
        balanced=bool(settings.preprocessor.get("pad_support", False)),
    )


def _max_length(settings: Settings, task: str) -> int:
    stated = settings.preprocessor
    found: int = (
        _number(stated, "sequence_length", _number(stated, "max_seq_length", FAQ_MAX_LENGTH))
        if task == FAQ_TASK
        else _number(stated, "max_length", MAX_LENGTH)
    )
    return found


def _number(values: Mapping[str, Any], key: str, default: float) -> Any:
    """A number, whole where the default is; Any: the one or the other."""
    value = values.get(key, default)
    kinds, wanted = (int, "a whole number") if isinstance(default, int) else (int | float, "a number")
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ConfigError(f"{key} is {value!r}; it must be {wanted}")
    return value
