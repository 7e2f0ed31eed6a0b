"""The settings of the sizes that mPLUG was published in.

Sources: configs/*.yaml, configs/config_bert.json and configs/config_bert_stride3.json of X-PLUG/mPLUG; ModelScope's
MPlugConfig. The picture's side is that of fine-tuning (pre-training: 256 and 224).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mplug.checkpoints.settings import ReferenceSettings

BERT: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "encoder_width": 768,
    "text_encoder_layers": 6,
    "num_hidden_layers": 12,
    "fusion_layers": 6,
    "text_decode_layers": 12,
}

PUBLISHED: Mapping[str, ReferenceSettings] = {
    "mplug-base": ReferenceSettings(
        where=Path("mplug-base"),
        yaml={
            "clip_name": "ViT-B-16",
            "clip_vision_layers": 12,
            "clip_vision_width": 768,
            "clip_vision_patch_size": 16,
            "vision_width": 768,
            "image_res": 384,
            "embed_dim": 256,
        },
        bert={**BERT, "stride_layer": 3},
    ),
    "mplug-large": ReferenceSettings(
        where=Path("mplug-large"),
        yaml={"clip_name": "ViT-L-14", "vision_width": 1024, "image_res": 336, "embed_dim": 256},
        bert={**BERT, "stride_layer": 6},
    ),
}
"""By name; the Chinese models have the same shape and another vocabulary."""
