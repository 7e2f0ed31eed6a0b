"""The text calls of the client for plain, blocking code."""

from collections.abc import Generator, Sequence

from mplug_api.v1.text_service_pb2 import StreamGenerateResponse
from mplug_services.client import text_flows
from mplug_services.client.connection import Connection
from mplug_services.client.generation_types import GenerationOptions, TextOutcome, TextProgress
from mplug_services.client.model_flows import LimitsCache
from mplug_services.client.text_types import ClassifyOutcome, FillOutcome, KnownQuestion, TextSource


class TextCalls:
    """What a `Client` can do with texts alone."""

    _connection: Connection
    _limits: LimitsCache

    def generate(
        self,
        texts: Sequence[str],
        *,
        options: GenerationOptions | None = None,
        stop: Sequence[str] = (),
        log_probs: bool = False,
        model: str = "",
        timeout: float | None = None,
    ) -> list[TextOutcome]:
        """Writes from texts, any number of them: one outcome each, in order.

        Whether a text is continued or made into another depends on the model. What is written ends before the first of
        the `stop` texts; with `log_probs` it says how likely each token was.
        """
        flow = text_flows.generate(texts, options, stop, log_probs, model, self._limits)
        return self._connection.run(flow, timeout)

    def stream_generate(
        self,
        text: str,
        *,
        options: GenerationOptions | None = None,
        stop: Sequence[str] = (),
        log_probs: bool = False,
        model: str = "",
        timeout: float | None = None,
    ) -> Generator[TextProgress, None, None]:
        """Writes from one text while it is watched; closing the generator early stops the server's work."""
        call = text_flows.stream_generate(text, options, stop, log_probs, model)
        for message in self._connection.stream(call, timeout):
            assert isinstance(message, StreamGenerateResponse)
            yield text_flows.text_progress(message)

    def classify(
        self,
        texts: Sequence[TextSource],
        *,
        labels: Sequence[str] = (),
        template: str = "{}",
        multi_label: bool = False,
        known_questions: Sequence[KnownQuestion] = (),
        model: str = "",
        timeout: float | None = None,
    ) -> list[ClassifyOutcome]:
        """Judges texts or pairs of texts, any number of them: one outcome each, in order.

        By the model's own labels, or the spans that it finds; by `labels` that it has never seen, each put into the
        template's {}; or by the labels of known questions. With `multi_label` each label is scored alone.
        """
        flow = text_flows.classify(texts, labels, template, multi_label, known_questions, model, self._limits)
        return self._connection.run(flow, timeout)

    def fill_mask(
        self, texts: Sequence[str], *, top_k: int | None = None, model: str = "", timeout: float | None = None
    ) -> list[FillOutcome]:
        """Fills every [MASK] of texts, any number of them: one outcome each, in order, with the best candidates."""
        return self._connection.run(text_flows.fill_mask(texts, top_k, model, self._limits), timeout)
