"""Captions and answers, learnt word by word: cross-entropy with teacher forcing."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.text_decoder import TextDecoder
from mplug.train.experiments.batches import prompt_length, tokenize
from mplug.train.experiments.models import WholeModel
from mplug.train.mini.config import PROMPT_ZH, WholeStageConfig
from mplug.train.mini.reading import Shuffled, StageData, draw_views


def word_losses(
    decoder: TextDecoder,
    ids_SL: Tensor,
    mask_SL: Tensor,
    memory_BMD: Tensor,
    *,
    memory_mask_BM: Tensor | None = None,
    given: int = 0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of every word that is to be guessed; padding costs no logits.

    Args:
        decoder: learns.
        ids_SL: int64, [CLS] pieces [SEP] and then padding.
        mask_SL: bool, True = a real token.
        memory_BMD: of the pictures; S / B texts in a row share one.
        memory_mask_BM: bool, True = attend; None = everything.
        given: pieces behind [CLS] that are a prompt.
        label_smoothing: share of the target that is spread over the whole vocabulary.

    Returns:
        float32 (S, L - 1), 0 where nothing is to be guessed.
    """
    device = memory_BMD.device
    ids_SL, mask_SL = ids_SL.to(device), mask_SL.to(device)
    states_SLD = decoder.states(
        ids_SL[:, :-1], memory_BMD, mask_BL=mask_SL[:, :-1], memory_mask_BN=memory_mask_BM
    )
    wanted_SL = mask_SL[:, 1:] & (torch.arange(ids_SL.shape[1] - 1, device=device) >= given)
    logits_PV = decoder.logits(states_SLD[wanted_SL]).float()
    losses_P = F.cross_entropy(
        logits_PV, ids_SL[:, 1:][wanted_SL], reduction="none", label_smoothing=label_smoothing
    )
    return torch.zeros(wanted_SL.shape, device=device).masked_scatter(wanted_SL, losses_P)


class Captioning:
    """Several captions of each picture, whose keys and values are made once for all of them."""

    def __init__(self, model: WholeModel, data: StageData, config: WholeStageConfig) -> None:
        self._model = model
        self._tokens = data.tokens
        self._config = config
        repeats = dict(config.data.set_repeats)
        items = [image for image in data.train for _ in range(repeats.get(image.set_name, 1))]
        self._batches = Shuffled(items, config.batch.captioned, f"{config.seed} captions")

    def losses(self, number: int, chance: random.Random) -> Mapping[str, Tensor]:
        """`caption_loss` of a batch, counted from 0: the mean over all words."""
        images = self._batches.batch(number)
        tokens_BND = draw_views(self._tokens, [image.path for image in images], chance)
        tokens_BND = F.dropout(tokens_BND, self._config.token_dropout)
        step = self._config.batch
        english = [_draw(image.captions, step.captions_en, chance) for image in images]
        chinese = [_draw(image.captions_zh, step.captions_zh, chance) for image in images]
        with_chinese = [row for row, texts in enumerate(chinese) if texts]
        losses = [self._word_losses(english, tokens_BND, "")]
        if with_chinese and step.captions_zh:
            some = [chinese[row] for row in with_chinese]
            losses.append(self._word_losses(some, tokens_BND[with_chinese], PROMPT_ZH))
        words = torch.cat(losses)
        return {"caption_loss": words.mean()}

    def _word_losses(self, texts: Sequence[Sequence[str]], tokens_BND: Tensor, prompt: str) -> Tensor:
        tokenizer = self._model.tokenizer
        ids_SL, mask_SL = tokenize(tokenizer, [prompt + text for some in texts for text in some])
        given = prompt_length(tokenizer, prompt)
        losses_SL = word_losses(
            self._model.text_decoder,
            ids_SL,
            mask_SL,
            tokens_BND,
            given=given,
            label_smoothing=self._config.label_smoothing,
        )
        return losses_SL[:, given:][mask_SL[:, 1 + given :].to(losses_SL.device)]


def _draw(texts: Sequence[str], count: int, chance: random.Random) -> list[str]:
    """So many texts, each as often as the others, or none where there are none."""
    if not texts:
        return []
    rounds = -(-count // len(texts))
    return [text for _ in range(rounds) for text in chance.sample(texts, len(texts))][:count]


class Answering:
    """Questions through text and fusion encoder, answers by the decoder."""

    def __init__(self, model: WholeModel, data: StageData, config: WholeStageConfig) -> None:
        self._model = model
        self._tokens = data.tokens
        self._config = config
        self._batches = Shuffled(data.train_questions, config.batch.questions, f"{config.seed} questions")

    def losses(self, number: int, chance: random.Random) -> Mapping[str, Tensor]:
        """`answer_loss` of a batch, counted from 0: the sum over an answer's words, the mean over answers."""
        rows = self._batches.batch(number)
        model = self._model
        tokens_BND = draw_views(self._tokens, [row.path for row in rows], chance)
        tokens_BND = F.dropout(tokens_BND, self._config.token_dropout)
        memory_BMD, memory_mask_BM = model.decoder_memory(
            tokens_BND,
            *(
                each.to(tokens_BND.device)
                for each in tokenize(model.tokenizer, [row.question for row in rows])
            ),
        )
        losses_BL = word_losses(
            model.text_decoder,
            *tokenize(model.tokenizer, [chance.choice(row.answers) for row in rows]),
            memory_BMD,
            memory_mask_BM=memory_mask_BM,
            label_smoothing=self._config.label_smoothing,
        )
        return {"answer_loss": self._config.answer_weight * losses_BL.sum(1).mean()}
