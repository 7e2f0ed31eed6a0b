"""Names of tensors in ModelScope's checkpoints and ours, and how tensor-parallel ranks part them.

Queries, keys and values are one matrix there, keys and values of cross-attention another. A rank has a part of each of
the three, one behind another (a stride, in Megatron's words); ModelScope's own merging of ranks sets whole files end to
end, and gives a network of other numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mplug.checkpoints.names import BERT_EMBEDDINGS
from mplug.checkpoints.streaming import Source, both
from mplug.plug.config import PlugConfig

TIED = ("cls.predictions.decoder_weight", "bert.embeddings.word_embeddings.weight")
"""One tensor under two names: the other, the one that we read."""
HEAD = "classifier.weight"
"""Of a classifier on the encoder, as AliceMind's PLUG names it (BertForSequenceClassification)."""

PRE_NORMS = ("attention.LayerNorm", "LayerNorm")
POST_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
DECODER_NORMS = (
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "cross_attention_norm"),
    ("post_cross_attention_layernorm", "feed_forward_norm"),
)

_WRAPPINGS = ("module.", "model.")
_OTHERS = re.compile(r"bert\.|cls\.|classifier\.|decoder\.decoder\.|.*\.position_ids$")


def bare(key: str) -> str:
    """A name in a file without the wrappings that some have in front."""
    for wrapping in _WRAPPINGS:
        key = key.removeprefix(wrapping)
    return key


def is_unused(name: str) -> bool:
    """Whether a bare name belongs to a part that PLUG has: one that the model at hand is without."""
    return _OTHERS.match(name) is not None


def encoder_sources(config: PlugConfig, ours: str = "encoder.") -> Iterator[Source]:
    """Of every parameter of the encoder, in the reference's order.

    Args:
        config: the model's shape.
        ours: what our names begin with.
    """
    for theirs, name in BERT_EMBEDDINGS:
        split = 0 if name == "word.weight" else None
        yield Source(f"bert.embeddings.{theirs}", (f"{ours}embeddings.{name}",), split)
    for number in range(config.layers):
        yield from _encoder_layer(f"bert.encoder.layer.{number}.", f"{ours}layers.{number}.", config.pre_norm)
    if config.pre_norm:
        yield from both("bert.encoder.LayerNorm", f"{ours}norm")


def _encoder_layer(theirs: str, ours: str, pre_norm: bool) -> Iterator[Source]:
    first, second = PRE_NORMS if pre_norm else POST_NORMS
    attention_norm = both(theirs + first, f"{ours}attention_norm")
    if pre_norm:
        yield from attention_norm
    yield from _fused(f"{theirs}attention.self.query_key_value", f"{ours}attention", "query", "key", "value")
    yield from _rows_in(f"{theirs}attention.output.dense", f"{ours}attention.output")
    if not pre_norm:
        yield from attention_norm
    yield from both(f"{theirs}intermediate.dense", f"{ours}feed_forward.expand", split=0)
    yield from _rows_in(f"{theirs}output.dense", f"{ours}feed_forward.contract")
    yield from both(theirs + second, f"{ours}feed_forward_norm")


def head_sources() -> Iterator[Source]:
    """Of every parameter of the heads of pretraining."""
    yield from both("bert.pooler.dense", "heads.pooler")
    yield Source("cls.predictions.bias", ("heads.words.bias",), 0)
    yield from both("cls.predictions.transform.dense", "heads.words.dense")
    yield from both("cls.predictions.transform.LayerNorm", "heads.words.norm")
    yield from both("cls.seq_relationship", "heads.relation")


def decoder_sources(config: PlugConfig) -> Iterator[Source]:
    """Of every parameter of the decoder but the embeddings, which are the encoder's."""
    for number in range(config.decoder_layers):
        theirs, ours = f"decoder.decoder.layer.{number}.", f"decoder.layers.{number}."
        yield from _fused(f"{theirs}attention.query_key_value", f"{ours}attention", "query", "key", "value")
        yield from _rows_in(f"{theirs}attention.dense", f"{ours}attention.output")
        yield from both(f"{theirs}cross_attention.query", f"{ours}cross_attention.query", split=0)
        yield from _fused(f"{theirs}cross_attention.key_value", f"{ours}cross_attention", "key", "value")
        yield from _rows_in(f"{theirs}cross_attention.dense", f"{ours}cross_attention.output")
        for name, norm in DECODER_NORMS:
            yield from both(theirs + name, ours + norm)
        yield from both(f"{theirs}intermediate", f"{ours}feed_forward.expand", split=0)
        yield from _rows_in(f"{theirs}output", f"{ours}feed_forward.contract")
    yield from both("decoder.decoder.final_layernorm", "decoder.norm")


def _fused(theirs: str, ours: str, *parts: str) -> Iterator[Source]:
    for kind in ("weight", "bias"):
        yield Source(f"{theirs}.{kind}", tuple(f"{ours}.{part}.{kind}" for part in parts), 0)


def _rows_in(theirs: str, ours: str) -> Iterator[Source]:
    """A layer whose inputs are parted among ranks: the bias is added once, to the sum."""
    yield Source(f"{theirs}.weight", (f"{ours}.weight",), 1)
    yield Source(f"{theirs}.bias", (f"{ours}.bias",))
