"""ModelScope's two files of settings, `config.json` and `configuration.json`, to a `Gpt3Config` and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug.checkpoints.files import read_json, stated, write_json
from mplug.config_values import build_known
from mplug.errors import CheckpointError, ConfigError
from mplug.gpt3.config import Gpt3Config, Gpt3Sampling, Layout

CONFIG_FILE = "config.json"
CONFIGURATION_FILE = "configuration.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gpt3Values:
    """What the reference reads of `config.json` (GPT3Config), its names and defaults."""

    vocab_size: int = 25600
    hidden_size: int = 768
    ffn_hidden_size: int | None = None
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 2048
    layernorm_epsilon: float = 1e-12
    hidden_dropout_prob: float = 0.1
    """Of the plain model."""
    hidden_dropout: float = 0.1
    """Of the distributed one."""
    bias_gelu_fusion: bool = True
    apply_residual_connection_post_layernorm: bool = False
    eod_id: int = 1
    tokens_to_generate: int = 100
    top_k: int = 0
    top_p: float = 0.9
    temperature: float = 1.0
    licence: str = ""
    """Ours."""


def read_settings(folder: Path) -> Gpt3Config:
    """Read the two files.

    As in the reference, `megatron` in `configuration.json` chooses the layout, no `hidden_act` is heeded, and the plain
    model's feed-forward blocks are 4 times `hidden_size` wide, whatever the file says. `kv_channels`, with which the
    reference cannot be built, is not heeded either.

    Raises:
        CheckpointError: a file is missing or broken, or describes another model.
    """
    values = read_json(folder / CONFIG_FILE, "the model's shape")
    configuration = read_json(folder / CONFIGURATION_FILE, "which of two layouts the weights have")
    try:
        read = build_known(_Gpt3Values, values)
        layout: Layout = "distributed" if "megatron" in configuration else "plain"
        return _to_config(read, folder.resolve().name, layout, _sequence_length(configuration))
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error


def write_settings(config: Gpt3Config, folder: Path, *, ranks: int) -> None:
    """Write the two files; `read_settings` gives the same configuration back, but for its name.

    Args:
        config: what to write.
        folder: existing files of the same names are replaced.
        ranks: files that the weights are split into, for the distributed layout.
    """
    sampling = dataclasses.asdict(config.sampling)
    values = _Gpt3Values(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden,
        ffn_hidden_size=config.ffn,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.positions,
        layernorm_epsilon=config.eps,
        hidden_dropout_prob=config.dropout,
        hidden_dropout=config.dropout,
        bias_gelu_fusion=config.approximate == "tanh",
        eod_id=config.eod_id,
        licence=config.licence,
        **sampling,
    )
    write_json(folder / CONFIG_FILE, {"model_type": "gpt3", **stated(dataclasses.asdict(values))})
    write_json(folder / CONFIGURATION_FILE, _configuration(config, ranks))


def _to_config(values: _Gpt3Values, name: str, layout: Layout, prompt_tokens: int) -> Gpt3Config:
    if values.apply_residual_connection_post_layernorm:
        raise ConfigError(
            "apply_residual_connection_post_layernorm is set; no published GPT-3 takes its residuals from behind the "
            "norms, and neither does this one"
        )
    distributed = layout == "distributed"
    return Gpt3Config(
        name=name,
        layout=layout,
        vocab_size=values.vocab_size,
        hidden=values.hidden_size,
        layers=values.num_hidden_layers,
        heads=values.num_attention_heads,
        ffn=(values.ffn_hidden_size if distributed else None) or 4 * values.hidden_size,
        positions=values.max_position_embeddings,
        eps=values.layernorm_epsilon,
        approximate="tanh" if distributed and values.bias_gelu_fusion else "none",
        dropout=values.hidden_dropout if distributed else values.hidden_dropout_prob,
        eod_id=values.eod_id,
        prompt_tokens=prompt_tokens,
        sampling=Gpt3Sampling(
            tokens_to_generate=values.tokens_to_generate,
            top_k=values.top_k,
            top_p=values.top_p,
            temperature=values.temperature,
        ),
        licence=values.licence,
    )


def _sequence_length(configuration: Mapping[str, Any]) -> int:
    """What the preprocessor cuts texts to; 128 unless the file says otherwise."""
    preprocessor = configuration.get("preprocessor")
    length = preprocessor.get("sequence_length", 128) if isinstance(preprocessor, Mapping) else 128
    if not isinstance(length, int):
        raise ConfigError(
            f"preprocessor.sequence_length of {CONFIGURATION_FILE} is {length!r}; it must be an integer"
        )
    return length


def _configuration(config: Gpt3Config, ranks: int) -> dict[str, Any]:
    common = {"framework": "pytorch", "task": "text-generation", "model": {"type": "gpt3"}}
    if config.layout == "plain":
        preprocessor = {"type": "text-gen-tokenizer", "sequence_length": config.prompt_tokens}
        return {**common, "preprocessor": preprocessor, "pipeline": {"type": "text-generation"}}
    megatron = {"world_size": ranks, "tensor_model_parallel_size": ranks}
    preprocessor = {"type": "text-gen-jieba-tokenizer", "sequence_length": config.prompt_tokens}
    return {
        **common,
        "preprocessor": preprocessor,
        "pipeline": {"type": "gpt3-generation"},
        "megatron": megatron,
    }
