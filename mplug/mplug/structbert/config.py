"""The shape of a StructBERT model, whatever its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mplug.config import TextEncoderConfig
from mplug.errors import ConfigError

Network = Literal["protonet", "mgimnnet"]
Metric = Literal["cosine", "relation"]
Pooling = Literal["avg", "attn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialConfig:
    """The smoothness term of fine-tuning; see `mplug.structbert.adversarial`."""

    factor: float | None = 5e-5
    """Step along the gradient (`adv_grad_factor`); None = no such term."""
    sigma: float = 5e-6
    """Standard deviation of the noise on word embeddings."""
    bound: float = 1e-5
    """The largest step in any coordinate (`adv_bound`, by default twice sigma)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """plug_mental's adapters; the defaults but `states` are constants of the reference's code."""

    states: tuple[int, ...] = (11,)
    """Which states each adapter reads (`adapter_list`): 0 = the embeddings, n = those behind layer n."""
    hidden: int = 768
    """Width inside."""
    layers: int = 1
    """Layers of each adapter (`adapter_transformer_layers`)."""
    heads: int = 12
    """Attention heads."""
    ffn: int = 3072
    """Inner width of the feed-forward block."""
    eps: float = 1e-5
    """Epsilon of LayerNorm."""
    dropout: float = 0.1
    """In training only."""

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ConfigError(f"adapters are {self.hidden} wide, which {self.heads} heads do not divide")


@dataclass(frozen=True, kw_only=True, slots=True)
class FaqConfig:
    """How an FAQ model compares questions."""

    network: Network = "protonet"
    """Prototypes of labels, or multi-grained interactive matching (Ye et al. 2022)."""
    metric: Metric = "cosine"
    """How ProtoNet compares a question with a prototype."""
    pooling: Pooling = "avg"
    """How states become a sentence's vector: their mean, or weighted by attention."""
    instance_level: bool = True
    """MGIMN compares with each known question alone."""
    episode_level: bool = True
    """MGIMN compares with all known questions at once."""
    balanced: bool = False
    """Labels with fewer questions get their first one again until all have the same number (`pad_support`); MGIMN
    cannot do without, whatever is said here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StructBertConfig:
    """A StructBERT or plug_mental model."""

    name: str
    encoder: TextEncoderConfig
    labels: tuple[str, ...] = ()
    """Of the classifying heads, in the order of their outputs."""
    max_length: int = 512
    """Longest text or pair in tokens, special tokens included."""
    lower_case: bool = True
    """Whether the vocabulary is in lower case, without accents."""
    prefix: str = "bert"
    """What the encoder is called in the checkpoint (`base_model_prefix`)."""
    task: str = ""
    """ModelScope's name of the task that the checkpoint was made for; empty where unknown."""
    adversarial: AdversarialConfig = AdversarialConfig()
    adapters: AdapterConfig | None = None
    """plug_mental's; None = StructBERT."""
    faq: FaqConfig = FaqConfig()

    def __post_init__(self) -> None:
        if not 4 <= self.max_length <= self.encoder.positions:
            raise ConfigError(
                f"max_length is {self.max_length}; it must lie between 4 and the encoder's "
                f"{self.encoder.positions} positions"
            )
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ConfigError(f"labels {', '.join(twice)} are there twice")
        for state in self.adapters.states if self.adapters else ():
            if not 0 <= state <= self.encoder.layers:
                raise ConfigError(
                    f"adapter_list names state {state}; this encoder of {self.encoder.layers} layers has the "
                    f"states 0 to {self.encoder.layers}"
                )
