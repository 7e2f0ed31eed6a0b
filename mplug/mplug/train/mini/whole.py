"""The whole of mplug-mini, grown from its retrieval half.

Fusion encoder and decoder begin as copies of the text encoder's own layers (MiniLM's), which know what words are; their
cross-attention begins at random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from mplug.checkpoints import native
from mplug.config import FusionEncoderConfig, GenerationDefaults, MplugConfig, TextDecoderConfig
from mplug.layers import Attention, BertLayer, CrossLayer
from mplug.retrieval import RetrievalModel
from mplug.text_encoder import TextEncoder
from mplug.train.experiments.models import WholeModel
from mplug.train.mini.config import WholeShape

_STD = 0.02  # BERT's initialisation
HEAD_SCALE = 2.0
"""Standard deviation of the output head's first logits. Rows of the shared table stand still, mostly at length 1: with
the usual gain of 1 in the norm before them no piece could stand out of 14,500, and an optimizer moves a gain by no more
than its rate in a step."""


def open_whole(folder: Path, shape: WholeShape) -> WholeModel:
    """Open a folder of our own, with all modules.

    Args:
        folder: a retrieval model, which grows what it lacks (from torch's global generator), or a whole one.
        shape: sizes of what is grown.

    Raises:
        CheckpointError: the folder holds neither.
    """
    config = native.read_config(folder / native.CONFIG_FILE)
    if config.fusion_encoder is not None and config.text_decoder is not None:
        return native.load(folder, WholeModel)
    half = native.load(folder, RetrievalModel)
    whole = WholeModel(whole_config(config, shape), half.tokenizer)
    whole.load_state_dict(half.state_dict(), strict=False)
    initialise_parts(whole)
    return whole


def whole_config(config: MplugConfig, shape: WholeShape) -> MplugConfig:
    """A retrieval model's configuration with a fusion encoder and a decoder of this shape."""
    text = config.text_encoder
    width = config.image_encoder.output_width
    return dataclasses.replace(
        config,
        fusion_encoder=FusionEncoderConfig(
            hidden=text.hidden,
            layers=shape.fusion_layers,
            stride_layer=shape.stride_layer,
            heads=text.heads,
            ffn=text.ffn,
            memory_width=width,
            eps=text.eps,
            dropout=shape.dropout,
        ),
        text_decoder=TextDecoderConfig(
            vocab_size=text.vocab_size,
            hidden=text.hidden,
            layers=shape.decoder_layers,
            heads=text.heads,
            ffn=text.ffn,
            positions=text.positions,
            types=text.types,
            memory_width=width,
            eps=text.eps,
            pad_id=text.pad_id,
            dropout=shape.dropout,
            shared_words=True,
        ),
        generation=GenerationDefaults(max_length=shape.max_length, beam_size=shape.beam_size),
    )


@torch.no_grad()
def initialise_parts(whole: WholeModel) -> None:
    """Start the fusion encoder from the text encoder's last layers, the decoder from layers spread over all of them."""
    encoder, decoder = whole.text_encoder, whole.text_decoder
    fusion = whole.fusion_encoder.layers
    depth = len(encoder.layers)
    for number, layer in enumerate(fusion):
        _copy_layer(layer, encoder, max(0, depth - len(fusion) + number))
    for number, layer in enumerate(decoder.layers):
        _copy_layer(layer, encoder, round(number * (depth - 1) / max(1, len(decoder.layers) - 1)))
    for name in ("position", "token_type", "norm"):
        theirs = encoder.embeddings.get_submodule(name).state_dict()
        decoder.embeddings.get_submodule(name).load_state_dict(theirs)
    for linear in (whole.itm_head, decoder.head.dense):
        _small(linear)
    decoder.head.norm.weight.fill_(HEAD_SCALE / decoder.embeddings.word.weight.norm(dim=1).mean())


@torch.no_grad()
def start_output_bias(whole: WholeModel, texts: Iterable[str]) -> None:
    """Start the output head from how often each piece is written: its logarithm, smoothed by one.

    Biases would take thousands of steps to get there, and until they do, every other weight learns the same for them.

    Args:
        whole: its decoder's head is set.
        texts: what will be learnt to write.
    """
    bias = whole.text_decoder.head.bias
    ids = torch.cat([torch.from_numpy(each.ids[1:]) for each in whole.tokenizer.encode_batch(list(texts))])
    counts_V = torch.bincount(ids, minlength=len(bias)).float() + 1
    bias.copy_((counts_V / counts_V.sum()).log())


def _copy_layer(layer: nn.Module, encoder: TextEncoder, number: int) -> None:
    source = encoder.layers[number]
    assert isinstance(source, BertLayer), source
    for name in ("attention", "attention_norm", "feed_forward", "feed_forward_norm"):
        layer.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())
    if isinstance(layer, CrossLayer):
        _start_cross_attention(layer.cross_attention)
        # What comes is normalised and has its gains already: of the norm's own only their common size is kept.
        layer.cross_attention_norm.weight.fill_(layer.attention_norm.weight.square().mean().sqrt())
        layer.cross_attention_norm.bias.zero_()


def _start_cross_attention(attention: Attention) -> None:
    # BERT's 0.02 is for 768 numbers; with half of them the picture would hardly be heard, and matching, which learns
    # nothing until text and picture meet, would take thousands of steps to begin.
    for linear in (attention.query, attention.key, attention.value, attention.output):
        linear.weight.normal_(0, linear.in_features**-0.5)
        linear.bias.zero_()


def _small(linear: nn.Linear) -> None:
    linear.weight.normal_(0, _STD)
    linear.bias.zero_()
