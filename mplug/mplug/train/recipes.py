"""Recipes by name: a function that returns a whole configuration, and the experiment that it is for.

Derive a configuration from another, change fields, return it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import mplug
from mplug.config import ImageEncoderConfig, MplugConfig, TextEncoderConfig
from mplug.errors import MplugError
from mplug.preprocess import PreprocessConfig
from mplug.train.config import InitialWeights, LoopConfig, MiniRetrievalConfig
from mplug.train.experiments.recipes import (
    CaptionConfig,
    PretrainConfig,
    RetrievalConfig,
    ScstConfig,
    VqaConfig,
    finetune_captioning,
    finetune_captioning_scst,
    finetune_retrieval,
    finetune_vqa,
    pretrain,
)
from mplug.train.mini import config as mini
from mplug.train.readers.parts import Data, single_folder
from mplug.train.text import config as text

if TYPE_CHECKING:
    from mplug.train.experiment import Experiment
    from mplug.train.mini.config import WholeStageConfig
    from mplug.train.text.config import MiniTextConfig, TextRunConfig

ConfigT = TypeVar("ConfigT", bound=LoopConfig)

MINI_VOCABULARY = Path(mplug.__file__).parent / "weights" / "mplug-mini" / "vocab.txt"

MINI_LICENCE = "Research use: weights trained on research-only photos (Flickr8k); code Apache-2.0."


def mplug_mini() -> MiniRetrievalConfig:
    """mplug-mini's retrieval half: EfficientNet-Lite0 and MiniLM's six layers, English and Chinese."""
    num_pieces = len(MINI_VOCABULARY.read_text(encoding="utf-8").splitlines())
    return MiniRetrievalConfig(
        name="mplug-mini",
        model=MplugConfig(
            name="mplug-mini",
            licence=MINI_LICENCE,
            # Lite0 as ImageNet trained it: 1280 channels on a 7x7 map at 224 px.
            image_encoder=ImageEncoderConfig(
                backbone="timm:tf_efficientnet_lite0", width=1280, adapter_width=384
            ),
            text_encoder=TextEncoderConfig(
                vocab_size=num_pieces,
                hidden=384,
                layers=6,
                heads=12,
                ffn=1536,
                positions=128,
                mean_pooling=True,
                dropout=0.0,
            ),
            preprocess=PreprocessConfig(
                image_size=224, mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502)
            ),
            max_text_tokens=64,
        ),
        initial=InitialWeights(vocabulary=str(MINI_VOCABULARY)),
    )


def _mini_retrieval(config: MiniRetrievalConfig, data: Data) -> Experiment:
    from mplug.train.experiments.mini_retrieval import MiniRetrieval

    return MiniRetrieval(config, single_folder(data))


def _mini_stage(config: WholeStageConfig, data: Data) -> Experiment:
    from mplug.train.mini.experiment import open_stage

    return open_stage(config, single_folder(data))


def _captioning(config: CaptionConfig, data: Data) -> Experiment:
    from mplug.train.experiments.finetuning import captioning

    return captioning(config, data)


def _rewarded_captioning(config: ScstConfig, data: Data) -> Experiment:
    from mplug.train.experiments.finetuning import rewarded_captioning

    return rewarded_captioning(config, data)


def _answering(config: VqaConfig, data: Data) -> Experiment:
    from mplug.train.experiments.finetuning import answering

    return answering(config, data)


def _retrieval(config: RetrievalConfig, data: Data) -> Experiment:
    from mplug.train.experiments.finetuning import retrieval

    return retrieval(config, data)


def _pretraining(config: PretrainConfig, data: Data) -> Experiment:
    from mplug.train.experiments.pretraining_on_rows import pretraining

    return pretraining(config, data)


def _texts(config: TextRunConfig, data: Data) -> Experiment:
    from mplug.train.text.finetuning import finetuning

    return finetuning(config, data)


def _poem_mini(config: MiniTextConfig, data: Data) -> Experiment:
    from mplug.train.text.minis import poem_mini

    return poem_mini(config, single_folder(data))


def _palm_mini(config: MiniTextConfig, data: Data) -> Experiment:
    from mplug.train.text.minis import palm_mini

    return palm_mini(config, single_folder(data))


@dataclass(frozen=True, slots=True)
class Recipe(Generic[ConfigT]):
    """What `mplug train NAME` runs."""

    config: Callable[[], ConfigT]
    experiment: Callable[[ConfigT, Data], Experiment]
    """Makes the experiment of a configuration and its data; this imports torch, the rest here does not."""


RECIPES: dict[str, Recipe[Any]] = {
    "mplug-mini": Recipe(mplug_mini, _mini_retrieval),
    "mplug-mini-matching": Recipe(mini.matching, _mini_stage),
    "mplug-mini-writing": Recipe(mini.writing, _mini_stage),
    "mplug-mini-rewarding": Recipe(mini.rewarding, _mini_stage),
    "finetune-captioning": Recipe(finetune_captioning, _captioning),
    "finetune-captioning-scst": Recipe(finetune_captioning_scst, _rewarded_captioning),
    "finetune-retrieval": Recipe(finetune_retrieval, _retrieval),
    "finetune-vqa": Recipe(finetune_vqa, _answering),
    "pretrain": Recipe(pretrain, _pretraining),
    "finetune-text": Recipe(text.finetune_text, _texts),
    "gpt3-poem-mini-base": Recipe(text.poem_mini_base, _poem_mini),
    "gpt3-poem-mini": Recipe(text.poem_mini, _poem_mini),
    "palm-mini-base": Recipe(text.palm_mini_base, _palm_mini),
    "palm-mini": Recipe(text.palm_mini, _palm_mini),
}


def recipe(name: str) -> Recipe[Any]:
    """A recipe.

    Raises:
        MplugError: No such recipe; the existing ones are listed.
    """
    if name not in RECIPES:
        raise MplugError(f"No recipe {name!r}; there are {', '.join(sorted(RECIPES))}.")
    return RECIPES[name]
