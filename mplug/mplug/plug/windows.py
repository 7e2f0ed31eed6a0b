"""Texts by windows as pipelines want them: what `mplug.text_writing.write` is for texts of one window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mplug.errors import ConfigError
from mplug.generation import Finished
from mplug.plug.generator import PlugGenerator
from mplug.text_writing import WriteRequest, WrittenText, written_text


# Any: fields of GenerationConfig.
def write_windows(
    generator: PlugGenerator,
    texts: Sequence[str],
    *,
    out_length: int,
    stop: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    **settings: Any,
) -> list[tuple[WrittenText, ...]]:
    """Write from each of several texts, as the reference's pipeline does (`mplug.plug.sliding`).

    Args:
        generator: in evaluation mode.
        texts: what the texts follow.
        out_length: steps of a text; it may end when it has 0.8 of them. The reference has 128 where none is given.
        stop: a text is cut before the first of these, when it is whole.
        seeds: of `sample`, one for each text; None = the configuration's for every one.
        settings: fields of `GenerationConfig` but the lengths; what is not given is the checkpoint's own.

    Returns:
        Each text's one text.

    Raises:
        ConfigError: an unknown or impossible setting.
        MplugError: settings that windows cannot have, another number of seeds, or an empty stop string.
    """
    if "max_length" in settings:
        raise ConfigError(
            f"out_length is {out_length} and max_length {settings['max_length']}; give out_length alone for a text of "
            "windows, max_length alone for one that its search ends"
        )
    if out_length < 1:
        raise ConfigError(f"out_length is {out_length}; it must be at least 1")
    config = generator.window_config(max_length=out_length, **settings)
    requests = [WriteRequest(generator.read(text), config, stop=tuple(stop)) for text in texts]
    finished: dict[int, WrittenText] = {}
    for event in generator.stream_windows([request.prompt for request in requests], config, seeds=seeds):
        if isinstance(event, Finished):
            (text,) = event.hypotheses
            finished[event.item] = written_text(generator, requests[event.item], text)
    return [(finished[item],) for item in range(len(texts))]
