"""Tiny text models of every family, in the folders that users have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from golden.gpt3_cases import tiny_generator
from golden.palm_cases import tiny_palm
from golden.plug_cases import tiny_plug
from golden.structbert_cases import TAGS, tiny, tiny_config
from mplug import gpt3, palm, plug, structbert
from mplug.plug import PlugClassifier
from mplug.structbert import Classifier, FaqAnswerer, StructBertModel, Tagger, WordFiller
from mplug.structbert.config import AdapterConfig, AdversarialConfig


def write_gpt3(folder: Path) -> None:
    gpt3.save(tiny_generator("plain", ffn=128), folder)


def write_palm(folder: Path) -> None:
    palm.save(tiny_palm(), folder)


def write_plug(folder: Path) -> None:
    plug.save(tiny_plug(), folder, ranks=2)


def write_plug_classifier(folder: Path) -> None:
    generator = tiny_plug(labels=("bad", "good"))
    classifier = PlugClassifier(generator.config, generator.tokenizer)
    classifier.encoder.load_state_dict(generator.encoder.state_dict())
    plug.save(classifier.eval(), folder, ranks=2)


def write_plug_mental(folder: Path) -> None:
    adapters = AdapterConfig(states=(0, 2), hidden=768, ffn=3072)
    config = tiny_config(adversarial=AdversarialConfig(factor=None), adapters=adapters)
    structbert.save(tiny(Classifier, config), folder)


def writer(kind: type[StructBertModel], task: str, labels: tuple[str, ...]) -> Callable[[Path], None]:
    """Writes a StructBERT that was made for a task."""

    def write(folder: Path) -> None:
        structbert.save(tiny(kind, tiny_config(task=task, labels=labels)), folder)

    return write


NLI = ("entailment", "neutral", "contradiction")

FOLDERS: Mapping[str, Callable[[Path], None]] = {
    "gpt3": write_gpt3,
    "palm": write_palm,
    "plug": write_plug,
    "plug classifier": write_plug_classifier,
    "plug_mental": write_plug_mental,
    "sentiment": writer(Classifier, "sentiment-classification", ("bad", "good")),
    "nli": writer(Classifier, "nli", NLI),
    "similarity": writer(Classifier, "sentence-similarity", ("0", "1")),
    "zero-shot": writer(Classifier, "zero-shot-classification", NLI),
    "names": writer(Tagger, "named-entity-recognition", TAGS),
    "words": writer(Tagger, "word-segmentation", ("B-cws", "I-cws", "E-cws", "S-cws")),
    "masks": writer(WordFiller, "fill-mask", ()),
    "faq": writer(FaqAnswerer, "faq-question-answering", ()),
}
"""By name, what writes it."""


def write_folder(name: str, place: Path) -> Path:
    """Write one of `FOLDERS` under a place."""
    FOLDERS[name](place / name)
    return place / name
