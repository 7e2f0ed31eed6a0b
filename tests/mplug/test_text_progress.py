"""How often a growing text is told of."""

from __future__ import annotations

import pytest

from golden.gpt3_cases import tiny_generator
from mplug.text_writing import TextWriter, Update, WriteRequest

GENERATOR = tiny_generator("plain")


def told(pause: float, stop: tuple[str, ...] = ()) -> tuple[list[str], Update]:
    """All that is told of a text of twelve tokens, and its end."""
    config = GENERATOR.generation_config(method="greedy", min_length=12, max_length=12)
    writer = TextWriter(GENERATOR)
    prompt = GENERATOR.read("piece5")
    updates = writer.admit({0: WriteRequest(prompt, config, stop=stop, progress=True, pause=pause)})
    while writer.live:
        updates += writer.step()
    return [update.text for update in updates if update.text is not None], updates[-1]


def test_a_pause_leaves_out_what_comes_in_it_and_nothing_of_the_end() -> None:
    each, whole = told(0.0)
    few, same = told(60.0)
    assert len(each) > 5
    assert few == each[:1]
    assert same == whole


@pytest.mark.parametrize("pause", [0.0, 60.0])
def test_stop_strings_are_found_at_once_in_spite_of_it(pause: float) -> None:
    _, whole = told(0.0)
    assert whole.finished is not None
    word = whole.finished[0].text.split()[4]
    _, stopped = told(pause, (word,))
    assert stopped.finished is not None
    assert stopped.finished[0].finish_reason == "stop"
    assert len(stopped.finished[0].token_ids) < len(whole.finished[0].token_ids)
