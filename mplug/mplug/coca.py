"""open_clip's CoCa models as captioners: its modules and weights, our engine's decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import open_clip
import torch
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn

from mplug.captioning import Captioner
from mplug.checkpoints.report import LoadReport
from mplug.coca_decoder import CocaDecoder
from mplug.config import GenerationDefaults
from mplug.errors import CheckpointError
from mplug.fingerprint import fingerprint
from mplug.image_encoder import normalise
from mplug.open_clip_model import OpenClipConfig, OpenClipTokenizer, create


@dataclass(frozen=True, kw_only=True, slots=True)
class CocaGeneration(GenerationDefaults):
    """How open_clip's `CoCa.generate` makes texts, unless a call says otherwise.

    Its `min_seq_len` is 5 and its `seq_len` 30, the start counted; of its 6 beams each of 3 groups has 2 (see
    `mplug.generation.open_clip_beam`).
    """

    min_length: int = 4
    max_length: int = 29
    beam_size: int = 2

    def settings(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `GenerationConfig`, as of the base class; mPLUG's rules bring their own beams and penalty."""
        settings = GenerationDefaults.settings(self, changes)
        if settings.setdefault("rules", "open_clip") == "open_clip":
            settings.setdefault("length_penalty", 1.0)
        elif "beam_size" not in changes:
            del settings["beam_size"]
        return settings


@dataclass(frozen=True, kw_only=True, slots=True)
class CocaConfig(OpenClipConfig):
    """What there is to say of a CoCa model beside its modules."""

    generation: GenerationDefaults = CocaGeneration()


def load(source: str, *, device: torch.device, dtype: torch.dtype) -> CocaModel:
    """Build `open_clip:coca_NAME` or `open_clip:coca_NAME:PRETRAINED` to caption.

    Raises:
        CheckpointError: as in `mplug.open_clip_model.create`, or it is no CoCa, or of a kind that decoding cannot read.
    """
    settings = open_clip.get_model_config(source.split(":")[1])
    if settings is not None and "multimodal_cfg" not in settings:
        raise CheckpointError(f"{source} is no CoCa, and writes no captions; open_clip's coca_* models do")
    made = create(source)
    _check(made.name, made.clip)
    if made.is_random:  # open_clip leaves this matrix as the memory was
        projection = made.clip.text_decoder.text_projection
        nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    config = CocaConfig(name=made.name, preprocess=made.preprocess)
    tokenizer = CocaTokenizer(made.tokenize, made.context_length)
    return CocaModel(config, made.clip, tokenizer).to(device=device, dtype=dtype)


class CocaTokenizer(OpenClipTokenizer):
    """The BPE tokenizer of CoCa's texts, with the way back.

    Args:
        tokenize: open_clip's `SimpleTokenizer`.
        max_length: the model's context length.
    """

    def __init__(self, tokenize: Any, max_length: int) -> None:
        super().__init__(tokenize, max_length)
        self.bos_id: int = tokenize.sot_token_id
        self.eos_id: int = tokenize.eot_token_id

    def decode(self, ids: Sequence[int]) -> str:
        """Ids back to text; special tokens and what is beyond the vocabulary are left out."""
        pieces = [number for number in ids if number < self._tokenize.vocab_size]
        special = {self.bos_id, self.eos_id}
        text: str = self._tokenize.decode([number for number in pieces if number not in special])
        return text.strip()


class CocaModel(Captioner):
    """Vision tower and text half of an open_clip CoCa.

    Args:
        config: its name and settings.
        clip: open_clip's `CoCa`, of a kind that `load` takes; its modules are taken, not copied.
        tokenizer: of its texts.
    """

    tokenizer: CocaTokenizer
    text_decoder: CocaDecoder

    # Any: open_clip has no types.
    def __init__(self, config: CocaConfig, clip: Any, tokenizer: CocaTokenizer) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self.image_encoder = clip.visual
        self.text_decoder = CocaDecoder(
            clip.text, clip.text_decoder, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
        )
        own = ("visual.", "text.", "text_decoder.")
        keys = sorted(clip.state_dict())
        self.report = LoadReport(
            loaded=tuple(key for key in keys if key.startswith(own)),
            unused=tuple(key for key in keys if not key.startswith(own)),
        )

    def encode_image(self, pixels_B3RR: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) -> image_tokens (B, N, D)."""
        image = normalise(pixels_B3RR, self.preprocess.mean, self.preprocess.std).to(self.dtype)
        image_BND: Tensor
        _, image_BND = self.image_encoder(image)
        return image_BND

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hex, of what its captions depend on."""
        text = {"tokenizer": f"open_clip:{self.name}", "max_length": self.tokenizer.max_length}
        return fingerprint(
            self.state_dict(), self.preprocess, text, {"open_clip": self.name.partition(":")[0]}
        )


def _check(name: str, clip: Any) -> None:
    """Refuse what decoding would read otherwise than open_clip does. Any: open_clip has no types."""
    text, multimodal = clip.text, clip.text_decoder
    if not isinstance(text, TextTransformer) or text.cls_emb is None:
        raise CheckpointError(f"open_clip:{name} has no text tower with a class token; captions need one")
    if not (text.output_tokens and clip.visual.output_tokens):
        raise CheckpointError(f"open_clip:{name} has a tower without output_tokens; captions need both")
    blocks = [*text.transformer.resblocks, *multimodal.resblocks, *multimodal.cross_attn]
    if text.attn_mask is None or any(type(block) is not ResidualAttentionBlock for block in blocks):
        raise CheckpointError(
            f"open_clip:{name} has a text tower whose attention is not the ordinary causal one"
        )
    if {block.attn.num_heads for block in blocks} != {text.heads}:
        raise CheckpointError(f"open_clip:{name} has text towers with unequal numbers of heads")
