"""One generation engine for every decoder: searches over a `StepDecoder`, whatever stands behind it."""

from mplug.generation.config import GenerationConfig, Method, Rules
from mplug.generation.decoder import DecodingState, ScoringDecoder, StepDecoder
from mplug.generation.engine import decode_steps, generate, stream
from mplug.generation.events import Event, Finished, Hypothesis, Token
from mplug.generation.live import LiveBatch, LiveRequest
from mplug.generation.ranking import RankedAnswer, rank_answers

__all__ = [
    "DecodingState",
    "Event",
    "Finished",
    "GenerationConfig",
    "Hypothesis",
    "LiveBatch",
    "LiveRequest",
    "Method",
    "RankedAnswer",
    "Rules",
    "ScoringDecoder",
    "StepDecoder",
    "Token",
    "decode_steps",
    "generate",
    "rank_answers",
    "stream",
]
