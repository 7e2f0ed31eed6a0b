"""Captions to words, as the metrics count them. Numbers made with different tokenisations cannot be compared."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from mplug.errors import MplugError

REMEDY = "pip install 'mplug-serve[train]'"
_JAR = "stanford-corenlp-3.4.1.jar"
_DROPPED = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;"
"""What the COCO caption server drops, as its tokenizer writes it (pycocoevalcap's `PUNCTUATIONS`)."""
_PUNCTUATION = frozenset(_DROPPED.split())
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_CHARACTER = re.compile(r"[a-z0-9]+|[^\W_]")


class Tokenization(StrEnum):
    """How captions became words."""

    PTB = "ptb"
    """Stanford's Penn Treebank tokenizer, lower case, without punctuation: what published numbers are made with."""
    SIMPLE = "simple"
    """Runs of letters and digits in lower case, with one apostrophe inside; needs no Java."""
    CHARACTERS = "characters"
    """For Chinese: every character a word; runs of Latin letters and digits stay whole, punctuation goes."""


def tokenization_for(language: str, *, java: bool) -> Tokenization:
    """What captions of a language are scored with.

    Args:
        language: `zh`, or any other that parts words by spaces.
        java: whether the Penn Treebank tokenizer can run.
    """
    if language == "zh":
        return Tokenization.CHARACTERS
    return Tokenization.PTB if java else Tokenization.SIMPLE


def has_java() -> bool:
    """Whether `java` is on the path."""
    return shutil.which("java") is not None


def tokenize(texts: Sequence[str], tokenization: Tokenization) -> list[list[str]]:
    """Words of each text, in order.

    Raises:
        MplugError: the Penn Treebank tokenizer is wanted, and is not installed or did not run.
    """
    match tokenization:
        case Tokenization.PTB:
            return _penn_treebank(texts)
        case Tokenization.SIMPLE:
            return [_WORD.findall(text.lower()) for text in texts]
        case Tokenization.CHARACTERS:
            return [_CHARACTER.findall(text.lower()) for text in texts]


def coco_metrics_folder() -> Path:
    """Where pycocoevalcap is installed.

    Raises:
        MplugError: it is not.
    """
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise MplugError(f"captions are scored by pycocoevalcap, which is not installed: {REMEDY}")
    return Path(next(iter(spec.submodule_search_locations)))


def _penn_treebank(texts: Sequence[str]) -> list[list[str]]:
    # Not the library's own wrapper: it writes into the folder of the package, and reads in the machine's encoding.
    command = ["java", "-cp", str(coco_metrics_folder() / "tokenizer" / _JAR)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    command += ["-encoding", "UTF-8"]
    # A text is a line, whatever it holds.
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    ran = subprocess.run(command, input=lines.encode(), capture_output=True, check=False)
    # Not splitlines(): a caption may hold U+2028 and its like.
    found = ran.stdout.decode(errors="replace").split("\n")[:-1]
    if ran.returncode != 0 or len(found) != len(texts):
        raise MplugError(
            f"the Penn Treebank tokenizer gave {len(found)} lines for {len(texts)} texts: "
            f"{ran.stderr.decode(errors='replace').strip()[-400:]}"
        )
    return [[word for word in line.split() if word not in _PUNCTUATION] for line in found]
