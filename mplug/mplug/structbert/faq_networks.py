"""Known questions and new ones to scores of labels: ProtoNet (Snell et al. 2017) and MGIMN (Ye et al. 2022).

Dimensions as in `faq_layers`. A network reads the known questions once (`remember`) and scores new ones against what
it keeps of them; the numbers are those of the reference, which reads them again at each call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.structbert.config import FaqConfig
from mplug.structbert.faq_layers import MeanPooling, WeightNormLinear, attend, compared, make_pooling

TRAINING_SCALE = 5
"""ProtoNet's cosines are multiplied by this in training, so that the loss can become small."""


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """The mean of each label's sentences (C, D)."""

    vectors_CD: Tensor


class ProtoNet(nn.Module):
    """Compares a question with the mean of each label's known questions."""

    QUERIES = 32
    """New questions that are scored at once."""

    def __init__(self, config: FaqConfig, width: int) -> None:
        super().__init__()
        self.pooling = make_pooling(config.pooling, width)
        self.relation = Relation(width) if config.metric == "relation" else None

    def embed(self, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Sentences' vectors (B, D)."""
        vectors_BD: Tensor = self.pooling(states_BLD, mask_BL)
        return vectors_BD

    def remember(self, states_SMD: Tensor, mask_SM: Tensor, labels_S: Tensor) -> Prototypes:
        """Read the known questions.

        Args:
            states_SMD: the encoder's.
            mask_SM: bool, True = a real token.
            labels_S: int64, numbers from 0 on, each there at least once.
        """
        labels_SC = F.one_hot(labels_S).to(states_SMD.dtype)
        counts_C = labels_SC.sum(dim=0) + 1e-5
        return Prototypes(labels_SC.T @ self.embed(states_SMD, mask_SM) / counts_C[:, None])

    def forward(self, states_QLD: Tensor, mask_QL: Tensor, known: Prototypes) -> Tensor:
        """Logits (Q, C) of new questions."""
        query_Q1D = self.embed(states_QLD, mask_QL)[:, None]
        if self.relation is not None:
            logits_QC: Tensor = self.relation(query_Q1D, known.vectors_CD[None])
            return logits_QC
        cosine_QC = F.cosine_similarity(query_Q1D, known.vectors_CD[None], dim=-1)
        return cosine_QC * TRAINING_SCALE if self.training else cosine_QC

    def scores(self, logits_QC: Tensor) -> Tensor:
        """Between 0 and 1; cosines stay as they are, between -1 and 1."""
        return logits_QC if self.relation is None else logits_QC.sigmoid()


class Relation(nn.Module):
    """A learned comparison of two vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = WeightNormLinear(4 * width, 4 * width)
        self.output = WeightNormLinear(4 * width, 1)

    def forward(self, query_Q1D: Tensor, known_1CD: Tensor) -> Tensor:
        """(Q, 1, D) and (1, C, D) -> logits (Q, C)."""
        query_QCD = query_Q1D.expand(-1, known_1CD.shape[1], -1)
        known_QCD = known_1CD.expand(query_Q1D.shape[0], -1, -1)
        distance = (known_QCD - query_QCD).abs()
        features = torch.cat([query_QCD, known_QCD, distance, query_QCD * known_QCD], dim=-1)
        logits_QC: Tensor = self.output(F.relu(self.hidden(features))).squeeze(-1)
        return logits_QC


@dataclass(frozen=True, slots=True, eq=False)
class KnownStates:
    """Every token of the known questions, and what it finds in its label's questions and in all."""

    states_SMD: Tensor
    mask_SM: Tensor
    num_labels: int
    of_label_SMD: Tensor
    of_all_SMD: Tensor | None


class MgimNet(nn.Module):
    """Lets a question's tokens and those of each known question look at each other.

    Three ways, of which the first and the last can be left out: question by question, label by label, and all known
    questions at once. The last takes memory that grows with the square of the known questions: 100 MB for a hundred
    of fifty tokens.
    """

    QUERIES = 1
    """New questions that are scored at once: every pair of a new and a known one takes as much memory as a text."""

    def __init__(self, config: FaqConfig, width: int) -> None:
        super().__init__()
        self.by_question = config.instance_level
        self.by_all = config.episode_level
        views = 1 + config.instance_level + config.episode_level
        self.fuse = WeightNormLinear(width * (1 + 3 * views), width)
        self.pooling = make_pooling(config.pooling, width)
        self.mean = MeanPooling()
        self.compare = WeightNormLinear(4 * width, width)
        self.hidden = WeightNormLinear(2 * width, width)
        self.output = WeightNormLinear(width, 1)

    def embed(self, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Sentences' vectors (B, D): the mean, whatever the pooling."""
        vectors_BD: Tensor = self.mean(states_BLD, mask_BL)
        return vectors_BD

    def remember(self, states_SMD: Tensor, mask_SM: Tensor, labels_S: Tensor) -> KnownStates:
        """Read the known questions.

        Args:
            states_SMD: the encoder's.
            mask_SM: bool, True = a real token.
            labels_S: int64, J zeros, then J ones...
        """
        num_labels = int(labels_S.max()) + 1
        label_CND, mask_CN = _by_label(states_SMD, num_labels), _by_label(mask_SM, num_labels)
        of_label_CND = attend(label_CND, label_CND, mask_CN)
        of_all_SMD = attend(states_SMD, states_SMD.flatten(0, 1), mask_SM.flatten()) if self.by_all else None
        return KnownStates(states_SMD, mask_SM, num_labels, of_label_CND.view(states_SMD.shape), of_all_SMD)

    def forward(self, states_QLD: Tensor, mask_QL: Tensor, known: KnownStates) -> Tensor:
        """Logits (Q, C) of new questions."""
        num_known, num_labels = len(known.states_SMD), known.num_labels
        query, mask = states_QLD[:, None], mask_QL[:, None]
        by_label = self._query_by_label(query, known).repeat_interleave(num_known // num_labels, dim=1)
        queries, knowns = [by_label], [known.of_label_SMD]
        if self.by_question:
            queries.append(attend(query, known.states_SMD, known.mask_SM))
            knowns.append(attend(known.states_SMD, query, mask))
        if known.of_all_SMD is not None:
            all_states, all_mask = known.states_SMD.flatten(0, 1), known.mask_SM.flatten()
            queries.append(attend(states_QLD, all_states, all_mask)[:, None])
            knowns.append(known.of_all_SMD)
        query_QSD = self.pooling(self._fused(query, queries), mask)
        known_QSD = self.pooling(self._fused(known.states_SMD, knowns), known.mask_SM)
        return self._match(query_QSD, known_QSD, num_labels)

    def scores(self, logits_QC: Tensor) -> Tensor:
        """Between 0 and 1."""
        return logits_QC.sigmoid()

    def _query_by_label(self, query: Tensor, known: KnownStates) -> Tensor:
        label_CND = _by_label(known.states_SMD, known.num_labels)
        return attend(query, label_CND, _by_label(known.mask_SM, known.num_labels))

    def _fused(self, states: Tensor, views: list[Tensor]) -> Tensor:
        parts = [states]
        for view in views:
            parts += [view, view * states, (view - states).abs()]
        # Only some views differ from pair to pair of a new and a known question.
        widest = max(views, key=lambda view: (view.ndim, view.numel()))
        return F.relu(self.fuse(torch.cat([part.expand_as(widest) for part in parts], dim=-1)))

    def _match(self, query_QSD: Tensor, known_QSD: Tensor, num_labels: int) -> Tensor:
        matched_QSD = F.relu(self.compare(compared(query_QSD, known_QSD.expand_as(query_QSD))))
        matched_QCJD = matched_QSD.view(len(query_QSD), num_labels, -1, matched_QSD.shape[-1])
        both = torch.cat([matched_QCJD.mean(dim=2), matched_QCJD.amax(dim=2)], dim=-1)
        logits_QC: Tensor = self.output(F.relu(self.hidden(both))).squeeze(-1)
        return logits_QC


def _by_label(x_SM: Tensor, num_labels: int) -> Tensor:
    """The tokens of each label's questions in a row: (S, M, ...) -> (C, J * M, ...)."""
    return x_SM.reshape(num_labels, -1, *x_SM.shape[2:])
