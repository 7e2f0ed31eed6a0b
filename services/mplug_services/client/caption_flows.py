"""Flows over CaptionService."""

from collections.abc import Sequence

from mplug_api.v1 import caption_service_pb2 as pb
from mplug_services.client.batches import readable
from mplug_services.client.calls import Call, Flow, ask, chunks
from mplug_services.client.errors import ClientError, from_status
from mplug_services.client.explanation_wire import explain_to_wire, explained_limits, heat_maps_from_wire
from mplug_services.client.generation_types import ExplainOptions, GenerationOptions, TextOutcome
from mplug_services.client.generation_wire import options_to_wire, seed_from_wire, texts_from_wire
from mplug_services.client.model_flows import LimitsCache
from mplug_services.client.types import ImageSource
from mplug_services.client.wire import image_to_wire


def caption(
    images: Sequence[ImageSource],
    prompt: str,
    options: GenerationOptions | None,
    explain: ExplainOptions | None,
    model: str,
    cache: LimitsCache,
) -> Flow[list[TextOutcome]]:
    """Captions pictures; files are read chunk by chunk, one that cannot be read has an error as its outcome."""
    wire_options = options_to_wire(options)
    wire_explain = explain_to_wire(explain)
    limits = explained_limits((yield from cache.get()), explain)
    outcomes: list[TextOutcome] = []

    def refuse(index: int, error: ClientError) -> None:
        outcomes.append(TextOutcome(index, error=error))

    items = readable(images, image_to_wire, limits, refuse)
    for chunk in chunks(items, lambda item: item[1].ByteSize(), limits):
        request = pb.CaptionRequest(
            images=[image for _, image in chunk],
            prompt=prompt,
            options=wire_options,
            explain=wire_explain,
            model=model,
        )
        response = yield from ask("CaptionService", "Caption", request, pb.CaptionResponse)
        outcomes += [_outcome(result, chunk[result.index][0]) for result in response.results]
    return sorted(outcomes, key=lambda outcome: outcome.index)


def stream_caption(image: ImageSource, prompt: str, options: GenerationOptions | None, model: str) -> Call:
    """The call that captions one picture, message by message."""
    request = pb.StreamCaptionRequest(
        image=image_to_wire(image), prompt=prompt, options=options_to_wire(options), model=model
    )
    return Call("CaptionService", "StreamCaption", request, pb.StreamCaptionResponse)


def _outcome(result: pb.CaptionResult, index: int) -> TextOutcome:
    if result.HasField("error"):
        return TextOutcome(index, error=from_status(result.error))
    return TextOutcome(
        index,
        texts_from_wire(result.captions),
        seed_from_wire(result.captions),
        heat_maps=heat_maps_from_wire(result.heat_maps),
    )
