"""Names of the reference checkpoints and ours, one to one.

`ReferenceNames` knows every tensor that some task uses by both names, and says of every other tensor of a
reference checkpoint why no task uses it. What it knows nothing of is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

from mplug.config import FusionEncoderConfig, MplugConfig

# Parts of one BERT layer: reference, ours.
BERT_LAYER = (
    ("attention.self.query", "attention.query"),
    ("attention.self.key", "attention.key"),
    ("attention.self.value", "attention.value"),
    ("attention.output.dense", "attention.output"),
    ("attention.output.LayerNorm", "attention_norm"),
    ("intermediate.dense", "feed_forward.expand"),
    ("output.dense", "feed_forward.contract"),
    ("output.LayerNorm", "feed_forward_norm"),
)
CROSS_ATTENTION = (
    ("crossattention.self.query", "cross_attention.query"),
    ("crossattention.self.key", "cross_attention.key"),
    ("crossattention.self.value", "cross_attention.value"),
    ("crossattention.output.dense", "cross_attention.output"),
    ("crossattention.output.LayerNorm", "cross_attention_norm"),
)
BERT_EMBEDDINGS = (
    ("word_embeddings.weight", "word.weight"),
    ("position_embeddings.weight", "position.weight"),
    ("token_type_embeddings.weight", "token_type.weight"),
    ("LayerNorm.weight", "norm.weight"),
    ("LayerNorm.bias", "norm.bias"),
)
DECODER_HEAD = (
    ("transform.dense.weight", "dense.weight"),
    ("transform.dense.bias", "dense.bias"),
    ("transform.LayerNorm.weight", "norm.weight"),
    ("transform.LayerNorm.bias", "norm.bias"),
    ("bias", "bias"),
)
# A CLIP ViT: OpenAI's and open_clip's name, timm's.
CLIP_TOP = (
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1.weight", "patch_embed.proj.weight"),
    ("ln_pre.weight", "norm_pre.weight"),
    ("ln_pre.bias", "norm_pre.bias"),
    ("ln_post.weight", "norm.weight"),
    ("ln_post.bias", "norm.bias"),
)
CLIP_BLOCK = (
    ("ln_1.weight", "norm1.weight"),
    ("ln_1.bias", "norm1.bias"),
    ("attn.in_proj_weight", "attn.qkv.weight"),
    ("attn.in_proj_bias", "attn.qkv.bias"),
    ("attn.out_proj.weight", "attn.proj.weight"),
    ("attn.out_proj.bias", "attn.proj.bias"),
    ("ln_2.weight", "norm2.weight"),
    ("ln_2.bias", "norm2.bias"),
    ("mlp.c_fc.weight", "mlp.fc1.weight"),
    ("mlp.c_fc.bias", "mlp.fc1.bias"),
    ("mlp.c_proj.weight", "mlp.fc2.weight"),
    ("mlp.c_proj.bias", "mlp.fc2.bias"),
)
HEADS = (
    ("vision_proj.weight", "image_proj.weight"),
    ("vision_proj.bias", "image_proj.bias"),
    ("text_proj.weight", "text_proj.weight"),
    ("text_proj.bias", "text_proj.bias"),
    ("temp", "logit_scale"),
    ("itm_head.weight", "itm_head.weight"),
    ("itm_head.bias", "itm_head.bias"),
)
ADAPTER = (
    ("visn_fc.weight", "image_encoder.adapter.linear.weight"),
    ("visn_fc.bias", "image_encoder.adapter.linear.bias"),
    ("visn_layer_norm.weight", "image_encoder.adapter.norm.weight"),
    ("visn_layer_norm.bias", "image_encoder.adapter.norm.bias"),
)
VISUAL = "visual_encoder.visual."
TOWER = "image_encoder.backbone.tower."
POSITIONAL_EMBEDDING = VISUAL + "positional_embedding"

# One tensor under two names: the one that we read, the other.
TIED = (
    (
        "text_decoder.bert.embeddings.word_embeddings.weight",
        "text_decoder.cls.predictions.decoder.weight",
    ),
    ("text_decoder.cls.predictions.bias", "text_decoder.cls.predictions.decoder.bias"),
)

CLIP_REST = "CLIP's text tower and projection, which mPLUG never runs"
COUNTER = "a buffer that counts 0, 1, 2..."
QUEUE = "features of earlier training batches"
TWIN = "momentum twin, for training only"
DEAD_LAYER = "fusion layer before the first that runs"
DEAD_CROSS_ATTENTION = "cross-attention of a connected layer, which attends to the joined sequence instead"
SECOND_COPY = "second copy of a tied tensor"
NOT_DESCRIBED = "a part that the settings do not describe"

UNUSED = (
    ("visual_encoder.visual.proj", CLIP_REST),
    ("visual_encoder.transformer.", CLIP_REST),
    ("visual_encoder.token_embedding.", CLIP_REST),
    ("visual_encoder.positional_embedding", CLIP_REST),
    ("visual_encoder.ln_final.", CLIP_REST),
    ("visual_encoder.text_projection", CLIP_REST),
    ("visual_encoder.logit_scale", CLIP_REST),
    ("image_queue", QUEUE),
    ("text_queue", QUEUE),
    ("idx_queue", QUEUE),
    ("queue_ptr", QUEUE),
    ("text_encoder.embeddings.position_ids", COUNTER),
    ("text_decoder.bert.embeddings.position_ids", COUNTER),
    *((second, SECOND_COPY) for _, second in TIED),
)
FUSION_LAYER = re.compile(r"fusion_encoder\.encoder\.layer\.(\d+)\.(.+)\.(?:weight|bias)")
FUSION_PARTS = {theirs for theirs, _ in (*BERT_LAYER, *CROSS_ATTENTION)}


class ReferenceNames:
    """The names of one checkpoint.

    Args:
        config: the model's shape; its backbone's library decides the tower's names.
        num_blocks: transformer blocks of the vision tower.
        first_fusion_layer: number, in the checkpoint, of the first fusion layer that runs.
    """

    def __init__(self, config: MplugConfig, *, num_blocks: int, first_fusion_layer: int) -> None:
        self.used = dict(_used(config, num_blocks, first_fusion_layer))
        """Every tensor that some task uses: the reference's name to ours."""
        self._fusion = config.fusion_encoder
        self._has_decoder = config.text_decoder is not None
        self._first_fusion_layer = first_fusion_layer

    def why_unused(self, key: str) -> str | None:
        """Why no task uses a tensor; None = some task does, or nothing is known of the name."""
        if key in self.used:
            return None
        twin_of = _without_twin_mark(key)
        if twin_of is not None:
            return TWIN if twin_of in self.used or self.why_unused(twin_of) else None
        for prefix, reason in UNUSED:
            if key.startswith(prefix):
                return reason
        if key.startswith("text_decoder.") and not self._has_decoder:
            return NOT_DESCRIBED
        if key.startswith("fusion_encoder."):
            return NOT_DESCRIBED if self._fusion is None else self._why_fusion_unused(key)
        return None

    def _why_fusion_unused(self, key: str) -> str | None:
        match = FUSION_LAYER.fullmatch(key)
        if match is None or match[2] not in FUSION_PARTS:
            return None
        number = int(match[1]) - self._first_fusion_layer
        if number < 0:
            return DEAD_LAYER
        connected = self._fusion is not None and number in self._fusion.connected_layers
        return DEAD_CROSS_ATTENTION if connected and match[2].startswith("crossattention.") else None


def to_our_shape(our_name: str, tensor: Tensor) -> Tensor:
    """Timm keeps a batch dimension on the class token and the position table; CLIP does not."""
    if our_name == TOWER + "cls_token":
        return tensor.reshape(1, 1, -1)
    if our_name == TOWER + "pos_embed":
        return tensor[None]
    return tensor


def _without_twin_mark(key: str) -> str | None:
    first, dot, rest = key.partition(".")
    return first.removesuffix("_m") + dot + rest if first.endswith("_m") else None


def _used(config: MplugConfig, num_blocks: int, first_fusion_layer: int) -> Iterator[tuple[str, str]]:
    yield from _tower_names(num_blocks, timm=config.image_encoder.backbone.startswith("timm:"))
    if config.image_encoder.adapter_width is not None:
        yield from ADAPTER
    for theirs, ours in BERT_EMBEDDINGS:
        yield f"text_encoder.embeddings.{theirs}", f"text_encoder.embeddings.{ours}"
    for number in range(config.text_encoder.layers):
        yield from _layer_names(
            f"text_encoder.encoder.layer.{number}.", f"text_encoder.layers.{number}.", BERT_LAYER
        )
    if config.fusion_encoder is not None:
        yield from _fusion_names(config.fusion_encoder, first_fusion_layer)
    if config.text_decoder is not None:
        yield from _decoder_names(config.text_decoder.layers)
    yield from HEADS


def _fusion_names(config: FusionEncoderConfig, first: int) -> Iterator[tuple[str, str]]:
    for number in range(config.layers):
        yield from _layer_names(
            f"fusion_encoder.encoder.layer.{first + number}.",
            f"fusion_encoder.layers.{number}.",
            BERT_LAYER if number in config.connected_layers else (*BERT_LAYER, *CROSS_ATTENTION),
        )


def _decoder_names(num_layers: int) -> Iterator[tuple[str, str]]:
    for theirs, ours in BERT_EMBEDDINGS:
        yield f"text_decoder.bert.embeddings.{theirs}", f"text_decoder.embeddings.{ours}"
    for number in range(num_layers):
        yield from _layer_names(
            f"text_decoder.bert.encoder.layer.{number}.",
            f"text_decoder.layers.{number}.",
            (*BERT_LAYER, *CROSS_ATTENTION),
        )
    for theirs, ours in DECODER_HEAD:
        yield f"text_decoder.cls.predictions.{theirs}", f"text_decoder.head.{ours}"


def _layer_names(theirs: str, ours: str, parts: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, str]]:
    for their_part, our_part in parts:
        for kind in ("weight", "bias"):
            yield f"{theirs}{their_part}.{kind}", f"{ours}{our_part}.{kind}"


def _tower_names(num_blocks: int, *, timm: bool) -> Iterator[tuple[str, str]]:
    for clip, timms in CLIP_TOP:
        yield VISUAL + clip, TOWER + (timms if timm else clip)
    for block in range(num_blocks):
        theirs = f"transformer.resblocks.{block}."
        ours = f"blocks.{block}." if timm else theirs
        for clip, timms in CLIP_BLOCK:
            yield VISUAL + theirs + clip, TOWER + ours + (timms if timm else clip)
