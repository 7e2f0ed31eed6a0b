"""The tasks of text models, and every name that ModelScope has for them; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

GenerationTask = Literal["text-generation", "gpt3-generation", "plug-generation"]
ClassificationTask = Literal[
    "text-classification",
    "nli",
    "sentence-similarity",
    "sentiment-classification",
    "sentiment-analysis",
]
ZeroShotTask = Literal["zero-shot-classification"]
TaggingTask = Literal[
    "token-classification", "word-segmentation", "part-of-speech", "named-entity-recognition"
]
FillingTask = Literal["fill-mask"]
FaqTask = Literal["faq-question-answering"]

_KINDS = (GenerationTask, ClassificationTask, ZeroShotTask, TaggingTask, FillingTask, FaqTask)

TEXT_TASKS: Mapping[str, str] = {name: get_args(kind)[0] for kind in _KINDS for name in get_args(kind)}
"""Every name, and ours: the first of its kind. Of ModelScope's there are those of tasks and of pipelines."""
PAIR_TASKS = ("nli", "sentence-similarity")
"""Names that say that two texts are judged together."""
