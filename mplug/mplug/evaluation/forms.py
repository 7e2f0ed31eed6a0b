"""Whether poems have the form that was asked for: lengths of lines, couplets, and what is new in them.

A line is what stands between two marks of punctuation or line breaks, as it is read aloud: a pause within a line of a
printed poem parts it in two.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mplug.errors import MplugError

Form = tuple[int, ...]
"""Characters of each line."""

LEAST_POEMS = 5
"""A tune of fewer known poems has no form that could be relied on."""
LEAST_SHARE = 0.1
"""A form that this share of a tune's poems have is one of the tune's: many are known in several."""

_MARKS = re.compile(r"[，。、？！；：,.?!;:\s]+")


def lines_of(text: str) -> list[str]:
    """The lines of a poem, without punctuation."""
    return [line for line in _MARKS.split(text) if line]


def form_of(text: str) -> Form:
    """Characters of each line."""
    return tuple(map(len, lines_of(text)))


def forms_by_tune(
    poems: Iterable[tuple[str, str]], *, least_poems: int = LEAST_POEMS, least_share: float = LEAST_SHARE
) -> dict[str, frozenset[Form]]:
    """The forms of each tune: its commonest, and every other that is not rare.

    Args:
        poems: tune and text.
        least_poems: tunes of fewer are left out.
        least_share: of a tune's poems.
    """
    counts: dict[str, Counter[Form]] = defaultdict(Counter)
    for tune, text in poems:
        counts[tune][form_of(text)] += 1
    forms = {}
    for tune, found in counts.items():
        total = found.total()
        if total >= least_poems:
            common = {form for form, count in found.items() if count >= least_share * total}
            forms[tune] = frozenset(common | {found.most_common(1)[0][0]})
    return forms


def form_rate(poems: Sequence[tuple[str, str]], forms: Mapping[str, Collection[Form]]) -> float:
    """Share of poems that have a form of their tune, in percent.

    Args:
        poems: tune and text; tunes that `forms` lacks do not count.
        forms: of each tune.

    Raises:
        MplugError: there is no poem of a known tune.
    """
    known = [(tune, text) for tune, text in poems if tune in forms]
    return _percent([form_of(text) in forms[tune] for tune, text in known], "poems of a known tune")


def metre_rate(texts: Sequence[str], length: int) -> float:
    """Share of texts of at least two lines, all of so many characters, in percent.

    Raises:
        MplugError: there are no texts.
    """
    forms = [form_of(text) for text in texts]
    return _percent([len(form) > 1 and set(form) == {length} for form in forms], "texts")


def metre_line_rate(texts: Sequence[str], length: int) -> float:
    """Share of all texts' lines that have so many characters, in percent.

    Raises:
        MplugError: there are no lines.
    """
    return _percent([each == length for text in texts for each in form_of(text)], "lines")


@dataclass(frozen=True, slots=True)
class CoupletScores:
    """How second lines go with first ones, in percent."""

    same_length: float
    """Of the same form: as many characters, the pauses at the same places."""
    not_copied: float
    """Not the first line over again."""
    good: float
    """Both."""
    shares_characters: float
    """With a character of the first line at the same place; people avoid it, but for particles."""

    def metrics(self) -> dict[str, float]:
        """By name."""
        return {f"couplet_{name}": getattr(self, name) for name in self.__slots__}


def score_couplets(firsts: Sequence[str], seconds: Sequence[str]) -> CoupletScores:
    """Look at second lines beside their first ones.

    Raises:
        MplugError: there are none, or more of one than of the other.
    """
    if len(firsts) != len(seconds):
        raise MplugError(f"{len(firsts)} first lines have {len(seconds)} second ones; give one for each")
    pairs = [(lines_of(first), lines_of(second)) for first, second in zip(firsts, seconds, strict=True)]
    same = [form_of(first) == form_of(second) for first, second in zip(firsts, seconds, strict=True)]
    new = [first != second for first, second in pairs]
    shared = [
        any(a == b for a, b in zip("".join(first), "".join(second), strict=False)) for first, second in pairs
    ]
    return CoupletScores(
        _percent(same, "couplets"),
        _percent(new, "couplets"),
        _percent([a and b for a, b in zip(same, new, strict=True)], "couplets"),
        _percent(shared, "couplets"),
    )


def copied_line_rate(texts: Sequence[str], known: Collection[str], *, least: int = 5) -> float:
    """Share of lines of at least `least` characters that are among known ones, in percent.

    Raises:
        MplugError: there are no such lines.
    """
    lines = [line for text in texts for line in lines_of(text) if len(line) >= least]
    return _percent([line in known for line in lines], f"lines of {least} characters")


def distinct_rate(texts: Sequence[str], order: int) -> float:
    """Share of different ones among all runs of `order` characters within lines, in percent.

    Distinct-n (Li et al. 2016, "A diversity-promoting objective function", section 5).

    Raises:
        MplugError: there is no such run.
    """
    runs = [
        line[at : at + order]
        for text in texts
        for line in lines_of(text)
        for at in range(len(line) - order + 1)
    ]
    if not runs:
        raise MplugError(f"there are no runs of {order} characters to count; give at least one text")
    return 100 * len(set(runs)) / len(runs)


def _percent(found: Sequence[bool], what: str) -> float:
    if not found:
        raise MplugError(f"there are no {what} to count; give at least one")
    return 100 * sum(found) / len(found)
