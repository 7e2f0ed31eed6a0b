"""Names of the reference checkpoints and ours, one to one.

`reference_names` lists every tensor that the encoders and the contrastive heads use. What else a checkpoint
holds is told apart by `is_unused`: known to another task or to training, or unknown.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from mplug.config import MplugConfig

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
BERT_EMBEDDINGS = (
    ("word_embeddings.weight", "word.weight"),
    ("position_embeddings.weight", "position.weight"),
    ("token_type_embeddings.weight", "token_type.weight"),
    ("LayerNorm.weight", "norm.weight"),
    ("LayerNorm.bias", "norm.bias"),
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
CONTRASTIVE_HEADS = (
    ("vision_proj.weight", "image_proj.weight"),
    ("vision_proj.bias", "image_proj.bias"),
    ("text_proj.weight", "text_proj.weight"),
    ("text_proj.bias", "text_proj.bias"),
    ("temp", "logit_scale"),
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

# Not used by the contrastive half: CLIP's projection and text tower, fusion, decoder, matching head, momentum
# queues, and a buffer that counts 0, 1, 2...
UNUSED = (
    "visual_encoder.visual.proj",
    "visual_encoder.transformer.",
    "visual_encoder.token_embedding.",
    "visual_encoder.positional_embedding",
    "visual_encoder.ln_final.",
    "visual_encoder.text_projection",
    "visual_encoder.logit_scale",
    "fusion_encoder.",
    "text_decoder.",
    "itm_head.",
    "image_queue",
    "text_queue",
    "idx_queue",
    "queue_ptr",
    "text_encoder.embeddings.position_ids",
)


def reference_names(config: MplugConfig, *, num_blocks: int) -> dict[str, str]:
    """Map every used tensor of a reference checkpoint to our name.

    Args:
        config: the model's shape; its backbone's library decides the tower's names.
        num_blocks: transformer blocks of the vision tower.
    """
    names = dict(_encoder_names(config, num_blocks))
    names.update(CONTRASTIVE_HEADS)
    return names


def is_unused(key: str) -> bool:
    """Whether a reference key is known to another task or to training only."""
    return key.split(".")[0].endswith("_m") or key.startswith(UNUSED)


def to_our_shape(our_name: str, tensor: Tensor) -> Tensor:
    """Timm keeps a batch dimension on the class token and the position table; CLIP does not."""
    if our_name == TOWER + "cls_token":
        return tensor.reshape(1, 1, -1)
    if our_name == TOWER + "pos_embed":
        return tensor[None]
    return tensor


def _encoder_names(config: MplugConfig, num_blocks: int) -> Iterator[tuple[str, str]]:
    yield from _tower_names(num_blocks, timm=config.image_encoder.backbone.startswith("timm:"))
    if config.image_encoder.adapter_width is not None:
        yield from ADAPTER
    for theirs, ours in BERT_EMBEDDINGS:
        yield f"text_encoder.embeddings.{theirs}", f"text_encoder.embeddings.{ours}"
    for layer in range(config.text_encoder.layers):
        for theirs, ours in BERT_LAYER:
            for kind in ("weight", "bias"):
                yield (
                    f"text_encoder.encoder.layer.{layer}.{theirs}.{kind}",
                    f"text_encoder.layers.{layer}.{ours}.{kind}",
                )


def _tower_names(num_blocks: int, *, timm: bool) -> Iterator[tuple[str, str]]:
    for clip, timms in CLIP_TOP:
        yield VISUAL + clip, TOWER + (timms if timm else clip)
    for block in range(num_blocks):
        theirs = f"transformer.resblocks.{block}."
        ours = f"blocks.{block}." if timm else theirs
        for clip, timms in CLIP_BLOCK:
            yield VISUAL + theirs + clip, TOWER + ours + (timms if timm else clip)
