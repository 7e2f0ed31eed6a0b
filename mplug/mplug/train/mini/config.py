"""What a stage of mplug-mini is made of, and the stages as recipes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from mplug.train.config import DataConfig, LoopConfig, OptimizerConfig

PROMPT_ZH = "图中"
"""What Chinese captions begin with ("in the picture"), and whoever wants one prompts with; English ones need none."""


def _views() -> DataConfig:
    # Crops of drawings teach little, and the tower needs 25 ms for a view.
    return DataConfig(crop_sets=("photo",), num_views=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeShape:
    """Sizes of the parts that a retrieval model lacks; widths, heads and vocabulary are its text encoder's."""

    fusion_layers: int = 2
    stride_layer: int = 1
    """An asymmetric layer, then a connected one, of which matching needs nothing but the row of [CLS]."""
    decoder_layers: int = 3
    dropout: float = 0.1
    max_length: int = 24
    """Most tokens of a caption or an answer, unless a call says otherwise."""
    beam_size: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StepConfig:
    """What one batch holds of each kind; 0 leaves a kind out."""

    pairs: int = 0
    """Pictures with a text each, for matching and masked words; a multiple of `neighbours`."""
    captioned: int = 0
    """Pictures that captions are learnt of."""
    questions: int = 0
    rewarded: int = 0
    """Pictures that captions are written of and rewarded."""
    neighbours: int = 8
    """`pairs` come in groups of so many pictures that look alike: hard negatives of one another."""
    strangers: float = 0.25
    """Share of batches whose groups are mixed: who has only seen look-alikes knows nothing of other pictures."""
    masked: int = 8
    """Pictures of the `pairs` whose texts' masked words are restored, too."""
    english: float = 0.6
    """Share of `pairs` and `rewarded` batches that are in English; the others are in Chinese."""
    captions_en: int = 5
    """English captions of each of the `captioned`; a picture that has fewer shows some twice."""
    captions_zh: int = 2
    beams: int = 5
    """Captions that each of the `rewarded` is given: the reference's beams, their mean reward is the baseline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureConfig:
    """How much of `dev` an evaluation looks at."""

    queries: int = 250
    """Captions in each language that pictures are ranked for."""
    candidates: int = 32
    """First hits of the contrastive half that are ranked anew."""
    captions: int = 250
    """Pictures that a caption is written of, in each language."""
    questions: int = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeStageConfig(LoopConfig):
    """One stage of mplug-mini's other half."""

    start: str = "mplug-mini"
    """A folder, or the name of a shipped model: what the stage before left."""
    shape: WholeShape = field(default_factory=WholeShape)
    """Of the parts that the start lacks."""
    data: DataConfig = field(default_factory=_views)
    question_repeats: tuple[tuple[str, int], ...] = (("photo", 2), ("nlvr", 4))
    """How often an epoch shows the questions about a set; once where it is not named."""
    batch: StepConfig
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    fusion_lr: float = 0.0
    """Of the fusion encoder and its head; 0: they stand still."""
    decoder_lr: float = 0.0
    """Of the decoder; in a stage that writes nothing, of its output head alone, which masked words train."""
    label_smoothing: float = 0.1
    answer_weight: float = 1.0
    pair_weight: float = 1.0
    token_dropout: float = 0.0
    """Of the image_tokens that are learnt from, number by number: the tower has seen these pictures and knows them too
    well, what it says of unseen ones is less clear."""
    masked_weight: float = 0.1
    """Of masked words beside matching: with the paper's equal weights their far larger gradient keeps a small fusion
    encoder from learning to match at all."""
    goal: str
    """The metric of `dev` that the best model has most of."""
    evaluation_steps: int
    """Steps between evaluations, which the trainer calls an epoch."""


def matching() -> WholeStageConfig:
    """(b): fusion encoder and matching head, on the retrieval half's folder."""
    return WholeStageConfig(
        batch=StepConfig(pairs=32),
        token_dropout=0.3,
        fusion_lr=4e-4,
        decoder_lr=5e-4,
        goal="reranked_r1",
        epochs=6,
        evaluation_steps=300,
        optimizer=OptimizerConfig(weight_decay=0.05, warmup_steps=50),
    )


def writing() -> WholeStageConfig:
    """(c): captions and answers, on (b)'s folder."""
    return WholeStageConfig(
        start="runs/mini-matching/output_best",
        data=dataclasses.replace(_views(), set_repeats=(("photo", 5),)),
        batch=StepConfig(captioned=24, questions=48, pairs=16, masked=0, captions_zh=1),
        token_dropout=0.15,
        fusion_lr=2e-4,
        decoder_lr=6e-4,
        goal="writing",
        epochs=4,
        evaluation_steps=350,
        optimizer=OptimizerConfig(weight_decay=0.05, warmup_steps=50),
    )


def rewarding() -> WholeStageConfig:
    """(d): CIDEr, on (c)'s folder; its result is what ships."""
    return WholeStageConfig(
        start="runs/mini-writing/output_best",
        batch=StepConfig(rewarded=32, questions=48, pairs=8, masked=0),
        fusion_lr=2e-5,
        decoder_lr=5e-5,
        goal="writing",
        epochs=4,
        evaluation_steps=240,
        optimizer=OptimizerConfig(weight_decay=0.0, warmup_steps=20),
    )
