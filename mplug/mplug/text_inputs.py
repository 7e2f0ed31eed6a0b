"""What callers of text pipelines may give, in the forms that ModelScope takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mplug.errors import MplugError
from mplug.text_classifier import Question

if TYPE_CHECKING:
    from mplug.text.pairs import Text  # it imports the tokenizers

TEXT_KEYS = ("text", "sentence", "src_txt")
PAIR_KEYS = (("text", "text2"), ("sentence1", "sentence2"), ("premise", "hypothesis"))
"""ModelScope's preprocessors are told their keys by each model; these are those of its published ones."""


# Any, here and below: whatever a caller gives.
def read_text(item: Any) -> str:
    """One text: itself, or a dict that has it under one of `TEXT_KEYS`.

    Raises:
        MplugError: something else.
    """
    if isinstance(item, Mapping):
        key = next((key for key in TEXT_KEYS if key in item), None)
        if key is None:
            raise MplugError(f"a dict has {_or(TEXT_KEYS)}; this one has {sorted(map(str, item))}")
        item = item[key]
    if not isinstance(item, str):
        raise MplugError(f"the input is {item!r}; give a text, a dict with one, or a list of these")
    return item


def read_judged(item: Any, *, pairs: bool) -> Text:
    """A text or a pair: a text, a tuple of two, or a dict with the keys of `PAIR_KEYS`.

    Args:
        item: what a caller gave.
        pairs: whether the task judges pairs alone.

    Raises:
        MplugError: something else, or a single text where a pair must be.
    """
    found = _pair(item)
    if found is not None:
        return found
    if pairs:
        keys = " or ".join(f"{one!r} and {other!r}" for one, other in PAIR_KEYS)
        raise MplugError(
            f"the input is {item!r}, and this task judges pairs; give (text, text), or a dict with {keys}"
        )
    return read_text(item)


def read_faq(item: Any) -> tuple[list[str], list[Question]]:
    """New questions and known ones: `{"query_set": [...], "support_set": [{"text": ..., "label": ...}]}`.

    Raises:
        MplugError: something else.
    """
    if not isinstance(item, Mapping) or not {"query_set", "support_set"} <= item.keys():
        raise MplugError(
            f"the input is {item!r}; give {{'query_set': [text], 'support_set': [{{'text', 'label'}}]}}"
        )
    queries, support = item["query_set"], item["support_set"]
    queries = [queries] if isinstance(queries, str) else queries
    if not isinstance(queries, list | tuple) or not all(isinstance(query, str) for query in queries):
        raise MplugError(f"query_set is {queries!r}; give a text, or a list of texts")
    if not isinstance(support, list | tuple):
        raise MplugError(f"support_set is {support!r}; give a list of {{'text', 'label'}}")
    return list(queries), [_question(known, index) for index, known in enumerate(support)]


def _pair(item: Any) -> tuple[str, str] | None:
    parts: tuple[Any, ...] = ()
    if isinstance(item, tuple):
        parts = item
    elif isinstance(item, Mapping):
        keys = next((keys for keys in PAIR_KEYS if set(keys) <= item.keys()), ())
        parts = tuple(item[key] for key in keys)
    if not parts and not isinstance(item, tuple):
        return None
    if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise MplugError(f"the input is {item!r}; a pair is two texts")
    return parts[0], parts[1]


def _question(known: Any, index: int) -> Question:
    if not isinstance(known, Mapping) or not isinstance(known.get("text"), str) or "label" not in known:
        raise MplugError(
            f"support_set[{index}] is {known!r}; give {{'text': a question, 'label': its answer's name}}"
        )
    return Question(known["text"], str(known["label"]))


def _or(keys: tuple[str, ...]) -> str:
    return " or ".join(map(repr, keys))
