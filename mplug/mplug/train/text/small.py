"""Small new models: a vocabulary of the characters that the training rows use, a shape, and weights at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn

from mplug.config import GenerationDefaults, TextEncoderConfig
from mplug.gpt3 import Gpt3Config, Gpt3Generator, Gpt3Sampling
from mplug.palm import PalmConfig, PalmDecoderConfig, PalmGenerator
from mplug.palm.decoder import sinusoids
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.train.text.config import MiniTextConfig

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def character_vocabulary(texts: Iterable[str], least_count: int) -> list[str]:
    """BERT's special pieces, then characters, the most frequent first; Latin letters and digits also within words.

    Args:
        texts: of training rows.
        least_count: rarer characters are left out.
    """
    counts = Counter(character for text in texts for character in text.lower() if not character.isspace())
    common = [character for character, count in counts.most_common() if count >= least_count]
    within = [f"##{character}" for character in common if character.isascii() and character.isalnum()]
    return [*SPECIAL, *common, *within]


def new_gpt3(config: MiniTextConfig, vocab: list[str]) -> Gpt3Generator:
    """A plain GPT-3, which ends texts with [SEP]."""
    shape = config.shape
    tokenizer = WordPieceTokenizer(vocab, max_length=shape.positions // 2)
    generator = Gpt3Generator(
        Gpt3Config(
            name=config.name,
            layout="plain",
            vocab_size=len(vocab),
            hidden=shape.hidden,
            layers=shape.layers,
            heads=shape.heads,
            ffn=4 * shape.hidden,  # the plain layout knows no other
            positions=shape.positions,
            dropout=shape.dropout,
            eod_id=tokenizer.sep_id,
            prompt_tokens=shape.positions // 2,
            sampling=Gpt3Sampling(tokens_to_generate=shape.positions // 2, top_p=0.9, temperature=0.7),
        ),
        tokenizer,
    )
    _draw(generator)
    return generator


def new_palm(config: MiniTextConfig, vocab: list[str]) -> PalmGenerator:
    """A PALM with BERT's tokenizer, which writes with beams.

    Both halves begin with the same word embeddings and the same positions: what the encoder read, the decoder can say
    again by one map for all characters, those that are rare in training, too, and at the same place.
    """
    shape = config.shape
    tokenizer = WordPieceTokenizer(vocab, max_length=shape.positions)
    encoder = TextEncoderConfig(
        vocab_size=len(vocab),
        hidden=shape.hidden,
        layers=shape.layers,
        heads=shape.heads,
        ffn=4 * shape.hidden,
        positions=shape.positions,
        dropout=shape.dropout,
    )
    decoder = PalmDecoderConfig(
        layers=shape.layers,
        heads=shape.heads,
        ffn=4 * shape.hidden,
        dropout=shape.dropout,
        bos_id=tokenizer.cls_id,
        eos_id=tokenizer.sep_id,
        pad_id=tokenizer.pad_id,
    )
    generator = PalmGenerator(
        PalmConfig(
            name=config.name,
            kind="zh_bert",
            encoder=encoder,
            decoder=decoder,
            max_length=shape.positions,
            generation=GenerationDefaults(min_length=1, max_length=config.max_text_tokens, beam_size=4),
            label_smoothing=config.label_smoothing,
            encoder_folder="zh_bert",
        ),
        tokenizer,
    )
    _draw(generator)
    _align(generator)
    return generator


def _draw(module: nn.Module) -> None:
    """Numbers that keep a vector's length; from 0.02, which is BERT's and for wide models, narrow ones learn slowly."""
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.normal_(each.weight, std=each.in_features**-0.5)
            if each.bias is not None:
                nn.init.zeros_(each.bias)
        elif isinstance(each, nn.Embedding):
            nn.init.normal_(each.weight, std=each.embedding_dim**-0.5)


@torch.no_grad()
def _align(generator: PalmGenerator) -> None:
    """Give both halves the same words and places to begin with."""
    embeddings = generator.encoder.embeddings
    generator.decoder.word.weight.copy_(embeddings.word.weight)
    positions, width = embeddings.position.weight.shape
    embeddings.position.weight.copy_(sinusoids(torch.arange(positions), width) * width**-0.5)
