"""What the experiments read in a step, and how it is made of pictures and texts.

Readers and augmentation give examples; `collate_*` tokenizes them. An experiment is handed a function of (step, part)
that returns such a batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mplug.errors import MplugError
from mplug.text.tokenizer import Tokenizer, pad

Pixels = NDArray[np.uint8]
"""uint8 (3, R, R), as `mplug.preprocess.to_pixels` and augmentation give them."""

B = TypeVar("B")


@dataclass(frozen=True, slots=True, eq=False)
class CaptionExample:
    """One picture with one of its texts."""

    pixels: Pixels
    text: str
    key: str
    """What the picture shows: examples of equal keys are no negatives of each other."""


@dataclass(frozen=True, slots=True, eq=False)
class AnswerExample:
    """One picture with a question and its answers."""

    pixels: Pixels
    question: str
    answers: tuple[str, ...]
    weights: tuple[float, ...]
    """How much each answer counts (VQA: the share of people who gave it; Visual Genome: 0.5)."""


@dataclass(frozen=True, slots=True, eq=False)
class TextBatch:
    """B pictures with a text each."""

    pixels: Tensor
    """uint8 (B, 3, R, R), or floats of the same shape, which are taken as normalised."""
    ids_BL: Tensor
    """int64: [CLS] pieces [SEP] and then padding."""
    mask_BL: Tensor
    """bool, True = a real token."""
    identity_B: Tensor
    """int64: equal numbers show the same thing, in this batch and in all others."""
    given_B: Tensor
    """int64: pieces behind [CLS] that are a prompt, which a caption begins with and nobody has to guess."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureBatch:
    """B pictures, for an experiment that writes the texts itself."""

    pixels: Tensor
    """As in `TextBatch`."""
    keys: tuple[str, ...]
    """By which a reward finds a picture's references."""


@dataclass(frozen=True, slots=True, eq=False)
class AnswerBatch:
    """B pictures with a question each, and A answers in all, those of one question together."""

    pixels: Tensor
    """As in `TextBatch`."""
    ids_BL: Tensor
    """int64, the questions."""
    mask_BL: Tensor
    """bool, True = a real token."""
    answer_ids_AL: Tensor
    """int64, the answers."""
    answer_mask_AL: Tensor
    """bool, True = a real token."""
    answers_B: Tensor
    """int64, how many answers each question has."""
    weights_A: Tensor
    """float32, how much each answer counts."""


def collate_texts(tokenizer: Tokenizer, examples: Sequence[CaptionExample], *, prompt: str = "") -> TextBatch:
    """Stack pictures and tokenize their texts; a text that is too long keeps its beginning.

    Args:
        tokenizer: the model's.
        examples: at least one, all pictures of one size.
        prompt: what every text begins with.

    Raises:
        MplugError: a prompt that leaves no room for a text.
    """
    given = prompt_length(tokenizer, prompt)
    ids_BL, mask_BL = tokenize(tokenizer, [f"{prompt} {each.text}".strip() for each in examples])
    return TextBatch(
        pixels=stack(examples),
        ids_BL=ids_BL,
        mask_BL=mask_BL,
        identity_B=torch.tensor([identity_number(each.key) for each in examples]),
        given_B=torch.full((len(examples),), given),
    )


def collate_pictures(examples: Sequence[CaptionExample]) -> PictureBatch:
    """Stack pictures, whose texts the experiment writes itself."""
    return PictureBatch(stack(examples), tuple(each.key for each in examples))


def collate_answers(tokenizer: Tokenizer, examples: Sequence[AnswerExample]) -> AnswerBatch:
    """Stack pictures and tokenize questions and answers; what is too long keeps its beginning.

    Raises:
        MplugError: a question without answers, or with another number of weights than of answers.
    """
    for each in examples:
        if not each.answers or len(each.answers) != len(each.weights):
            raise MplugError(
                f"the question {each.question!r} has {len(each.answers)} answers and {len(each.weights)} weights; "
                "give one weight for each of at least one answer"
            )
    ids_BL, mask_BL = tokenize(tokenizer, [each.question for each in examples])
    answers = [answer for each in examples for answer in each.answers]
    answer_ids_AL, answer_mask_AL = tokenize(tokenizer, answers)
    return AnswerBatch(
        pixels=stack(examples),
        ids_BL=ids_BL,
        mask_BL=mask_BL,
        answer_ids_AL=answer_ids_AL,
        answer_mask_AL=answer_mask_AL,
        answers_B=torch.tensor([len(each.answers) for each in examples]),
        weights_A=torch.tensor([weight for each in examples for weight in each.weights]),
    )


def prompt_length(tokenizer: Tokenizer, prompt: str) -> int:
    """Pieces of a prompt.

    Raises:
        MplugError: with it a text would be as long as the tokenizer reads.
    """
    pieces = len(tokenizer.encode(prompt).ids) - 2
    if pieces + 2 >= tokenizer.max_length:
        raise MplugError(
            f"the prompt {prompt!r} fills the {tokenizer.max_length} tokens that the model reads; shorten it"
        )
    return pieces


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Texts to ids int64 (B, L) and mask bool (B, L)."""
    ids, mask = pad(tokenizer.encode_batch(texts), tokenizer.pad_id)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def stack(examples: Sequence[CaptionExample] | Sequence[AnswerExample]) -> Tensor:
    """Pictures of one size to uint8 (B, 3, R, R)."""
    return torch.from_numpy(np.stack([each.pixels for each in examples]))


def identity_number(key: str) -> int:
    """The same number for a key in every batch and every run, never negative."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def counts(batch: object) -> dict[str, int]:
    """Pictures of a batch, and tokens of its texts where it has some."""
    masks = [getattr(batch, name) for name in ("mask_BL", "answer_mask_AL") if hasattr(batch, name)]
    images = {"images": len(getattr(batch, "pixels"))}  # noqa: B009 - every batch has them, no common class
    return images | ({"tokens": sum(int(mask.sum()) for mask in masks)} if masks else {})


def to_device(batch: B, device: torch.device) -> B:
    """A batch with its tensors where the model is."""
    described: Any = batch
    tensors = {
        field.name: value.to(device, non_blocking=True)
        for field in dataclasses.fields(described)
        if isinstance(value := getattr(batch, field.name), Tensor)
    }
    moved: B = dataclasses.replace(described, **tensors)
    return moved
