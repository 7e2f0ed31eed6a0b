"""mPLUG's fine-tuning objectives, as functions of what its modules give; the state they keep is explicit.

Dims beyond the legend in `mplug.layers`: A answers, Q entries of the queue.

    caption:   caption_loss(decoder(ids, image_tokens), ids)
    answers:   answer_loss(decoder(ids, spread(memory, counts)), ids, num_images=B)
    retrieval: queued_itc_loss(...) + itm_loss(head(fusion(pairs)))

The reference's in-place skip addition makes its own training wrong (see docs/decisions/0005); these give the values and
gradients of the same step with the addition out of place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NO_IDENTITY = -100
"""Identity of queue entries that were never written (the reference's filling)."""


def token_losses(
    logits_BLV: Tensor,
    ids_BL: Tensor,
    *,
    pad_id: int,
    given_B: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of every next token.

    Args:
        logits_BLV: the decoder's, teacher-forced on `ids_BL`.
        ids_BL: int64, [CLS] pieces [SEP] and then padding.
        pad_id: token id of padding.
        given_B: int64 (B,), pieces behind [CLS] that are a prompt, which nobody has to guess; None = none are.
        label_smoothing: share of the target that is spread over the whole vocabulary.

    Returns:
        float32 (B, L - 1): entry l is of token l + 1, 0 where that is padding or given.
    """
    targets = ids_BL[:, 1:]
    losses = F.cross_entropy(
        logits_BLV[:, :-1].flatten(0, 1).float(),
        targets.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.view_as(targets).masked_fill(~guessed(ids_BL, pad_id=pad_id, given_B=given_B), 0.0)


def guessed(ids_BL: Tensor, *, pad_id: int, given_B: Tensor | None = None) -> Tensor:
    """Bool (B, L - 1), which of `token_losses` count; arguments as there."""
    real = ids_BL[:, 1:] != pad_id
    if given_B is None:
        return real
    return real & (torch.arange(real.shape[1], device=real.device) >= given_B[:, None])


def caption_loss(
    logits_BLV: Tensor,
    ids_BL: Tensor,
    *,
    pad_id: int = 0,
    given_B: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean over all tokens of the batch that are to be guessed; arguments as in `token_losses`.

    The reference asks for no reduction and gets this one all the same.
    """
    count = guessed(ids_BL, pad_id=pad_id, given_B=given_B).sum()
    losses = token_losses(logits_BLV, ids_BL, pad_id=pad_id, given_B=given_B, label_smoothing=label_smoothing)
    return losses.sum() / count


def answer_loss(
    logits_ALV: Tensor,
    ids_AL: Tensor,
    *,
    num_images: int,
    weights_A: Tensor | None = None,
    pad_id: int = 0,
) -> Tensor:
    """Sum over the tokens of each answer, times its weight, summed and divided by the number of pictures.

    Args:
        logits_ALV: the decoder's, teacher-forced on `ids_AL`.
        ids_AL: the answers, those of one question together.
        num_images: B; questions may have several answers each.
        weights_A: float, how much each answer counts (VQA: the share of people who gave it); None = 1.
        pad_id: token id of padding.
    """
    loss_A = token_losses(logits_ALV, ids_AL, pad_id=pad_id).sum(1)
    if weights_A is not None:
        loss_A = loss_A * weights_A
    return loss_A.sum() / num_images


def spread(per_image: Tensor, answers_B: Tensor) -> Tensor:
    """Repeat each picture's row for each of its answers: (B, ...), int64 (B,) -> (A, ...)."""
    return per_image.repeat_interleave(answers_B, dim=0)


@dataclass(slots=True)
class FeatureQueue:
    """Embeddings of earlier batches, made by the momentum twins; the oldest are written over."""

    image_QE: Tensor
    text_QE: Tensor
    identity_Q: Tensor
    """int64: what each entry shows; `NO_IDENTITY` = nothing yet, so a negative of everything."""
    position: int = 0
    """Where the next entry goes."""

    @classmethod
    def random(cls, size: int, embed_dim: int, generator: torch.Generator | None = None) -> FeatureQueue:
        """Random unit vectors, as training starts with (mPLUG: 65536 of 256)."""
        image, text = (
            F.normalize(torch.randn(size, embed_dim, generator=generator), dim=-1) for _ in range(2)
        )
        return cls(image, text, torch.full((size,), NO_IDENTITY))

    @torch.no_grad()
    def push(self, image_BE: Tensor, text_BE: Tensor, identity_B: Tensor) -> None:
        """Write a batch over the oldest entries, round the end where it must.

        Raises:
            ValueError: the batch is larger than the queue.
        """
        size, count = len(self.identity_Q), len(identity_B)
        if count > size:
            raise ValueError(f"a batch of {count} does not fit a queue of {size}: make queue_size larger")
        places = (torch.arange(count, device=self.identity_Q.device) + self.position) % size
        self.image_QE[places] = image_BE.to(self.image_QE.dtype)
        self.text_QE[places] = text_BE.to(self.text_QE.dtype)
        self.identity_Q[places] = identity_B
        self.position = (self.position + count) % size


@dataclass(frozen=True, slots=True)
class JointBatch:
    """One batch in the joint space: L2-normalised embeddings (B, E), and what each row shows."""

    image_BE: Tensor
    text_BE: Tensor
    identity_B: Tensor


@dataclass(frozen=True, slots=True)
class ItcResult:
    """The contrastive loss, and the similarities within the batch, which hard negatives are drawn by."""

    loss: Tensor
    image_to_text_BB: Tensor
    text_to_image_BB: Tensor


def queued_itc_loss(
    batch: JointBatch, twin: JointBatch, queue: FeatureQueue, scale: Tensor, *, alpha: float = 0.4
) -> ItcResult:
    """Contrast each side with the twin's embeddings of the other, of this batch and of the queue.

    Args:
        batch: of the model, differentiable.
        twin: of the momentum twins, for the same rows.
        queue: not changed; push the twin's embeddings afterwards.
        scale: 1 / temperature.
        alpha: share of the target that is the twin's own distribution (ALBEF, and mPLUG's yaml: 0.4); 0 = none.

    Returns:
        The mean of both cross-entropies, and the similarities.
    """
    texts, images = torch.cat([twin.text_BE, queue.text_QE]), torch.cat([twin.image_BE, queue.image_QE])
    identity = torch.cat([batch.identity_B, queue.identity_Q])
    same = (batch.identity_B[:, None] == identity).to(batch.image_BE.dtype)
    target = same / same.sum(1, keepdim=True)
    image_to_text, text_to_image = scale * batch.image_BE @ texts.T, scale * batch.text_BE @ images.T
    with torch.no_grad():
        image_target = alpha * (scale * twin.image_BE @ texts.T).softmax(1) + (1 - alpha) * target
        text_target = alpha * (scale * twin.text_BE @ images.T).softmax(1) + (1 - alpha) * target
    loss = (
        _soft_cross_entropy(image_to_text, image_target) + _soft_cross_entropy(text_to_image, text_target)
    ) / 2
    count = len(batch.identity_B)
    return ItcResult(loss, image_to_text[:, :count].detach(), text_to_image[:, :count].detach())


def draw_negatives(
    similarity_BB: Tensor, identity_B: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """For each row a column that shows something else, the likelier the more similar it is.

    Args:
        similarity_BB: of `ItcResult`: rows are the anchors.
        identity_B: rows and columns of equal numbers are no negatives of each other.
        generator: of the same device.

    Returns:
        int64 (B,), column numbers.

    Raises:
        ValueError: a row has no negative in this batch.
    """
    same_BB = identity_B[:, None] == identity_B
    if bool(same_BB.all(1).any()):
        raise ValueError(
            "every row of the batch shows the same thing: a batch needs two different identities"
        )
    weights_BB = similarity_BB.float().masked_fill(same_BB, -torch.inf).softmax(1)
    return torch.multinomial(weights_BB, 1, generator=generator)[:, 0]


def matching_pairs(
    image_BND: Tensor, text_BLD: Tensor, mask_BL: Tensor, *, image_picks_B: Tensor, text_picks_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay out the pairs that the matching head learns from.

    Args:
        image_BND: image_tokens.
        text_BLD: states of the text encoder; row i belongs to row i of the pictures.
        mask_BL: bool, True = a real token.
        image_picks_B: for each text, the row of a picture that it does not fit.
        text_picks_B: for each picture, the row of a text that does not fit.

    Returns:
        (3B, N, D), (3B, L, D), (3B, L): the true pairs, each text with its wrong picture, each picture with its wrong
        text.
    """
    images = torch.cat([image_BND, image_BND[image_picks_B], image_BND])
    texts = torch.cat([text_BLD, text_BLD, text_BLD[text_picks_B]])
    masks = torch.cat([mask_BL, mask_BL, mask_BL[text_picks_B]])
    return images, texts, masks


def itm_loss(logits_P2: Tensor) -> Tensor:
    """Cross-entropy of the matching head on `matching_pairs`: the first third matches, the rest does not."""
    labels = torch.zeros(len(logits_P2), dtype=torch.int64, device=logits_P2.device)
    labels[: len(logits_P2) // 3] = 1
    return F.cross_entropy(logits_P2, labels)


@torch.no_grad()
def update_twin(twin: nn.Module, model: nn.Module, *, momentum: float = 0.995) -> None:
    """Move a momentum twin's parameters towards the model's: m * twin + (1 - m) * model (mPLUG: 0.995).

    Buffers, such as the statistics of batch norms, are copied.

    Args:
        twin: changed in place.
        model: has whatever the twin has, under the same names, and may have more.
        momentum: m.

    Raises:
        ValueError: the twin has parameters that the model lacks.
    """
    theirs = dict(model.named_parameters())
    ours = dict(twin.named_parameters())
    if not ours.keys() <= theirs.keys():
        raise ValueError(f"not twins, the model lacks {', '.join(sorted(ours.keys() - theirs.keys()))}")
    for name, parameter in ours.items():
        parameter.lerp_(theirs[name].to(parameter.dtype), 1 - momentum)
    buffers = dict(model.named_buffers())
    for name, buffer in twin.named_buffers():
        buffer.copy_(buffers[name])


def _soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()
