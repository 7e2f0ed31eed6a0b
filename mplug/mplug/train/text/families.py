"""A row as each family reads it, and what its decoder makes of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mplug import gpt3, palm, plug
from mplug.errors import MplugError
from mplug.gpt3 import Gpt3Generator
from mplug.palm import PalmGenerator
from mplug.plug import PlugGenerator
from mplug.plug.config import PAD_ID
from mplug.text.byte_bpe import ByteBpeTokenizer
from mplug.text.jieba_bpe import JiebaBpeTokenizer
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_generator import Prompt
from mplug.train.text.rows import TextRow

GeneratorT = TypeVar("GeneratorT", Gpt3Generator, PalmGenerator, PlugGenerator)
AnyTokenizer = WordPieceTokenizer | JiebaBpeTokenizer | ByteBpeTokenizer


PLUG_RANKS = 8
"""Files that the published PLUG's weights are in."""


class TextExample(NamedTuple):
    """A row in tokens."""

    source: tuple[int, ...]
    """What an encoder reads; empty where there is none."""
    ids: tuple[int, ...]
    """What the decoder reads and learns: from the token that begins a text to the one that ends it."""
    given: int
    """How many of these are given: at least the first."""


class Family(ABC, Generic[GeneratorT]):
    """What training needs of a generator.

    Args:
        generator: is trained in place.
        max_text_tokens: longest text of the decoder; no more than it has positions for.

    Raises:
        MplugError: the decoder has fewer positions.
    """

    def __init__(self, generator: GeneratorT, max_text_tokens: int) -> None:
        positions = generator.decoder.max_positions
        if max_text_tokens > positions:
            raise MplugError(
                f"max_text_tokens is {max_text_tokens}; {generator.name} has {positions} positions"
            )
        self.generator: GeneratorT = generator
        self._longest = max_text_tokens

    @property
    @abstractmethod
    def pad_id(self) -> int:
        """Token id that fills short rows of a batch; what it is is never learnt."""

    @abstractmethod
    def example(self, row: TextRow) -> TextExample:
        """Tokenize a row.

        Raises:
            MplugError: nothing of its target can be learnt.
        """

    @abstractmethod
    def states(self, source_BN: Tensor, ids_BL: Tensor) -> Tensor:
        """What the decoder's `logits` are made of, (B, L, D); differentiable.

        Args:
            source_BN: int64, padding behind.
            ids_BL: int64, padding behind.
        """

    @abstractmethod
    def save(self, folder: Path, *, int8: bool = False) -> None:
        """Write what the family's `load` reads."""

    def _cut(self, source: tuple[int, ...], first: list[int], target: list[int], row: TextRow) -> TextExample:
        ids = [*first, *target, self.generator.decoder.eos_id][: self._longest]
        given = max(1, len(first))
        if given >= len(ids) or not target:
            raise MplugError(
                f"{row.origin or row.source[:40]}: nothing of its target can be learnt; it is empty, or the source "
                f"fills the {self._longest} tokens of max_text_tokens"
            )
        return TextExample(source, tuple(ids), given)


class DecoderOnly(Family[Gpt3Generator]):
    """GPT-3: source and target are one text, of which the target is learnt."""

    @property
    def pad_id(self) -> int:
        """See `Family`."""
        return self.generator.tokenizer.pad_id

    def example(self, row: TextRow) -> TextExample:
        """See `Family`."""
        generator = self.generator
        is_plain = isinstance(generator.tokenizer, WordPieceTokenizer)
        first = generator.read(row.source).first if row.source or is_plain else ()
        return self._cut((), list(first), piece_ids(generator.tokenizer, row.target), row)

    def states(self, source_BN: Tensor, ids_BL: Tensor) -> Tensor:
        """See `Family`."""
        return self.generator.decoder.states(ids_BL)

    def save(self, folder: Path, *, int8: bool = False) -> None:
        """See `Family`."""
        gpt3.save(self.generator, folder, storage="int8" if int8 else "modelscope")


class EncoderDecoder(Family[GeneratorT]):
    """PALM and PLUG: an encoder reads the source, the decoder learns the target."""

    def example(self, row: TextRow) -> TextExample:
        """See `Family`."""
        if not row.source:
            raise MplugError(
                f"{row.origin or row.target[:40]}: {self.generator.name} writes one text from another; give rows with "
                "source and target"
            )
        prompt: Prompt = self.generator.read(row.source)
        return self._cut(prompt.source, [*prompt.first], piece_ids(self.generator.tokenizer, row.target), row)


class PalmFamily(EncoderDecoder[PalmGenerator]):
    """PALM."""

    @property
    def pad_id(self) -> int:
        """See `Family`."""
        return self.generator.decoder.pad_id

    def states(self, source_BN: Tensor, ids_BL: Tensor) -> Tensor:
        """See `Family`."""
        memory_BND, is_real_BN = self.generator.encode(source_BN)
        return self.generator.decoder.states(ids_BL, memory_BND, memory_mask_BN=is_real_BN)

    def save(self, folder: Path, *, int8: bool = False) -> None:
        """See `Family`."""
        palm.save(self.generator, folder, storage="int8" if int8 else "modelscope")


class PlugFamily(EncoderDecoder[PlugGenerator]):
    """PLUG."""

    @property
    def pad_id(self) -> int:
        """See `Family`."""
        return PAD_ID

    def states(self, source_BN: Tensor, ids_BL: Tensor) -> Tensor:
        """See `Family`."""
        mask_BN = source_BN != PAD_ID
        memory_BND = self.generator.encoder(source_BN, mask_BN, as_served=True)
        return self.generator.decoder.states(ids_BL, memory_BND, memory_mask_BN=mask_BN)

    def save(self, folder: Path, *, int8: bool = False) -> None:
        """See `Family`; in as many files as the published model has, where they can be as many."""
        config = self.generator.config
        ranks = 1 if int8 else math.gcd(PLUG_RANKS, config.heads, config.vocab_size, config.ffn)
        plug.save(self.generator, folder, ranks=ranks, storage="int8" if int8 else "modelscope")


# Any: a family of whichever generator.
AnyFamily = Family[Any]
_FAMILIES: dict[type[nn.Module], Callable[[Any, int], AnyFamily]] = {
    Gpt3Generator: DecoderOnly,
    PalmGenerator: PalmFamily,
    PlugGenerator: PlugFamily,
}


def family_of(generator: object, max_text_tokens: int) -> AnyFamily:
    """What training needs of a generator.

    Raises:
        MplugError: it is of no family that can be trained here.
    """
    for kind, family in _FAMILIES.items():
        if isinstance(generator, kind):
            return family(generator, max_text_tokens)
    raise MplugError(
        f"a {type(generator).__name__} cannot be fine-tuned on texts; start from a GPT-3, PALM or PLUG"
    )


def piece_ids(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """Tokens of a text alone, without special ones."""
    if isinstance(tokenizer, WordPieceTokenizer):
        return list(tokenizer.pieces([text])[0].ids)
    ids = [int(number) for number in tokenizer.encode(text).ids]
    return ids if isinstance(tokenizer, JiebaBpeTokenizer) else ids[1:-1]


def token_losses(
    family: AnyFamily, source_BN: Tensor, ids_BL: Tensor, counts_BL: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Negative log-likelihood of the tokens that are to be learnt; the others cost no logits.

    Args:
        family: of the model.
        source_BN: int64 (B, N), padding behind; N = 0 where nothing is encoded.
        ids_BL: int64 (B, L), padding behind.
        counts_BL: bool (B, L - 1), which labels, the tokens from the second on, are learnt.
        label_smoothing: share of the target that is spread over the whole vocabulary.

    Returns:
        float32 (P,), of the counted labels row by row.
    """
    states_BLD = family.states(source_BN, ids_BL[:, :-1])
    logits_PV = family.generator.decoder.logits(states_BLD[counts_BL]).float()
    labels_P = ids_BL[:, 1:][counts_BL]
    losses_P: Tensor = torch.nn.functional.cross_entropy(
        logits_PV, labels_P, reduction="none", label_smoothing=label_smoothing
    )
    return losses_P
