"""mPLUG's published recipes: functions that return a whole configuration. Needs no torch before one is called.

Numbers are those of X-PLUG/mPLUG's configurations for the base model, for retrieval those of the large one, which alone
was published. A batch is a part of a step: with `accumulate`, over several processes or not, a step holds so many.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mplug.config import (
    FusionEncoderConfig,
    ImageEncoderConfig,
    MplugConfig,
    TextDecoderConfig,
    TextEncoderConfig,
)
from mplug.preprocess import PreprocessConfig
from mplug.train.config import LoopConfig, OptimizerConfig
from mplug.train.experiments.settings import (
    CaptionObjective,
    LearningRates,
    PretrainingObjective,
    RetrievalObjective,
    ScstObjective,
)

if TYPE_CHECKING:
    from mplug.train.augment import AugmentConfig

BERT_PIECES = 30522
"""bert-base-uncased's vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MplugRunConfig(LoopConfig):
    """What all of mPLUG's recipes say."""

    image_size: int
    """Side R of pictures in pixels; tables of positions are resized to it."""
    batch_size: int
    learning_rates: LearningRates
    augment: AugmentConfig
    max_text_tokens: int = 25
    """Longest text in tokens, [CLS] and [SEP] included."""
    recomputed: tuple[str, ...] = ()
    """Modules whose layers are computed again in the backward pass (`recomputing.MODULES`): less memory, more time."""
    goal: str
    """Metric that the best checkpoint is chosen by; the highest is best."""
    start: str = ""
    """The model to start from: a folder, or a shipped model's name."""
    backbone: str = ""
    """Another vision tower, `timm:NAME` or `open_clip:NAME`, which begins at random; empty: the model's own."""
    dev: str = ""
    """Rows that the best checkpoint is chosen by, of any kind that data may have; empty: a part of the data."""
    num_dev_images: int = 500
    """Training pictures set aside for that, where the data publishes a split and none to choose by."""
    held_out_percent: int = 10
    """Share of the pictures set aside for that, where the data publishes no split."""
    threads: int = 4
    """That decode and augment pictures ahead of the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalConfig(MplugRunConfig):
    """Fine-tuning for retrieval and reranking."""

    objective: RetrievalObjective = field(default_factory=RetrievalObjective)
    rerank_top: int = 256
    """First hits that evaluation ranks anew (`k_test`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionConfig(MplugRunConfig):
    """Fine-tuning for captions by cross-entropy."""

    objective: CaptionObjective = field(default_factory=CaptionObjective)
    prompt: str = ""
    """What every caption begins with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScstConfig(MplugRunConfig):
    """Captions rewarded by CIDEr; `start` captions already."""

    objective: ScstObjective = field(default_factory=ScstObjective)


@dataclass(frozen=True, kw_only=True, slots=True)
class VqaConfig(MplugRunConfig):
    """Fine-tuning for questions."""

    choices_file: str = ""
    """Answers to choose from in evaluation, one a line; empty: answers are generated, as in the reference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(MplugRunConfig):
    """Pretraining; the model is made anew, unless there is a `start` to go on from."""

    model: MplugConfig
    """Its shape, where it is made anew."""
    shape: str = ""
    """A model's folder, or its `config.json`: the new model has the same shape; empty: that of `model`."""
    bert: str = ""
    """Folder of a BERT that text encoder, fusion and decoder start from, with its vocabulary; empty: at random."""
    vocabulary: str = ""
    """A `vocab.txt`; empty: the BERT's."""
    objective: PretrainingObjective = field(default_factory=PretrainingObjective)
    rerank_top: int = 256
    """First hits that evaluation ranks anew."""


def finetune_retrieval() -> RetrievalConfig:
    """Retrieval on COCO or Flickr30k: 8 epochs, best by the mean of all recalls."""
    from mplug.train.augment import AugmentConfig

    return RetrievalConfig(
        image_size=336,
        batch_size=128,
        epochs=8,
        learning_rates=LearningRates(vision_tower=2e-6, rest=1e-5),
        augment=AugmentConfig(),
        max_text_tokens=30,
        goal="r_mean",
    )


def finetune_captioning() -> CaptionConfig:
    """Captions on COCO by cross-entropy: 5 epochs."""
    from mplug.train.augment import AugmentConfig

    return CaptionConfig(
        image_size=384,
        batch_size=64,
        epochs=5,
        learning_rates=LearningRates(vision_tower=5e-6, rest=1e-5),
        augment=AugmentConfig(),
        goal="cider",
    )


def finetune_captioning_scst() -> ScstConfig:
    """Captions on COCO by CIDEr, from an early checkpoint of `finetune_captioning` (base: its third epoch)."""
    from mplug.train.augment import AugmentConfig

    return ScstConfig(
        image_size=384,
        batch_size=32,
        epochs=5,
        evaluate_every=1500,
        optimizer=OptimizerConfig(final_lr_share=0.08),  # 1e-6 to 8e-8
        learning_rates=LearningRates(vision_tower=1e-6, rest=1e-6),
        augment=AugmentConfig(),
        goal="cider",
    )


def finetune_vqa() -> VqaConfig:
    """Questions of VQA v2 and Visual Genome: 8 epochs, answers generated."""
    from mplug.train.augment import AugmentConfig

    return VqaConfig(
        image_size=384,
        batch_size=128,
        epochs=8,
        learning_rates=LearningRates(vision_tower=5e-6, rest=3e-5),
        augment=AugmentConfig(),
        goal="vqa",
    )


def pretrain() -> PretrainConfig:
    """All four objectives: 30 epochs of 14 million pictures, in the reference."""
    from mplug.train.augment import AugmentConfig

    return PretrainConfig(
        image_size=256,
        batch_size=256,
        epochs=30,
        # The warm-up's length is not in the published configurations; a thousand steps is ours.
        optimizer=OptimizerConfig(warmup_steps=1000, final_lr_share=0.01),  # 1e-4 to 1e-6
        learning_rates=LearningRates(vision_tower=1e-5, rest=1e-4),
        augment=AugmentConfig(min_crop=0.2),
        model=mplug_base(image_size=256),
        goal="r_mean",
    )


def mplug_base(*, image_size: int, num_pieces: int = BERT_PIECES) -> MplugConfig:
    """mPLUG-base: CLIP's ViT-B/16, six layers of text, six of fusion (the fourth connected), twelve of decoder."""
    width, inner, heads, dropout = 768, 3072, 12, 0.1
    return MplugConfig(
        name="mplug-base",
        image_encoder=ImageEncoderConfig(
            backbone="timm:vit_base_patch16_clip_quickgelu_224",
            backbone_options={"img_size": image_size},
            width=width,
        ),
        text_encoder=TextEncoderConfig(
            vocab_size=num_pieces, hidden=width, layers=6, heads=heads, ffn=inner, dropout=dropout
        ),
        fusion_encoder=FusionEncoderConfig(
            hidden=width,
            layers=6,
            stride_layer=3,
            heads=heads,
            ffn=inner,
            memory_width=width,
            dropout=dropout,
        ),
        text_decoder=TextDecoderConfig(
            vocab_size=num_pieces,
            hidden=width,
            layers=12,
            heads=heads,
            ffn=inner,
            memory_width=width,
            dropout=dropout,
        ),
        preprocess=PreprocessConfig(image_size=image_size),
    )
