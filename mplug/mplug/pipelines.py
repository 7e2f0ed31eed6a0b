"""ModelScope's pipelines: the same call, the same answer, from a folder or from a server.

    captioner = mplug.pipeline("image-captioning", model="damo/mplug_image-captioning_coco_base_en")
    captioner("cat.jpg")                     # {"caption": "a cat on a sofa"}
    mplug.pipeline("image-captioning")("cat.jpg")  # by mplug-mini, which ships with the package
    mplug.pipeline("visual-question-answering", model="localhost:50051")(("cat.jpg", "what is it?"))

What runs a task is a `Runner`: for folders `mplug.local_runner`, imported when it is needed, for addresses what
`mplug.remote_models` finds. Pipelines of texts are `mplug.text_pipelines`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, overload

from mplug.errors import MplugError
from mplug.heat_maps import Explain, HeatMap
from mplug.pipeline_base import BasePipeline
from mplug.remote_models import connect, is_address
from mplug.text_tasks import (
    TEXT_TASKS,
    ClassificationTask,
    FaqTask,
    FillingTask,
    GenerationTask,
    TaggingTask,
    ZeroShotTask,
)

if TYPE_CHECKING:
    from mplug.text_pipelines import (  # which imports what is here
        FaqPipeline,
        FillMaskPipeline,
        TextClassificationPipeline,
        TextGenerationPipeline,
        TextPipeline,
        TokenClassificationPipeline,
        ZeroShotPipeline,
    )

PictureTask = Literal["image-captioning", "visual-question-answering", "image-text-retrieval"]

PIPELINE_TASKS: Mapping[str, str] = {
    "image-captioning": "caption",
    "visual-question-answering": "vqa",
    "image-text-retrieval": "rerank",
}
"""ModelScope's tasks, and the model that does each; its retrieval pipeline scores pairs, as our reranker does."""

_METHODS = {
    "beam_size": "beam",
    "length_penalty": "beam",
    "temperature": "sample",
    "top_k": "sample",
    "top_p": "sample",
    "seed": "sample",
}


@dataclass(frozen=True, slots=True)
class Input:
    """One item: a picture, and a caption's beginning, a question, or the text to match."""

    image: bytes
    """An encoded file."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Generated:
    """One text."""

    text: str
    score: float
    """Log-probability of the generated tokens, divided by the length penalty."""
    token_ids: tuple[int, ...]
    """Prompt and continuation, special tokens included."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One of the likeliest answers of a list."""

    index: int
    """Its place in the list."""
    text: str
    probability: float
    """Among the answers that were scored in full."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: texts, ranked answers, a probability, or an error."""

    texts: tuple[Generated, ...] = ()
    """Best first."""
    ranked: tuple[Ranked, ...] = ()
    """Best first."""
    match_probability: float | None = None
    error: Exception | None = None
    heat_maps: tuple[HeatMap, ...] = ()
    """Of the best text's words, or of the match, where they were asked for."""


class Runner(Protocol):
    """Does one task, here or elsewhere."""

    @property
    def model_name(self) -> str:
        """Name of the model that answers."""
        ...

    def run(self, inputs: Sequence[Input], *, explain: Explain | None = None) -> list[Outcome]:
        """One outcome for each item, in order; a bad item harms no neighbour. `explain` asks for heat maps."""
        ...

    def rank(
        self,
        inputs: Sequence[Input],
        answers: Sequence[str],
        k: int = 128,
        *,
        explain: Explain | None = None,
    ) -> list[Outcome]:
        """Order a list of answers for each question, likewise; the k with the likeliest first token are scored."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Pipeline(BasePipeline):
    """A task's pipeline, as ModelScope's is called; made by `pipeline`.

    Args:
        task: ModelScope's name.
        runner: what does it.
    """

    def __init__(self, task: str, runner: Runner) -> None:
        super().__init__(task, runner)
        self.runner = runner

    def __call__(self, input: Any, *, batch_size: int | None = None) -> Any:
        """Do the task for one item, or for each of a list.

        Args:
            input: a picture (path, `PIL.Image`, or the bytes of a file); a tuple (picture, text); or a dict with
                `image` and `text` (or `question`). A caption takes no notice of a text, as the reference. A list holds
                several of these.
            batch_size: items that run together; None = one at a time, as ModelScope does it.

        Returns:
            `{"caption": str}`, `{"text": str}` or `{"scores": [[p_no, p_yes]]}`; for a list, a list of them.

        Raises:
            MplugError: an input of another form, or bytes that are no picture.
            FloatingPointError: the model on this machine gave NaN or infinity.
            OSError: a file cannot be read.
        """
        return self._in_batches(input, batch_size, self._run)

    def _run(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        outcomes = self.runner.run([read_input(item, self.task) for item in items])
        return [self._answer(outcome) for outcome in outcomes]

    def _answer(self, outcome: Outcome) -> dict[str, Any]:
        if outcome.error is not None:
            raise outcome.error
        if outcome.match_probability is not None:
            return {"scores": [[1.0 - outcome.match_probability, outcome.match_probability]]}
        name = "caption" if self.task == "image-captioning" else "text"
        return {name: outcome.texts[0].text}


@overload
def pipeline(
    task: PictureTask,
    model: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    image_size: int | None = None,
    **generation: Any,
) -> Pipeline: ...


@overload
def pipeline(
    task: GenerationTask,
    model: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    **generation: Any,
) -> TextGenerationPipeline: ...


@overload
def pipeline(
    task: ClassificationTask, model: str | Path, *, device: str = "cpu", dtype: str = "float32"
) -> TextClassificationPipeline: ...


@overload
def pipeline(
    task: ZeroShotTask, model: str | Path, *, device: str = "cpu", dtype: str = "float32"
) -> ZeroShotPipeline: ...


@overload
def pipeline(
    task: TaggingTask, model: str | Path, *, device: str = "cpu", dtype: str = "float32"
) -> TokenClassificationPipeline: ...


@overload
def pipeline(
    task: FillingTask, model: str | Path, *, device: str = "cpu", dtype: str = "float32"
) -> FillMaskPipeline: ...


@overload
def pipeline(
    task: FaqTask, model: str | Path, *, device: str = "cpu", dtype: str = "float32"
) -> FaqPipeline: ...


# Any: the kind of the task, whose name is not known here.
@overload
def pipeline(
    task: str,
    model: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    image_size: int | None = None,
    **generation: Any,
) -> Any: ...


def pipeline(
    task: str,
    model: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    image_size: int | None = None,
    **generation: Any,
) -> Pipeline | TextPipeline:
    """Make a pipeline.

    Args:
        task: `image-captioning`, `visual-question-answering` or `image-text-retrieval`; or of texts, one of the names
            in `mplug.text_tasks`.
        model: a shipped model or a folder, as for `mplug.load`; or the address of a server, `host:port`. None: what
            ships for the task, mplug-mini or gpt3-poem-mini.
        device: for a model on this machine, as for `mplug.load`.
        dtype: likewise.
        image_size: likewise; a server's models have sizes of their own, and models of texts none.
        generation: settings of texts, by the names of `GenerationConfig`; those not given are the model's own. A
            pipeline of text generation takes `stop`, too, and PLUG's `out_length`, and all of them with each call as
            well.

    Raises:
        CheckpointError: nothing loadable there.
        MplugError: an unknown task or setting, no model where none ships for the task, an image size that the model
            cannot take or that is asked of a server, or an address without the package that speaks to servers.
    """
    if task in TEXT_TASKS:
        from mplug.text_pipelines import text_pipeline

        if image_size is not None:
            raise MplugError(f"image_size is {image_size}, and {task} sees no pictures; leave it out")
        return text_pipeline(
            task, model or _shipped_writer(task), device=device, dtype=dtype, generation=generation
        )
    runner = make_runner(
        task, model or "mplug-mini", device=device, dtype=dtype, image_size=image_size, generation=generation
    )
    return Pipeline(task, runner)


def _shipped_writer(task: str) -> str:
    if TEXT_TASKS[task] != "text-generation":
        raise MplugError(f"no model ships for {task}; give model=FOLDER, or the address of a server")
    return "gpt3-poem-mini"


def make_runner(
    task: str,
    model: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    image_size: int | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Runner:
    """What does a task; arguments and errors as in `pipeline`."""
    if task not in PIPELINE_TASKS:
        raise MplugError(f"task is {task!r}; pipelines are {', '.join([*PIPELINE_TASKS, *TEXT_TASKS])}")
    settings = with_method(generation or {})
    if task == "image-text-retrieval" and settings:
        raise MplugError(
            f"{', '.join(settings)}: image-text-retrieval generates nothing, and takes no settings"
        )
    if isinstance(model, str) and is_address(model):
        if image_size is not None:
            raise MplugError(
                f"image_size is {image_size}, and the model at {model} has a size that its server was started with; "
                "leave image_size out, or give a folder"
            )
        return cast(Runner, connect(task, model, settings))
    from mplug.local_runner import LocalRunner

    return LocalRunner(
        PIPELINE_TASKS[task], model, device=device, dtype=dtype, image_size=image_size, generation=settings
    )


def with_method(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are None, and with the method that the others belong to, where none is named.

    Raises:
        MplugError: settings of several methods.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    methods = {_METHODS[name] for name in given if name in _METHODS}
    methods |= {given["method"]} if "method" in given else set()
    if len(methods) > 1:
        raise MplugError(f"settings of several methods together ({', '.join(sorted(methods))}): {given}")
    return {**given, "method": methods.pop()} if methods else given


def read_input(item: Any, task: str) -> Input:
    """One item in the forms that ModelScope takes; arguments and errors as in `Pipeline.__call__`."""
    image, text = _parts(item)
    if task == "image-captioning":
        return Input(image_bytes(image))
    if not isinstance(text, str):
        raise MplugError(
            f"{task} takes a picture and a text: (picture, text) or {{'image': …, 'text': …}}, not {text!r} as its text"
        )
    return Input(image_bytes(image), text)


def image_bytes(image: Any) -> bytes:
    """A picture as the bytes of a file: as they are, read from a path, or a `PIL.Image` as PNG, upright.

    Raises:
        MplugError: none of these.
        OSError: a file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        if str(image).startswith(("http://", "https://")):
            raise MplugError(f"{image} is not fetched: give a file, its bytes or a PIL.Image")
        return Path(image).read_bytes()
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise MplugError(
            f"a picture is a path, a PIL.Image or the bytes of a file, not {type(image).__name__}"
        )
    upright = ImageOps.exif_transpose(image)
    stream = io.BytesIO()
    # PNG keeps these as they are; what it cannot hold becomes RGB as a file of that mode does.
    kept = upright.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    (upright if kept else upright.convert("RGB")).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _parts(item: Any) -> tuple[Any, Any]:
    if isinstance(item, tuple):
        if len(item) != 2:
            raise MplugError(f"a tuple is (picture, text); this one has {len(item)} parts")
        return item
    if isinstance(item, dict):
        if "image" not in item:
            raise MplugError(f"a dict has 'image' and 'text' (or 'question'); this one has {sorted(item)}")
        return item["image"], item.get("text", item.get("question"))
    return item, None
