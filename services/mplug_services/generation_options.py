"""GenerationOptions of a request to settings of the engine; what is left out is the checkpoint's own."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mplug.decoder_facts import DecoderFacts
from mplug.errors import ConfigError, MplugError
from mplug_api.v1 import generation_pb2 as pb
from mplug_services.errors import ServiceError, invalid_argument
from mplug_services.writer_facts import WriterFacts

if TYPE_CHECKING:
    from mplug.generation import GenerationConfig

MOST_LENGTH_PENALTY = 10.0
"""Beyond, powers of a text's length leave the range of floats or drown all else; the reference has 0.6."""
MAX_SEED = 2**63 - 1

_COMMON = ("max_length", "min_length", "num_results", "repetition_penalty", "no_repeat_ngram_size")
_OF_METHOD = {
    "beam_search": ("beam", ("beam_size", "length_penalty")),
    "greedy": ("greedy", ()),
    "sampling": ("sample", ("temperature", "top_k", "top_p")),
}


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How texts of a request are generated."""

    config: GenerationConfig
    seed: int
    """Of every item."""
    field: str
    """Path of the options in the request."""

    @property
    def shown_seed(self) -> int | None:
        """The seed, where the texts depend on it."""
        return self.seed if self.config.method == "sample" else None


def read_options(
    options: pb.GenerationOptions, decoder: DecoderFacts | WriterFacts, field: str, *, max_sequences: int
) -> GenerationSettings:
    """Read options.

    Args:
        options: as the client sent them; an empty message is all defaults.
        decoder: whose defaults and limits hold.
        field: path of the options in the request.
        max_sequences: most beams or texts of one item.

    Raises:
        ServiceError: a value out of its range; names the field.
    """
    given, paths = _given(options, field)
    try:
        config = _configure(decoder, {**given, "deterministic": options.deterministic})
    except ConfigError as error:
        name = str(error).partition(" is ")[0]
        raise _out_of_range(paths.get(name, f"{field}.{name}"), str(error)) from error
    _check_limits(config, decoder, paths, field, max_sequences)
    return GenerationSettings(config, _read_seed(options), field)


# Any: fields of GenerationConfig.
def _configure(decoder: DecoderFacts | WriterFacts, changes: dict[str, Any]) -> GenerationConfig:
    if isinstance(decoder, WriterFacts):
        return decoder.configure(**changes)
    # Imported here: the package imports torch, which a server of the index alone does without.
    from mplug.generation import GenerationConfig

    return GenerationConfig(**decoder.defaults.settings(changes))


def _given(options: pb.GenerationOptions, field: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What the client set, by GenerationConfig's names, and the path of each."""
    any_options: Any = options  # Any: the stubs know literal names only
    given: dict[str, Any] = {name: getattr(options, name) for name in _COMMON if any_options.HasField(name)}
    paths = {name: f"{field}.{name}" for name in _COMMON}
    method = options.WhichOneof("method")
    if method is not None:
        given["method"], names = _OF_METHOD[method]
        part = getattr(options, method)
        given |= {name: getattr(part, name) for name in names if part.HasField(name)}
        paths |= {name: f"{field}.{method}.{name}" for name in names}
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise _out_of_range(paths[name], f"{value} is no finite number")
    return given, paths


def _check_limits(
    config: GenerationConfig,
    decoder: DecoderFacts | WriterFacts,
    paths: dict[str, str],
    field: str,
    max_sequences: int,
) -> None:
    if abs(config.length_penalty) > MOST_LENGTH_PENALTY:
        raise _out_of_range(
            paths["length_penalty"], f"{config.length_penalty} is not within ±{MOST_LENGTH_PENALTY}"
        )
    if config.sequences > max_sequences:
        raise _out_of_range(
            _sequences_path(config, field),
            f"{config.sequences} texts at a time; this server decodes at most {max_sequences}",
        )
    if config.candidates > decoder.vocab_size:
        raise _out_of_range(
            _sequences_path(config, field),
            f"{config.beam_size} beams; the vocabulary has {decoder.vocab_size} tokens",
        )
    try:
        decoder.check_length(1, config.max_length)  # the least there is before a text: its start
    except MplugError as error:
        raise _out_of_range(paths["max_length"], str(error)) from error


def _sequences_path(config: GenerationConfig, field: str) -> str:
    return f"{field}.beam_search.beam_size" if config.method == "beam" else f"{field}.num_results"


def _read_seed(options: pb.GenerationOptions) -> int:
    if options.WhichOneof("method") == "sampling" and options.sampling.HasField("seed"):
        return options.sampling.seed
    return secrets.randbelow(MAX_SEED)


def _out_of_range(field: str, message: str) -> ServiceError:
    return invalid_argument(field, message, reason="OUT_OF_RANGE")
