"""Captions written by the model itself, rewarded as wholes (SCST with the mean over the beams as baseline)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.evaluation.cider import CiderReward
from mplug.evaluation.tokenization import Tokenization, tokenization_for, tokenize
from mplug.generation import GenerationConfig, generate
from mplug.generation.engine import pad_right
from mplug.train.data import CaptionedImage
from mplug.train.experiments.base import evaluating
from mplug.train.experiments.models import WholeModel
from mplug.train.mini.config import PROMPT_ZH, WholeStageConfig
from mplug.train.mini.reading import Shuffled, StageData, draw_views
from mplug.train.mini.writing import word_losses

Rewards = Callable[[Sequence[str], Sequence[str], Sequence[bool]], Sequence[float]]
"""From pictures' paths, a caption of each, and whether it came to its end, to how good they are."""

_END = "\n"
"""Stands behind the last word when captions are compared, so that one that breaks off loses by it."""


class CiderRewards:
    """CIDEr of captions against those of their pictures; without Java, whose start takes longer than a step.

    Args:
        references: captions by path.
        language: `en` or `zh`.
    """

    def __init__(self, references: Mapping[str, Sequence[str]], language: str) -> None:
        self._tokenization: Tokenization = tokenization_for(language, java=False)
        self._cider = CiderReward(
            {path: [[*words, _END] for words in self._words(texts)] for path, texts in references.items()}
        )

    def __call__(self, paths: Sequence[str], texts: Sequence[str], ended: Sequence[bool]) -> Sequence[float]:
        """See `Rewards`."""
        words = [[*some, _END] if end else some for some, end in zip(self._words(texts), ended, strict=True)]
        return [float(score) for score in self._cider.scores(paths, words)]

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        return tokenize(texts, self._tokenization)


class Rewarding:
    """-(reward - mean of the picture's rewards) * log-likelihood per word, the mean over all captions."""

    def __init__(
        self,
        model: WholeModel,
        data: StageData,
        config: WholeStageConfig,
        rewards: Mapping[str, Rewards] | None = None,
    ) -> None:
        self._model = model
        self._tokens = data.tokens
        self._config = config
        # Both languages' batches draw on the pictures that have captions in both.
        pictures = [i for i in data.train if i.set_name == "photo" and i.captions_zh] or data.train
        self._batches = Shuffled(pictures, config.batch.rewarded, f"{config.seed} rewarded")
        self._rewards = rewards or {
            "en": CiderRewards({image.path: image.captions for image in pictures}, "en"),
            "zh": CiderRewards({image.path: image.captions_zh or image.captions for image in pictures}, "zh"),
        }
        self.mean_reward = 0.0
        """Of the last batch."""

    def losses(self, number: int, chance: random.Random) -> Mapping[str, Tensor]:
        """`scst_loss` of a batch, counted from 0."""
        images = self._batches.batch(number)
        tokens_BND = draw_views(self._tokens, [image.path for image in images], chance)
        # Dropped before writing: what is rewarded is what can be written of a picture that is not known by heart.
        tokens_BND = F.dropout(tokens_BND, self._config.token_dropout)
        language = "en" if chance.random() < self._config.batch.english else "zh"
        prompt = list(self._model.tokenizer.encode(PROMPT_ZH).ids[1:-1]) if language == "zh" else []
        texts = self._write(tokens_BND, prompt)
        advantages_S = self._advantages(images, texts, len(prompt), language)
        ids_SL, lengths_S = pad_right(texts)
        longest = ids_SL.shape[1]
        lengths_S = torch.full((len(texts),), longest) if lengths_S is None else lengths_S
        mask_SL = torch.arange(longest) < lengths_S[:, None]
        losses_SL = word_losses(self._model.text_decoder, ids_SL, mask_SL, tokens_BND, given=len(prompt))
        words_S, advantages_S = (
            each.to(losses_SL.device) for each in (lengths_S - 1 - len(prompt), advantages_S)
        )
        return {"scst_loss": (advantages_S * losses_SL.sum(1) / words_S).mean()}

    def _write(self, tokens_BND: Tensor, prompt: Sequence[int]) -> list[list[int]]:
        """The beams of every picture's search, those of one picture together, each cut behind its first end."""
        decoder, beams = self._model.text_decoder, self._config.batch.beams
        config = GenerationConfig(
            max_length=self._config.shape.max_length, beam_size=beams, num_results=beams
        )
        prompts = [[decoder.bos_id, *map(int, prompt)]] * len(tokens_BND)
        with evaluating(self._model), torch.autocast(tokens_BND.device.type, enabled=False):
            decoder.drop_packed()  # the optimizer has changed the weights since
            found = generate(decoder, lambda rows: decoder.start(tokens_BND[list(rows)]), prompts, config)
        return [_until(list(one.ids), decoder.eos_id) for texts in found for one in texts]

    def _advantages(
        self, images: Sequence[CaptionedImage], texts: Sequence[Sequence[int]], given: int, language: str
    ) -> Tensor:
        beams, eos_id = self._config.batch.beams, self._model.text_decoder.eos_id
        paths = [image.path for image in images for _ in range(beams)]
        written = [self._model.tokenizer.decode(ids[1 + given :]) for ids in texts]
        rewards = self._rewards[language](paths, written, [ids[-1] == eos_id for ids in texts])
        rewards_Br = torch.tensor(list(rewards), dtype=torch.float32).view(-1, beams)
        self.mean_reward = rewards_Br.mean().item()
        return (rewards_Br - rewards_Br.mean(1, keepdim=True)).flatten()


def _until(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids
