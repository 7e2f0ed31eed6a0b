"""Models of several tasks, to be trained together; `mplug.load` takes each task's half out of what they save."""

from __future__ import annotations

from mplug.config import MplugConfig
from mplug.reranking import RerankModel
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_decoder import TextDecoder
from mplug.vqa import VqaModel


class MatchingModel(RetrievalModel, RerankModel):
    """Both encoders with the joint space, fusion encoder and matching head: retrieval and reranking."""


class WholeModel(MatchingModel, VqaModel):
    """Every module, for every task."""

    config: MplugConfig
    tokenizer: WordPieceTokenizer
    text_decoder: TextDecoder
