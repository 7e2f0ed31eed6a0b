"""Names of tensors in ModelScope's checkpoints and ours, one to one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from mplug.checkpoints.names import BERT_EMBEDDINGS, BERT_LAYER, DECODER_HEAD
from mplug.structbert.classifier import Classifier
from mplug.structbert.config import StructBertConfig
from mplug.structbert.faq import FaqAnswerer
from mplug.structbert.filler import WordFiller
from mplug.structbert.model import StructBertModel
from mplug.structbert.tagger import Tagger

V = TypeVar("V")

WORDS = "embeddings.word_embeddings.weight"
POSITION_IDS = "embeddings.position_ids"
FAQ_PREFIX = "network."
OUTPUT_WORDS = "cls.predictions.decoder.weight"
OUTPUT_BIAS = "cls.predictions.decoder.bias"
"""The bias as ModelScope names it; BERT's own files have it as `cls.predictions.bias`, or as both."""

BOTH = ("weight", "bias")
CLASSIFIER = tuple((f"classifier.{part}", f"classifier.{part}") for part in BOTH)
PROTONET = {
    "metrics_layer.relation_net.prediction.0": "network.relation.hidden",
    "metrics_layer.relation_net.prediction.2": "network.relation.output",
    "pooling.pooling.input_proj.0": "network.pooling.hidden",
    "pooling.pooling.input_proj.2": "network.pooling.score",
    "pooling.pooling.output_proj": "network.pooling.output",
}
MGIMN = {
    "fuse_proj": "network.fuse",
    "instance_compare_layer.0": "network.compare",
    "prediction.0": "network.hidden",
    "prediction.2": "network.output",
    **{theirs: ours for theirs, ours in PROTONET.items() if theirs.startswith("pooling.")},
}
WEIGHT_NORM = (("model.weight_g", "length"), ("model.weight_v", "direction"), ("model.bias", "bias"))

# What other tasks' heads, and BERT's own, leave in a file that this task reads.
OTHERS = re.compile(
    r"(embeddings\.(position_ids|token_type_ids)|pooler\.|cls\.|classifier\.|adapter|com_dense\.)"
)


def names(model: StructBertModel) -> dict[str, str]:
    """Every tensor of a model: ModelScope's name, the encoder's without its prefix, to ours."""
    ours = set(model.state_dict())
    return {theirs: name for theirs, name in _candidates(model) if name in ours}


def file_name(theirs: str, config: StructBertConfig) -> str:
    """A name as the file has it, the encoder's prefix in front."""
    inside = ("embeddings.", "encoder.", "pooler.", "adapter.", "adapter_dense.", "com_dense.")
    return f"{config.prefix}.{theirs}" if theirs.startswith(inside) else theirs


def bare(stored: Mapping[str, V], prefix: str) -> dict[str, tuple[str, V]]:
    """Take off what differs between files: FAQ's `network.`, the encoder's prefix, LayerNorm's old names.

    Args:
        stored: by the file's names.
        prefix: the encoder's, as the settings say; a file with another, or none, is read as well.

    Returns:
        By bare name: the file's name, and what stood there.
    """
    found = encoder_prefix(stored, prefix)
    return {_bare(key, found): (key, value) for key, value in stored.items()}


def encoder_prefix(stored: Iterable[str], prefix: str) -> str:
    """What stands before the encoder's names, with its dot; empty where nothing does."""
    keys = [key.removeprefix(FAQ_PREFIX) for key in stored]
    found = [key.removesuffix(WORDS) for key in keys if key.endswith(WORDS)]
    return min(found, key=lambda each: (each != f"{prefix}.", len(each)), default=f"{prefix}.")


def _bare(key: str, prefix: str) -> str:
    key = key.removeprefix(FAQ_PREFIX).removeprefix(prefix)
    if key.endswith(".gamma"):
        return key.removesuffix("gamma") + "weight"
    return key.removesuffix("beta") + "bias" if key.endswith(".beta") else key


def _candidates(model: StructBertModel) -> Iterator[tuple[str, str]]:
    encoder = "encoder." if isinstance(model, Classifier) else ""
    for theirs, ours in BERT_EMBEDDINGS:
        yield f"embeddings.{theirs}", f"{encoder}text_encoder.embeddings.{ours}"
    for number in range(model.config.encoder.layers):
        yield from _layer(f"encoder.layer.{number}.", f"{encoder}text_encoder.layers.{number}.")
    match model:
        case Classifier():
            yield from _linear("pooler.dense", "encoder.pooler")
            yield from _adapters(model.config)
            yield from CLASSIFIER
        case Tagger():
            yield from CLASSIFIER
        case WordFiller():
            yield from ((f"cls.predictions.{theirs}", f"head.{ours}") for theirs, ours in DECODER_HEAD[:-1])
            yield OUTPUT_BIAS, "head.bias"
        case FaqAnswerer():
            network = PROTONET if model.config.faq.network == "protonet" else MGIMN
            for theirs, ours in network.items():
                yield from ((f"{theirs}.{a}", f"{ours}.{b}") for a, b in WEIGHT_NORM)


def _adapters(config: StructBertConfig) -> Iterator[tuple[str, str]]:
    if config.adapters is None:
        return
    for number in range(len(config.adapters.states)):
        theirs, ours = f"adapter.adapter.{number}.", f"encoder.adapters.adapters.{number}."
        yield from _linear(f"{theirs}down_project", f"{ours}down")
        yield from _linear(f"{theirs}up_project", f"{ours}up")
        for layer in range(config.adapters.layers):
            yield from _layer(f"{theirs}encoder.layer.{layer}.", f"{ours}layers.{layer}.")
    for name in ("adapter_dense", "com_dense"):
        yield from _linear(name, f"encoder.adapters.{name}")


def _layer(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for a, b in BERT_LAYER:
        yield from _linear(theirs + a, ours + b)


def _linear(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    return ((f"{theirs}.{part}", f"{ours}.{part}") for part in BOTH)
