"""Golden cases of StructBERT and plug_mental as the folders that users have, and tiny models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from golden.drawn_weights import GOLDEN, drawn_weights
from golden.mplug_cases import small_vocab
from mplug.config import TextEncoderConfig
from mplug.structbert import StructBertConfig, StructBertModel
from mplug.text.tokenizer import WordPieceTokenizer

M = TypeVar("M", bound=StructBertModel)

TASK_OF = {"seq_cls": "text-classification", "token_cls": "token-classification", "fill_mask": "fill-mask"}
FAQ_CASES = (
    "faq_mgimn",
    "faq_protonet_cosine_avg",
    "faq_protonet_relation_attn",
    "faq_protonet_relation_avg",
)
VOCAB = 130
TAGS = ("O", "B-A", "E-A", "S-B", "I-A")


@dataclass(frozen=True)
class StructBertCase:
    """One run of the reference."""

    name: str
    family: str
    config: dict[str, Any]
    """`config.json`."""
    model: dict[str, Any]
    """The section `model` of `configuration.json`."""
    described: dict[str, Any]
    """Losses, or scores."""
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    @property
    def labels(self) -> dict[str, int]:
        return {f"label{number}": number for number in range(self.config["num_labels"])}

    @property
    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.io["input_ids"], self.io["attention_mask"], self.io["token_type_ids"]

    def write(self, folder: Path, weights: Mapping[str, Any] | None = None) -> Path:
        """Write the folder as the hub has it; `weights` replaces the plain state dict."""
        folder.mkdir(exist_ok=True)
        task = TASK_OF.get(self.name, "faq-question-answering")
        files: dict[str, Any] = {
            "config.json": self.config,
            "configuration.json": {
                "framework": "pytorch",
                "task": task,
                "preprocessor": {"type": "some-tokenizer"},
                "model": self.model,
            },
            "label_mapping.json": self.labels,
        }
        for name, values in files.items():
            (folder / name).write_text(json.dumps(values))
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in small_vocab(VOCAB)))
        torch.save(self.weights if weights is None else dict(weights), folder / "pytorch_model.bin")
        return folder


def read_structbert_case(name: str) -> StructBertCase:
    described = json.loads((GOLDEN / "structbert" / "structbert.json").read_text())
    faq = described["faq"].get(name, {})
    model = {"type": "structbert", **faq.get("model_config", {})}
    config = described["config"]
    if name.startswith("faq"):
        model["network"] = "mgimnnet" if name == "faq_mgimn" else "protonet"
        config = {**config, "num_hidden_layers": 1}  # of these cases, which the json does not say
    return StructBertCase(
        name=name,
        family="structbert",
        config=config,
        model=model,
        described=faq or described[name],
        weights=drawn_weights("structbert", name),
        io=load_file(GOLDEN / "structbert" / f"{name}.io.safetensors"),
    )


def read_plug_mental_case() -> StructBertCase:
    described = json.loads((GOLDEN / "plug_mental" / "seq_cls.json").read_text())
    return StructBertCase(
        name="seq_cls",
        family="plug_mental",
        config=described["config"],
        model={"type": "plug-mental"},
        described=described,
        weights=drawn_weights("plug_mental", "seq_cls"),
        io=load_file(GOLDEN / "plug_mental" / "seq_cls.io.safetensors"),
    )


def tiny_config(**changes: Any) -> StructBertConfig:
    encoder = TextEncoderConfig(vocab_size=VOCAB, hidden=32, layers=2, heads=4, ffn=48, positions=40)
    values = {"name": "tiny", "encoder": encoder, "labels": ("yes", "maybe", "no"), "max_length": 24}
    return StructBertConfig(**{**values, **changes})


def tiny(
    kind: type[M], config: StructBertConfig | None = None, *, seed: int = 0, vocab: list[str] | None = None
) -> M:
    """Build a tiny model; the same seed and configuration give the same weights."""
    config = config or tiny_config()
    tokenizer = WordPieceTokenizer(vocab or small_vocab(VOCAB), max_length=config.max_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config, tokenizer)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and not name.endswith("length"):
                    parameter.normal_(0, 0.3)
    return model.eval()
