"""The demo's third part: ci poems to their tunes, second lines of couplets, a title, by the small text models."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from mplug import prompts
from mplug_services.cli.demo_answers import plain_table
from mplug_services.client import Client, GenerationOptions

TITLES_MODEL = "palm-mini"
"""Named in requests: the server's own text model is the one that writes poems."""
TUNES = ("浣溪沙", "如梦令", "菩萨蛮")
FIRST_LINES = ("春到江南花似锦", "一窗明月书声远", "山中无历日")
ABSTRACT = (
    "针对小型设备上图像检索速度慢的问题,提出一种基于向量量化的图像检索方法.该方法将图像编码为低维向量,用整数量化压缩索引."
    "实验结果表明,该方法在保持检索精度的同时,减少了内存占用和检索时间."
)
DRAWN = GenerationOptions(method="sample", seed=0)
"""Poems are drawn: the likeliest one says the same words over and over."""


def write_texts(client: Client, console: Console) -> None:
    """Has the server write, and prints it.

    Raises:
        ClientError: The server cannot.
    """
    poems = _written(client, [prompts.poem(tune=tune) for tune in TUNES], DRAWN)
    seconds = [second for first in FIRST_LINES for second in _second_line(client, first)]
    (title,) = _written(client, [prompts.summary(ABSTRACT)], model=TITLES_MODEL)
    table = plain_table("texts, by gpt3-poem-mini and palm-mini", "asked for", "given", "written")
    for tune, poem in zip(TUNES, poems, strict=True):
        table.add_row("a poem", tune, escape(poem), end_section=True)
    for first, second in zip(FIRST_LINES, seconds, strict=True):
        table.add_row("a couplet's second line", first, escape(second), end_section=True)
    table.add_row("a title", ABSTRACT, escape(title))
    console.print(table)


def _second_line(client: Client, first: str) -> list[str]:
    length = prompts.written_length("couplet", first=first)
    options = GenerationOptions(min_length=length, max_length=length)
    return _written(client, [prompts.couplet(first)], options, model=TITLES_MODEL)


def _written(
    client: Client, texts: Sequence[str], options: GenerationOptions | None = None, model: str = ""
) -> list[str]:
    return [each.text for each in client.generate(texts, options=options, model=model)]
