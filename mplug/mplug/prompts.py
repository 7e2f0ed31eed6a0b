"""Prompts in Chinese, as the models were trained to read them: for poems, couplets, stories, code, answers and more.

    mplug.prompt("code", language="Python", function="快速排序")
    mplug.few_shot([("今天真好", "正面"), ("太糟了", "负面")], "还不错", instruction="判断情感。")

GPT-3 and PLUG continue a text: their prompts end where the answer is to begin. ModelScope's trainer of GPT-3 ends its
sources with a line break, so prompts that give an order do, too. PALM's published models are fine-tuned, each for one
use, and read the bare source: so do summaries and adverts here, unless `instructed`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mplug.errors import MplugError

COMMA = "，"
SEPARATOR = "\n\n"
"""Between the examples of a few-shot prompt; a good stop string."""
INPUT, OUTPUT = "输入：", "输出："


def poem(opening: str = "", *, title: str = "", tune: str = "") -> str:
    """A poem by its first line, such as `床前明月光，`, which ModelScope's poetry model goes on from.

    Args:
        opening: the first line, or its beginning.
        title: such as `静夜思`.
        tune: of a ci, such as `浣溪沙`; it stands before the title, as in collections.

    Raises:
        MplugError: nothing of all this.
    """
    head = f"{tune}《{title}》" if title else tune
    if not head and not opening:
        raise MplugError("a poem begins with something: give opening, title or tune")
    return f"{head}\n{opening}" if head else opening


def couplet(first: str) -> str:
    """The second line of a couplet, to a first one."""
    return f"上联：{first}\n下联："


def continuation(text: str) -> str:
    """What comes next in a story or an essay: models that continue texts need no more than the text."""
    return text


def code(function: str, *, language: str = "Python") -> str:
    """A function in a programming language.

    Args:
        function: what it does, such as `快速排序`.
        language: such as `Python` or `C++`.
    """
    return f"用{language}语言编写一个函数，实现{function}\n"


def qa(question: str, *, context: str = "") -> str:
    """An answer to a question, from a text where one is given."""
    asked = f"问题：{question}\n回答："
    return f"{context}\n{asked}" if context else asked


def recipe(dish: str) -> str:
    """How to cook a dish."""
    return f"请写出{dish}的做法\n"


def summary(document: str, *, instructed: bool = False) -> str:
    """A document in a few words.

    Args:
        document: the text.
        instructed: say what is wanted; not for PALM's models of summaries, which read the document alone.
    """
    return f"{document}\n请写出以上内容的摘要\n" if instructed else document


def advert(keywords: Sequence[str], *, instructed: bool = False) -> str:
    """A text that sells something, from its qualities.

    Args:
        keywords: the thing, and what speaks for it, such as `["垃圾桶", "双层", "可拆卸"]`.
        instructed: say what is wanted; not for PALM's model of commodities, which reads the words alone.

    Raises:
        MplugError: no keywords, or one text in place of several.
    """
    if isinstance(keywords, str) or not keywords:
        raise MplugError(f"keywords are {keywords!r}; give a list of words")
    listed = COMMA.join(keywords)
    return f"请根据关键词写一段商品文案：{listed}\n" if instructed else listed


PROMPTS: Mapping[str, Callable[..., str]] = {
    "poem": poem,
    "couplet": couplet,
    "continuation": continuation,
    "code": code,
    "qa": qa,
    "recipe": recipe,
    "summary": summary,
    "advert": advert,
}
"""By name; their parameters are the slots."""


def slots(name: str) -> dict[str, bool]:
    """The slots of a prompt, and whether each must be given.

    Raises:
        MplugError: an unknown name.
    """
    if name not in PROMPTS:
        raise MplugError(f"prompt is {name!r}; known are {', '.join(PROMPTS)}")
    parameters = inspect.signature(PROMPTS[name]).parameters
    return {slot: each.default is inspect.Parameter.empty for slot, each in parameters.items()}


# Any: each slot has a type of its own.
def prompt(name: str, **values: Any) -> str:
    """A prompt by its name.

    Args:
        name: one of `PROMPTS`.
        values: its slots, see the function of that name.

    Raises:
        MplugError: an unknown name or slot, one that is missing, or a value that the prompt refuses.
    """
    known = slots(name)
    unknown = [slot for slot in values if slot not in known]
    missing = [slot for slot, needed in known.items() if needed and slot not in values]
    if unknown or missing:
        wrong = [f"does not know {slot}" for slot in unknown] + [f"lacks {slot}" for slot in missing]
        raise MplugError(f"the prompt {name!r} {', '.join(wrong)}; its slots are {', '.join(known)}")
    return PROMPTS[name](**values)


# Any: as of `prompt`.
def written_length(name: str, **values: Any) -> int | None:
    """How long the form asks a text to be, for `min_length` and `max_length`; None: it asks for nothing.

    A couplet's second line has as many characters as the first, marks included, and models of Chinese write a token for
    each. Left to themselves small models miss it by a character or two.

    Args:
        name: of a prompt.
        values: its slots.
    """
    first = values.get("first")
    return len(first) if name == "couplet" and isinstance(first, str) else None


def few_shot(
    examples: Sequence[tuple[str, str]],
    query: str,
    *,
    instruction: str = "",
    marks: tuple[str, str] = (INPUT, OUTPUT),
    budget: int | None = None,
    count: Callable[[str], int] | None = None,
) -> str:
    """A prompt that shows by examples what is wanted (Brown et al. 2020).

    Args:
        examples: inputs with their outputs; the last stands next to the query.
        query: the input whose output is wanted.
        instruction: stands in front of everything.
        marks: what stands before an input, and before an output.
        budget: most tokens of the prompt; the first examples are left out until it fits.
        count: the tokens of a text, none cut off, such as `lambda text: len(tokenizer.pieces([text])[0].ids)`.

    Raises:
        MplugError: only one of `budget` and `count`, or a prompt without examples that is over the budget.
    """
    before, after = marks
    shown = [f"{before}{source}\n{after}{target}" for source, target in examples]
    head = [instruction] if instruction else []
    asked = f"{before}{query}\n{after}"
    if budget is None and count is None:
        return SEPARATOR.join([*head, *shown, asked])
    if budget is None or count is None:
        raise MplugError(
            "budget and count go together; give how many tokens there may be, and what counts them"
        )
    for first in range(len(shown) + 1):
        found = SEPARATOR.join([*head, *shown[first:], asked])
        if count(found) <= budget:
            return found
    least = count(SEPARATOR.join([*head, asked]))
    raise MplugError(
        f"the prompt has {least} tokens without any example, and budget is {budget}; shorten the query"
    )
