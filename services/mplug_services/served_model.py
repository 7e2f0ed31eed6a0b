"""What the services know of the loaded models: everything but their tensors."""

from __future__ import annotations

from dataclasses import dataclass

from mplug.decoder_facts import DecoderFacts
from mplug.text.tokenizer import Tokenizer
from mplug_services.text_work import Mode
from mplug_services.writer_facts import WriterFacts


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """A compiled form of cross-attention, and whether it runs where the models are."""

    name: str
    """As `kv`."""
    compiled: bool
    """It may run, where it was measured to be faster; otherwise plain torch does."""
    explanation: str
    """What runs and why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A loaded model as its callers see it; needs no torch."""

    name: str
    """The folder's name, or open_clip's."""
    task: str = "retrieval"
    """`retrieval`, `rerank`, `caption`, `vqa`, `text-generation`, `text-classification` or `fill-mask`."""
    fingerprint: str
    """sha256, in hex, of the tensors, tokenizer and preprocessing that make its answers."""
    vision_fingerprint: str = ""
    """The same of its vision tower alone; of the reranker, whose image tokens are kept."""
    embed_dim: int = 0
    """Width E of its vectors; 0 where it makes none."""
    device: str
    """As `cpu` or `cuda:0`."""
    dtype: str
    """As `float32`."""
    num_parameters: int
    licence: str
    image_size: int = 0
    """Side R of the square that pictures become, in pixels; 0 where it sees none."""
    tokenizer: Tokenizer
    decoder: DecoderFacts | None = None
    """Of models that make texts of pictures."""
    writer: WriterFacts | None = None
    """Of models that make texts of texts."""
    modes: tuple[type[Mode], ...] = ()
    """Ways in which it judges texts."""
    explained_layers: int = 0
    """Layers whose look at the picture can be explained; 0: none of it can."""
