"""The sizes that StructBERT was published in.

Sources: ModelScope's cards (base: 12 layers of 768 with 12 heads, "102M"; lite: 6 of 512 with 8 heads, "about 30M");
AliceMind's configuration of the large Chinese model (24 of 1024 with 16 heads, feed-forward width 4096). Not stated,
and taken from BERT: lite's feed-forward width, four times the other, and the shape of the large English model, of
which "340M" parameters are published. plug_mental's is the base with one adapter. The sizes of ModelScope's `tiny`
models are on no public card.
"""

from __future__ import annotations

from collections.abc import Mapping

from mplug.config import TextEncoderConfig
from mplug.structbert.config import AdapterConfig, AdversarialConfig, StructBertConfig

ZH_VOCAB, EN_VOCAB = 21128, 30522
LABELS = ("0", "1")
"""Of a classifier of two labels, as sentence similarity has them."""


def _size(
    name: str, vocab: int, layers: int, hidden: int, heads: int, adapters: AdapterConfig | None = None
) -> StructBertConfig:
    encoder = TextEncoderConfig(
        vocab_size=vocab, hidden=hidden, layers=layers, heads=heads, ffn=4 * hidden, dropout=0.1
    )
    adversarial = AdversarialConfig(factor=None) if adapters else AdversarialConfig()
    return StructBertConfig(
        name=name, encoder=encoder, labels=LABELS, adapters=adapters, adversarial=adversarial
    )


PUBLISHED: Mapping[str, StructBertConfig] = {
    size.name: size
    for size in (
        _size("structbert-lite-zh", ZH_VOCAB, 6, 512, 8),
        _size("structbert-base-zh", ZH_VOCAB, 12, 768, 12),
        _size("structbert-large-zh", ZH_VOCAB, 24, 1024, 16),
        _size("structbert-large-en", EN_VOCAB, 24, 1024, 16),
        _size("plug-mental-base-zh", ZH_VOCAB, 12, 768, 12, AdapterConfig()),
    )
}
"""By name, as classifiers of two labels."""
