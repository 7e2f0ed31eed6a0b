"""ModelScope's files of settings, `config.json` and `configuration.json`, to a `PlugConfig` and back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug.checkpoints.files import read_json, read_json_if_there, write_json
from mplug.checkpoints.labels import find_labels, section
from mplug.config_values import build_known
from mplug.errors import CheckpointError, ConfigError
from mplug.plug.config import PlugConfig, PlugSampling

CONFIG_FILE = "config.json"
CONFIGURATION_FILE = "configuration.json"
LABELS_FILE = "label_mapping.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _PlugValues:
    """What the reference reads of `config.json` (PlugNLUConfig), its names and defaults."""

    vocab_size: int = 21504
    original_vocab_size: int = 21128
    hidden_size: int = 8192
    num_hidden_layers: int = 24
    dec_hidden_layers: int = 6
    num_attention_heads: int = 128
    intermediate_size: int = 32768
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    max_position_embeddings: int = 2048
    type_vocab_size: int = 3
    layernorm_epsilon: float = 1e-5
    pre_ln: bool = True
    attn_separate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _SamplingValues:
    """What the reference reads of the section `model`; it has no defaults, these are AliceMind's."""

    top_k: int = 20
    top_p: float = 0.0
    temperature: float = 0.9


def read_settings(folder: Path, *, labels: tuple[str, ...] = ()) -> PlugConfig:
    """Read the files; `configuration.json` may be missing.

    Args:
        folder: ModelScope's.
        labels: of a classifier; none = those that the folder names, if it does.

    Raises:
        CheckpointError: a file is missing or broken, or describes another model.
    """
    values = read_json(folder / CONFIG_FILE, "the model's shape")
    configuration = read_json_if_there(folder / CONFIGURATION_FILE) or {}
    try:
        if not labels:
            labels = find_labels(read_json_if_there(folder / LABELS_FILE), configuration, values)
        read = build_known(_PlugValues, values)
        sampling = build_known(_SamplingValues, section(configuration, "model"))
        length = section(configuration, "preprocessor").get("sequence_length", 512)
        if not isinstance(length, int):
            raise ConfigError(f"preprocessor's sequence_length is {length!r}; it must be a whole number")
        return _to_config(read, sampling, folder.resolve().name, labels, length)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def write_settings(config: PlugConfig, folder: Path, *, ranks: int) -> None:
    """Write the files; `read_settings` gives the same configuration back, but for its name.

    Args:
        config: what to write.
        folder: existing files of the same names are replaced.
        ranks: files that the weights are split into.
    """
    values = _PlugValues(
        vocab_size=config.vocab_size,
        original_vocab_size=config.original_vocab_size,
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        dec_hidden_layers=config.decoder_layers,
        num_attention_heads=config.heads,
        intermediate_size=config.ffn,
        hidden_dropout_prob=config.dropout,
        max_position_embeddings=config.positions,
        type_vocab_size=config.types,
        layernorm_epsilon=config.eps,
        pre_ln=config.pre_norm,
    )
    also = {"attention_probs_dropout_prob": config.dropout}
    write_json(folder / CONFIG_FILE, {"model_type": "plugNLG", **dataclasses.asdict(values), **also})
    write_json(folder / CONFIGURATION_FILE, _configuration(config, ranks))
    if config.labels:
        write_json(folder / LABELS_FILE, {label: number for number, label in enumerate(config.labels)})


def _to_config(
    values: _PlugValues, sampling: _SamplingValues, name: str, labels: tuple[str, ...], length: int
) -> PlugConfig:
    if values.hidden_act != "gelu" or values.attn_separate:
        raise ConfigError(
            f"hidden_act is {values.hidden_act!r}, attn_separate {values.attn_separate}; PLUG has 'gelu', and one "
            "matrix for queries, keys and values"
        )
    return PlugConfig(
        name=name,
        vocab_size=values.vocab_size,
        original_vocab_size=values.original_vocab_size,
        hidden=values.hidden_size,
        layers=values.num_hidden_layers,
        decoder_layers=values.dec_hidden_layers,
        heads=values.num_attention_heads,
        ffn=values.intermediate_size,
        positions=values.max_position_embeddings,
        types=values.type_vocab_size,
        pre_norm=values.pre_ln,
        eps=values.layernorm_epsilon,
        dropout=values.hidden_dropout_prob,
        max_length=min(length, values.max_position_embeddings),
        labels=labels,
        sampling=PlugSampling(**dataclasses.asdict(sampling)),
    )


def _configuration(config: PlugConfig, ranks: int) -> dict[str, Any]:
    sampling = config.sampling
    own = _SamplingValues(top_k=sampling.top_k, top_p=sampling.top_p, temperature=sampling.temperature)
    return {
        "framework": "pytorch",
        "task": "text-classification" if config.labels else "text-generation",
        "model": {"type": "plug", **dataclasses.asdict(own)},
        "megatron": {"version": "v1", "world_size": ranks, "tensor_model_parallel_size": ranks, "seed": 1234},
        "preprocessor": {"type": "text-gen-tokenizer", "sequence_length": config.max_length},
        "pipeline": {"type": "plug-generation"},
    }
