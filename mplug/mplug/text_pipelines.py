"""ModelScope's pipelines of texts: the same call, the same answer, from a folder or from a server.

    writer = mplug.pipeline("text-generation", model="damo/nlp_gpt3_text-generation_chinese-base")
    writer("床前明月光", max_length=20)                            # {"text": "床前明月光，..."}
    nli = mplug.pipeline("nli", model="localhost:50051")
    nli(("一个男人在弹吉他", "有人在演奏乐器"))                    # {"scores": [...], "labels": [...]}

What runs a task is a `TextRunner`: for folders `mplug.local_text_runner`, imported when it is needed, for addresses
what `mplug.remote_models` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from mplug.errors import MplugError
from mplug.pipeline_base import BasePipeline
from mplug.pipelines import with_method
from mplug.remote_models import connect, is_address
from mplug.text_classifier import Classified, Filled, Question, Tagged
from mplug.text_inputs import read_faq, read_judged, read_text
from mplug.text_tasks import PAIR_TASKS, TEXT_TASKS

if TYPE_CHECKING:
    from mplug.text.pairs import Text  # it imports the tokenizers
    from mplug.text_writing import WrittenText  # it imports torch


class TextRunner(Protocol):
    """Does one task, here or elsewhere; a call of another task is an `MplugError`."""

    @property
    def model_name(self) -> str:
        """Name of the model that answers."""
        ...

    @property
    def continues(self) -> bool:
        """Whether texts go on from their prompts, as GPT-3's; ModelScope shows the prompt in front of these."""
        ...

    # Any: fields of GenerationConfig, `stop`, `seeds` and `out_length`.
    def generate(self, texts: Sequence[str], settings: Mapping[str, Any]) -> list[tuple[WrittenText, ...]]:
        """Write from each text; as `mplug.text_writing.write`, whose settings these are."""
        ...

    def classify(
        self,
        texts: Sequence[Text],
        labels: Sequence[str] | None = None,
        template: str = "{}",
        multi_label: bool = False,
    ) -> list[Classified]:
        """Judge each text or pair by the model's own labels, or by given ones (zero-shot classification)."""
        ...

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """Find the labelled spans of each text."""
        ...

    def fill(self, texts: Sequence[str], top_k: int = 5) -> list[Filled]:
        """Fill every [MASK] of each text."""
        ...

    def answer(self, queries: Sequence[str], support: Sequence[Question]) -> list[Classified]:
        """Find which of the known questions each new one asks."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class TextPipeline(BasePipeline):
    """A pipeline of texts; made by `mplug.pipeline`.

    Args:
        task: ModelScope's name.
        runner: what does it.
    """

    def __init__(self, task: str, runner: TextRunner) -> None:
        super().__init__(task, runner)
        self.runner = runner


class TextGenerationPipeline(TextPipeline):
    """Texts from texts.

    Args:
        task: ModelScope's name.
        runner: what does it.
        settings: of every call that does not say otherwise.
    """

    # Any: fields of GenerationConfig, `stop` and `out_length`.
    def __init__(self, task: str, runner: TextRunner, settings: Mapping[str, Any]) -> None:
        super().__init__(task, runner)
        self.settings = settings

    def __call__(self, input: Any, *, batch_size: int | None = None, **settings: Any) -> Any:
        """Write from one text, or from each of a list.

        Args:
            input: a text, or a dict that has it as `text`, `sentence` or `src_txt`.
            batch_size: texts that are written together; None = one at a time, as ModelScope does it.
            settings: fields of `GenerationConfig`, and `stop`, one or several strings that a text ends before.
                `max_length` counts what is written, without the prompt. A PLUG's folder takes `out_length` in its
                place, the steps of a long text that is written by windows (`mplug.plug.sliding`); ModelScope's PLUG
                always writes so, 128 steps where it is not given. They hold for this call alone.

        Returns:
            `{"text": str}`: the best text, of models that continue theirs with the prompt in front; for a list, a list
            of these.

        Raises:
            MplugError: an input of another form, or unknown or impossible settings.
            FloatingPointError: the model on this machine gave NaN or infinity.
        """
        chosen = with_method({**self.settings, **settings})
        if isinstance(chosen.get("stop"), str):
            chosen["stop"] = (chosen["stop"],)
        return self._in_batches(input, batch_size, lambda items: self._write(items, chosen))

    def _write(self, items: Sequence[Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        texts = [read_text(item) for item in items]
        written = self.runner.generate(texts, settings)
        prompts = texts if self.runner.continues else [""] * len(texts)
        return [{"text": prompt + each[0].text} for prompt, each in zip(prompts, written, strict=True)]


class TextClassificationPipeline(TextPipeline):
    """Labels of texts and pairs."""

    def __call__(self, input: Any, *, batch_size: int | None = None, topk: int | None = None) -> Any:
        """Judge one text or pair, or each of a list.

        Args:
            input: a text; a tuple of two; or a dict with `text` (and `text2`), with `sentence1` and `sentence2`, or
                with `premise` and `hypothesis`.
            batch_size: texts that run together; None = one at a time, as ModelScope does it.
            topk: labels that are given; None = all.

        Returns:
            `{"scores": [float], "labels": [str]}`, best first; for a list, a list of these.

        Raises:
            MplugError: an input of another form.
            FloatingPointError: the model on this machine gave NaN or infinity.
        """
        if topk is not None and topk < 1:
            raise MplugError(f"topk is {topk}; it must be at least 1")
        pairs = self.task in PAIR_TASKS

        def run(items: Sequence[Any]) -> list[dict[str, Any]]:
            texts = [read_judged(item, pairs=pairs) for item in items]
            return [_labels(each, topk) for each in self.runner.classify(texts)]

        return self._in_batches(input, batch_size, run)


class ZeroShotPipeline(TextPipeline):
    """Labels that the model has never seen."""

    def __call__(
        self,
        input: Any,
        *,
        candidate_labels: Sequence[str],
        hypothesis_template: str = "{}",
        multi_label: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """Judge one text, or each of a list.

        Args:
            input: a text, or a dict that has it as `text` or `sentence`.
            candidate_labels: at least one.
            hypothesis_template: turns a label into a sentence, such as `这篇文章的标题是{}`.
            multi_label: several may hold, each is scored alone; otherwise the scores sum to one.
            batch_size: texts that run together; None = one at a time, as ModelScope does it.

        Returns:
            `{"labels": [str], "scores": [float]}`, best first; for a list, a list of these.

        Raises:
            MplugError: an input of another form, no labels, or a template without a place for them.
            FloatingPointError: the model on this machine gave NaN or infinity.
        """
        if isinstance(candidate_labels, str):
            raise MplugError(f"candidate_labels is the text {candidate_labels!r}; give a list of labels")

        def run(items: Sequence[Any]) -> list[dict[str, Any]]:
            texts = [read_text(item) for item in items]
            found = self.runner.classify(texts, list(candidate_labels), hypothesis_template, multi_label)
            return [_labels(each, None) for each in found]

        return self._in_batches(input, batch_size, run)


class TokenClassificationPipeline(TextPipeline):
    """Labelled spans of texts."""

    def __call__(self, input: Any, *, batch_size: int | None = None) -> Any:
        """Find the spans of one text, or of each of a list.

        Args:
            input: a text, or a dict that has it as `text` or `sentence`.
            batch_size: texts that run together; None = one at a time, as ModelScope does it.

        Returns:
            `{"output": [{"type": str, "start": int, "end": int, "prob": float, "span": str}]}`; of word segmentation
            `{"output": [str]}`, the words. For a list, a list of these.

        Raises:
            MplugError: an input of another form.
            FloatingPointError: the model on this machine gave NaN or infinity.
        """
        show = _words if self.task == "word-segmentation" else _spans

        def run(items: Sequence[Any]) -> list[dict[str, Any]]:
            return [{"output": show(each)} for each in self.runner.tag([read_text(item) for item in items])]

        return self._in_batches(input, batch_size, run)


class FillMaskPipeline(TextPipeline):
    """Texts whose masks are filled."""

    def __call__(self, input: Any, *, batch_size: int | None = None) -> Any:
        """Fill every [MASK] of one text, or of each of a list.

        Args:
            input: a text, or a dict that has it as `text` or `sentence`.
            batch_size: texts that run together; None = one at a time, as ModelScope does it.

        Returns:
            `{"text": str}`; for a list, a list of these.

        Raises:
            MplugError: an input of another form, or without [MASK].
            FloatingPointError: the model on this machine gave NaN or infinity.
        """

        def run(items: Sequence[Any]) -> list[dict[str, Any]]:
            return [{"text": each.text} for each in self.runner.fill([read_text(item) for item in items], 1)]

        return self._in_batches(input, batch_size, run)


class FaqPipeline(TextPipeline):
    """Which of the known questions new ones ask."""

    def __call__(self, input: Any, *, batch_size: int | None = None) -> Any:
        """Find the answers of new questions.

        Args:
            input: `{"query_set": [str], "support_set": [{"text": str, "label": str}]}`; `query_set` may be one text.
            batch_size: taken for symmetry: the questions of one input run together in any case.

        Returns:
            `{"output": [[{"label": str, "score": float}]]}`: for each new question the labels, best first. For a list
            of inputs, a list of these.

        Raises:
            MplugError: an input of another form, or no known questions.
            FloatingPointError: the model on this machine gave NaN or infinity.
        """

        def run(items: Sequence[Any]) -> list[dict[str, Any]]:
            found = [self.runner.answer(*read_faq(item)) for item in items]
            return [{"output": [_pairs(each) for each in answers]} for answers in found]

        return self._in_batches(input, batch_size, run)


_JUDGING: Mapping[str, Callable[[str, TextRunner], TextPipeline]] = {
    "text-classification": TextClassificationPipeline,
    "zero-shot-classification": ZeroShotPipeline,
    "token-classification": TokenClassificationPipeline,
    "fill-mask": FillMaskPipeline,
    "faq-question-answering": FaqPipeline,
}
"""By our names of the tasks that write nothing."""


# Any: fields of GenerationConfig.
def text_pipeline(
    task: str, model: str | Path, *, device: str, dtype: str, generation: Mapping[str, Any]
) -> TextPipeline:
    """Make a pipeline of texts.

    Args:
        task: one of the names in `TEXT_TASKS`.
        model: a shipped model or a folder, as for `mplug.load`; or the address of a server, `host:port`.
        device: for a model on this machine, as for `mplug.load`.
        dtype: likewise.
        generation: settings of text generation; the other tasks have none.

    Raises:
        CheckpointError: nothing loadable there.
        MplugError: settings of a task that has none, or an address without the package that speaks to servers.
    """
    kind = TEXT_TASKS[task]
    if kind != "text-generation" and generation:
        raise MplugError(f"{', '.join(generation)}: {task} generates nothing, and takes no settings")
    runner = make_text_runner(task, model, device=device, dtype=dtype)
    if kind == "text-generation":
        return TextGenerationPipeline(task, runner, generation)
    return _JUDGING[kind](task, runner)


def make_text_runner(
    task: str, model: str | Path, *, device: str = "cpu", dtype: str = "float32"
) -> TextRunner:
    """What does a task; arguments and errors as in `text_pipeline`."""
    if isinstance(model, str) and is_address(model):
        return cast(TextRunner, connect(TEXT_TASKS[task], model, {}))
    from mplug.local_text_runner import LocalTextRunner

    return LocalTextRunner(TEXT_TASKS[task], model, device=device, dtype=dtype)


def _labels(found: Classified, topk: int | None) -> dict[str, Any]:
    best = found.scores[:topk]
    return {"scores": [each.score for each in best], "labels": [each.label for each in best]}


def _pairs(found: Classified) -> list[dict[str, Any]]:
    return [{"label": each.label, "score": each.score} for each in found.scores]


def _spans(found: Tagged) -> list[Any]:
    return [
        {"type": each.label, "start": each.start, "end": each.end, "prob": each.score, "span": each.text}
        for each in found.spans
    ]


def _words(found: Tagged) -> list[Any]:
    return [each.text for each in found.spans if each.text.strip()]
