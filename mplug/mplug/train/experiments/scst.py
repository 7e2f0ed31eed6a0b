"""Self-critical training (Rennie et al. 2017) as mPLUG has it: captions are rewarded as wholes, by CIDEr.

The generation engine writes several captions of each picture; those that are better than the picture's mean become
likelier, the others less likely. The reference takes the beams of its search and their mean reward as the baseline,
where the paper takes the greedy caption's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mplug.captioning import Caption, CaptionModel
from mplug.evaluation.cider import CiderReward
from mplug.evaluation.tokenization import Tokenization, tokenize
from mplug.generation import GenerationConfig
from mplug.generation.engine import pad_right
from mplug.train.experiments.base import Setup, TaskExperiment, evaluating, image_tokens
from mplug.train.experiments.batches import PictureBatch
from mplug.train.experiments.settings import ScstObjective
from mplug.train.objectives import token_losses


class Reward(Protocol):
    """How good captions are."""

    def __call__(self, keys: Sequence[str], texts: Sequence[str]) -> Sequence[float]:
        """Rate texts.

        Args:
            keys: for each text, what its picture shows (`PictureBatch.keys`).
            texts: captions, prompt included.
        """
        ...


def cider_reward(
    references: Mapping[str, Sequence[str]], tokenization: Tokenization = Tokenization.SIMPLE
) -> Reward:
    """CIDEr-D against people's captions.

    Args:
        references: captions by key; document frequencies count these pictures.
        tokenization: the reference's is `PTB`, which starts Java at every step.
    """
    words = iter(tokenize([text for texts in references.values() for text in texts], tokenization))
    cider = CiderReward({key: [next(words) for _ in texts] for key, texts in references.items()})

    def rate(keys: Sequence[str], texts: Sequence[str]) -> Sequence[float]:
        rewards: list[float] = cider.scores(keys, tokenize(texts, tokenization)).tolist()
        return rewards

    return rate


class ScstExperiment(TaskExperiment[CaptionModel, PictureBatch]):
    """-(reward - mean reward of the picture) * log-likelihood per token, the mean over all captions.

    Args:
        model: one that captions already, see `CaptionExperiment`.
        config: how captions are drawn.
        setup: what comes from outside.
        reward: rates them.
    """

    def __init__(
        self,
        model: CaptionModel,
        config: ScstObjective,
        setup: Setup[CaptionModel, PictureBatch],
        *,
        reward: Reward,
    ) -> None:
        super().__init__(model, setup)
        self._config = config
        self._reward = reward
        self._generation = GenerationConfig(
            method=config.method,
            min_length=config.min_length,
            max_length=config.max_length,
            beam_size=config.captions,
            num_results=config.captions,
        )
        self._prompt_ids = model.prompt_ids(config.prompt)
        self.mean_reward = 0.0
        """Of the last batch."""

    def terms(self, step: int, part: int) -> Mapping[str, Tensor]:
        """`scst_loss`."""
        batch, model = self.batch_here(step, part), self.trained
        image_BND = image_tokens(model, batch.pixels)
        texts = [self._ended(one) for some in self._write(image_BND) for one in some]
        advantages_S = self._advantages(batch.keys, texts).to(image_BND.device)
        likelihoods_S = self._mean_log_likelihoods(image_BND, texts)
        return {"scst_loss": -(advantages_S * likelihoods_S).mean()}

    def _write(self, image_BND: Tensor) -> list[tuple[Caption, ...]]:
        model = self.trained
        seeds = torch.randint(2**31, (len(image_BND),)).tolist()  # from torch's generator, as all of a step
        prompts = [self._config.prompt] * len(image_BND)
        # Written as it is served: the decoder's own layout of its weights is not for autocast.
        with evaluating(model), torch.autocast(image_BND.device.type, enabled=False):
            model.text_decoder.drop_packed()  # the optimizer has changed the weights since
            tokens_BND = image_BND.detach().to(model.dtype)
            return model.caption(tokens_BND, self._generation, prompts=prompts, seeds=seeds)

    def _ended(self, caption: Caption) -> list[int]:
        # The reference's beams may go on behind their end; what is there is not part of the caption.
        ids = list(caption.hypothesis.ids)
        eos_id = self.trained.text_decoder.eos_id
        return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids

    def _advantages(self, keys: Sequence[str], texts: Sequence[Sequence[int]]) -> Tensor:
        each = self._config.captions
        repeated = [key for key in keys for _ in range(each)]
        rewards = self._reward(repeated, [self.trained.tokenizer.decode(ids) for ids in texts])
        rewards_Br = torch.tensor(list(rewards), dtype=torch.float32).view(-1, each)
        self.mean_reward = rewards_Br.mean().item()
        return (rewards_Br - rewards_Br.mean(1, keepdim=True)).flatten()

    def _mean_log_likelihoods(self, image_BND: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
        """(S,), per token that was generated; differentiable."""
        decoder = self.trained.text_decoder
        ids_SL, lengths_S = pad_right(texts)
        longest = ids_SL.shape[1]
        lengths_S = torch.full((len(texts),), longest) if lengths_S is None else lengths_S
        mask_SL = torch.arange(longest) < lengths_S[:, None]
        ids_SL, mask_SL = ids_SL.to(image_BND.device), mask_SL.to(image_BND.device)
        memory_SND = image_BND.repeat_interleave(self._config.captions, 0)
        logits_SLV = decoder(ids_SL, memory_SND, mask_BL=mask_SL)
        given = len(self._prompt_ids) - 1
        # Masked by length, not by the id of padding: a text may hold any id.
        losses_SL = token_losses(logits_SLV, ids_SL, pad_id=-1)
        counted_SL = mask_SL[:, 1:] & (torch.arange(longest - 1, device=mask_SL.device) >= given)
        return -losses_SL.where(counted_SL, 0).sum(1) / counted_SL.sum(1)
