"""Names of tensors in ModelScope's checkpoints and ours, one to one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mplug.checkpoints.names import BERT_EMBEDDINGS, BERT_LAYER
from mplug.checkpoints.streaming import Source, both
from mplug.palm.config import PalmConfig

WRAPPINGS = ("model", "palm")
TIED = ("generator.dense.weight", "decoder.embeddings.weight")
"""One tensor under two names: the other, the one that we read."""

DECODER_LAYER = (
    ("self_attn.linear_keys", "attention.key"),
    ("self_attn.linear_values", "attention.value"),
    ("self_attn.linear_query", "attention.query"),
    ("self_attn.final_linear", "attention.output"),
    ("context_attn.linear_keys", "cross_attention.key"),
    ("context_attn.linear_values", "cross_attention.value"),
    ("context_attn.linear_query", "cross_attention.query"),
    ("context_attn.final_linear", "cross_attention.output"),
    ("feed_forward.layer_norm", "feed_forward_norm"),
    ("feed_forward.w_1", "feed_forward.expand"),
    ("feed_forward.w_2", "feed_forward.contract"),
    ("layer_norm_1", "attention_norm"),
    ("layer_norm_2", "cross_attention_norm"),
)

# Buffers that are computed (25 MB of causal mask in each layer of a real file), BERT's pooler, which nothing reads, the
# generator's and the loss's second copies.
_OTHERS = re.compile(
    r"bert\.pooler\.|bert\.embeddings\.(position_ids|token_type_ids)|decoder\.pos_emb\.pe"
    r"|decoder\.transformer_layers\.\d+\.mask|generator\.dense\.weight|loss\."
)


def bare(key: str) -> str:
    """A name in a file without what is in front in some of them, taken off as the reference does."""
    for wrapping in WRAPPINGS:
        if key.startswith(wrapping):
            key = key[len(wrapping) + 1 :]
    return key


def is_unused(name: str) -> bool:
    """Whether a bare name is known, and none of a parameter."""
    return _OTHERS.match(name) is not None


def sources(config: PalmConfig) -> list[Source]:
    """Of every parameter, in the order of the reference's modules."""
    return [*_sources(config)]


def _sources(config: PalmConfig) -> Iterator[Source]:
    for theirs, ours in BERT_EMBEDDINGS:
        yield Source(f"bert.embeddings.{theirs}", (f"encoder.embeddings.{ours}",))
    for number in range(config.encoder.layers):
        for theirs, ours in BERT_LAYER:
            yield from both(f"bert.encoder.layer.{number}.{theirs}", f"encoder.layers.{number}.{ours}")
    yield Source(TIED[1], ("decoder.word.weight",))
    for number in range(config.decoder.layers):
        for theirs, ours in DECODER_LAYER:
            yield from both(
                f"decoder.transformer_layers.{number}.{theirs}", f"decoder.layers.{number}.{ours}"
            )
    yield from both("decoder.layer_norm", "decoder.norm")
    yield Source("generator.dense.bias", ("decoder.bias",))
