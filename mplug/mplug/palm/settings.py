"""ModelScope's files of settings to a `PalmConfig` and back: `config.json`, `configuration.json`, the encoder's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from mplug.checkpoints.files import read_json, read_json_if_there, stated, write_json
from mplug.checkpoints.labels import section
from mplug.config import GenerationDefaults, TextEncoderConfig
from mplug.config_values import build_known
from mplug.errors import CheckpointError, ConfigError
from mplug.palm.config import EncoderKind, PalmConfig, PalmDecoderConfig
from mplug.palm.texts import PalmTokenizer, read_tokenizer

CONFIG_FILE = "config.json"
CONFIGURATION_FILE = "configuration.json"
SEQUENCE_LENGTH = 128
"""Tokens that the reference's preprocessor reads, unless its settings say otherwise."""

V = TypeVar("V")


@dataclass(frozen=True, kw_only=True, slots=True)
class _PalmValues:
    """What the reference reads of `config.json` (PalmConfig), its names and defaults."""

    encoder: str = "roberta"
    encoder_pth: str = "roberta-base"
    max_pos: int = 512
    share_emb: bool = False
    dec_layers: int = 12
    dec_hidden_size: int = 768
    dec_heads: int = 8
    dec_ff_size: int = 3072
    dec_dropout: float = 0.2
    label_smoothing: float = 0.1
    alpha: float = 0.95
    beam_size: int = 5
    min_length: int = 40
    max_length: int = 130
    licence: str = ""
    """Ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _BertValues:
    """What there is to know of the encoder's `config.json`; defaults are transformers' for BERT."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0


ROBERTA = {"vocab_size": 50265, "pad_token_id": 1}
"""Where transformers' defaults for RoBERTa are others."""


def read_settings(folder: Path) -> tuple[PalmConfig, PalmTokenizer]:
    """Read the files, and the tokenizer, which says what begins and ends a text.

    Raises:
        CheckpointError: a file is missing or broken, or describes what the reference cannot run.
    """
    values = _read(_PalmValues, folder / CONFIG_FILE, "the decoder's shape", {})
    inner = folder / values.encoder_pth
    defaults = ROBERTA if values.encoder == "roberta" else {}
    bert = _read(_BertValues, inner / CONFIG_FILE, "the encoder's shape", defaults)
    try:
        kind = _check(values, bert)
        first = bert.pad_token_id + 1 if kind == "roberta" else 0
        max_length = min(_sequence_length(folder), bert.max_position_embeddings - first)
        tokenizer = read_tokenizer(inner, kind, max_length)
        return _to_config(values, kind, _encoder(bert), tokenizer, folder.resolve().name), tokenizer
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def write_settings(config: PalmConfig, folder: Path) -> None:
    """Write the files; `read_settings` gives the same configuration back, but for its name."""
    decoder, encoder, generation = config.decoder, config.encoder, config.generation
    values = _PalmValues(
        encoder=config.kind,
        encoder_pth=config.encoder_folder,
        dec_layers=decoder.layers,
        dec_hidden_size=encoder.hidden,
        dec_heads=decoder.heads,
        dec_ff_size=decoder.ffn,
        dec_dropout=decoder.dropout,
        label_smoothing=config.label_smoothing,
        alpha=config.length_penalty,
        licence=config.licence,
        **dataclasses.asdict(generation),
    )
    bert = _BertValues(
        vocab_size=encoder.vocab_size,
        hidden_size=encoder.hidden,
        num_hidden_layers=encoder.layers,
        num_attention_heads=encoder.heads,
        intermediate_size=encoder.ffn,
        hidden_dropout_prob=encoder.dropout,
        max_position_embeddings=encoder.positions,
        type_vocab_size=encoder.types,
        layer_norm_eps=encoder.eps,
        pad_token_id=encoder.pad_id,
    )
    inner = folder / config.encoder_folder
    inner.mkdir(parents=True, exist_ok=True)
    model_type = "roberta" if config.kind == "roberta" else "bert"
    write_json(folder / CONFIG_FILE, {"model_type": "palm", **stated(dataclasses.asdict(values))})
    write_json(inner / CONFIG_FILE, {"model_type": model_type, **dataclasses.asdict(bert)})
    write_json(folder / CONFIGURATION_FILE, _configuration(config))


def _read(kind: type[V], path: Path, holds: str, defaults: Mapping[str, Any]) -> V:
    try:
        return build_known(kind, read_json(path, holds), **defaults)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check(values: _PalmValues, bert: _BertValues) -> EncoderKind:
    if values.encoder not in get_args(EncoderKind):
        raise ConfigError(f"encoder is {values.encoder!r}; known are {', '.join(get_args(EncoderKind))}")
    if values.share_emb or values.max_pos > 512:
        raise ConfigError(
            f"share_emb is {values.share_emb}, max_pos {values.max_pos}; the reference cannot be built with embeddings "
            "that are shared, or with more than 512 positions, so there are no such checkpoints"
        )
    if values.dec_hidden_size != bert.hidden_size:
        raise ConfigError(
            f"dec_hidden_size is {values.dec_hidden_size}, the encoder is {bert.hidden_size} wide; they must be equal"
        )
    if bert.hidden_act != "gelu":
        raise ConfigError(f"hidden_act is {bert.hidden_act!r}; PALM's encoders have gelu")
    return cast(EncoderKind, values.encoder)


def _encoder(bert: _BertValues) -> TextEncoderConfig:
    return TextEncoderConfig(
        vocab_size=bert.vocab_size,
        hidden=bert.hidden_size,
        layers=bert.num_hidden_layers,
        heads=bert.num_attention_heads,
        ffn=bert.intermediate_size,
        positions=bert.max_position_embeddings,
        types=bert.type_vocab_size,
        eps=bert.layer_norm_eps,
        pad_id=bert.pad_token_id,
        dropout=bert.hidden_dropout_prob,
    )


def _to_config(
    values: _PalmValues, kind: EncoderKind, encoder: TextEncoderConfig, tokenizer: PalmTokenizer, name: str
) -> PalmConfig:
    return PalmConfig(
        name=name,
        kind=kind,
        encoder=encoder,
        decoder=PalmDecoderConfig(
            layers=values.dec_layers,
            heads=values.dec_heads,
            ffn=values.dec_ff_size,
            dropout=values.dec_dropout,
            bos_id=tokenizer.cls_id,
            eos_id=tokenizer.sep_id,
            pad_id=1 if kind == "roberta" else 0,
        ),
        max_length=tokenizer.max_length,
        generation=GenerationDefaults(
            min_length=min(values.min_length, values.max_length),
            max_length=values.max_length,
            beam_size=values.beam_size,
        ),
        length_penalty=values.alpha,
        label_smoothing=values.label_smoothing,
        encoder_folder=values.encoder_pth,
        licence=values.licence,
    )


def _sequence_length(folder: Path) -> int:
    """What the preprocessor cuts sources to; a folder of weights alone has no such file."""
    stated = section(read_json_if_there(folder / CONFIGURATION_FILE) or {}, "preprocessor")
    length = stated.get("sequence_length", stated.get("max_length", SEQUENCE_LENGTH))
    if not isinstance(length, int) or length < 3:
        raise ConfigError(
            f"preprocessor's sequence_length is {length!r}; it must be a whole number, at least 3"
        )
    return length


def _configuration(config: PalmConfig) -> dict[str, Any]:
    postprocessor = "roberta" if config.kind == "roberta" else "decode"
    return {
        "framework": "pytorch",
        "task": "text-generation",
        "model": {"type": "palm-v2"},
        "preprocessor": {"type": "text-gen-tokenizer", "sequence_length": config.max_length},
        "pipeline": {"type": "text-generation"},
        "postprocessor": postprocessor,
    }
