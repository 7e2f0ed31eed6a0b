"""Tiny models of texts in folders, as users have them."""

from __future__ import annotations

from pathlib import Path

from golden.gpt3_cases import tiny_generator
from golden.structbert_cases import tiny, tiny_config
from mplug import gpt3, structbert
from mplug.structbert import Classifier, FaqAnswerer, Tagger, WordFiller
from services.text_servers import masked_vocab


def write_folders(folder: Path) -> dict[str, Path]:
    """A GPT-3, and a StructBERT for each of its tasks, by name."""
    gpt3.save(tiny_generator("plain", positions=2000, ffn=128), folder / "gpt3")
    structbert.save(tiny(Classifier, tiny_config(task="nli")), folder / "nli")
    structbert.save(tiny(FaqAnswerer, tiny_config(task="faq-question-answering", labels=())), folder / "faq")
    fills = tiny_config(task="fill-mask", labels=())
    structbert.save(tiny(WordFiller, fills, vocab=masked_vocab()), folder / "fill")
    tags = tiny_config(task="named-entity-recognition", labels=("O", "B-A", "I-A"))
    structbert.save(tiny(Tagger, tags), folder / "ner")
    return {path.name: path for path in folder.iterdir()}
