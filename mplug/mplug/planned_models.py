"""The published sizes by name, for `mplug.memory_plan`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn

from mplug import gpt3, palm, plug, structbert
from mplug.checkpoints.published import PUBLISHED
from mplug.config import MplugConfig
from mplug.gpt3 import Gpt3Config, Gpt3Decoder
from mplug.memory_plan import PlannedModel, Shape
from mplug.palm import PalmConfig
from mplug.palm.model import PalmModel
from mplug.plug import PlugConfig
from mplug.plug.model import PlugModel
from mplug.structbert.config import StructBertConfig
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.vqa import VqaModel

VISUAL_TOKENS = 577
"""Of mPLUG's published sizes: 24 x 24 patches, of 384 pixels by 16 or of 336 by 14, and [CLS]."""
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def of_gpt3(config: Gpt3Config) -> PlannedModel:
    """Of either layout."""
    shape = Shape(
        width=config.hidden,
        ffn=config.ffn,
        heads=config.heads,
        vocab=config.vocab_size,
        layers=config.layers,
    )
    return PlannedModel(partial(Gpt3Decoder, config), shape)


def of_palm(config: PalmConfig) -> PlannedModel:
    """Encoder and decoder."""
    encoder, decoder = config.encoder, config.decoder
    shape = Shape(
        width=encoder.hidden,
        ffn=max(encoder.ffn, decoder.ffn),
        heads=decoder.heads,
        vocab=encoder.vocab_size,
        layers=decoder.layers,
        cross_layers=decoder.layers,
    )
    return PlannedModel(partial(PalmModel, config), shape)


def of_plug(config: PlugConfig) -> PlannedModel:
    """Encoder and decoder, without the heads of pretraining."""
    shape = Shape(
        width=config.hidden,
        ffn=config.ffn,
        heads=config.heads,
        vocab=config.vocab_size,
        layers=config.decoder_layers,
        cross_layers=config.decoder_layers,
    )
    return PlannedModel(partial(PlugModel, config), shape)


def of_structbert(config: StructBertConfig) -> PlannedModel:
    """As a classifier."""
    encoder = config.encoder
    shape = Shape(width=encoder.hidden, ffn=encoder.ffn, heads=encoder.heads)
    return PlannedModel(partial(_classifier, config), shape)


def of_mplug(config: MplugConfig) -> PlannedModel:
    """All modules, as answering a question about a picture needs them."""
    decoder = config.text_decoder
    assert decoder is not None, "a model that answers has a decoder"
    shape = Shape(
        width=decoder.hidden,
        ffn=decoder.ffn,
        heads=decoder.heads,
        vocab=decoder.vocab_size,
        layers=decoder.layers,
        cross_layers=decoder.layers,
        memory=VISUAL_TOKENS + config.max_text_tokens,
    )
    return PlannedModel(partial(_answerer, config), shape, quantizes=False)


def named_models() -> Mapping[str, PlannedModel]:
    """All published sizes."""
    return {
        **{config.name: of_gpt3(config) for config in gpt3.SIZES.values()},
        **{config.name: of_palm(config) for config in palm.SIZES.values()},
        **{config.name: of_plug(config) for config in plug.SIZES.values()},
        **{name: of_structbert(config) for name, config in structbert.PUBLISHED.items()},
        **{name: of_mplug(settings.to_config()) for name, settings in PUBLISHED.items()},
    }


def _classifier(config: StructBertConfig) -> nn.Module:
    return structbert.Classifier(config, WordPieceTokenizer(_SPECIAL, max_length=config.max_length))


def _answerer(config: MplugConfig) -> nn.Module:
    return VqaModel(config, WordPieceTokenizer(_SPECIAL, max_length=config.max_text_tokens))
