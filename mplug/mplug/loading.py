"""One door to every model: by name, by folder whatever its layout, or from open_clip."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar, overload

import torch

from mplug import coca, open_clip_model
from mplug.captioning import Captioner
from mplug.checkpoints import modelscope, native, raw
from mplug.checkpoints.report import MismatchError
from mplug.checkpoints.resolution import at_image_size
from mplug.checkpoints.settings import VisionLibrary
from mplug.contrastive import ContrastiveModel
from mplug.decoder_state import DecoderState
from mplug.encoders import Encoders
from mplug.errors import CheckpointError, MplugError
from mplug.quantization import QUANTIZED_NAMES
from mplug.reranking import RerankModel
from mplug.retrieval import RetrievalModel
from mplug.task_model import TaskModel
from mplug.tasks import DTYPES, MODELSCOPE_TASKS, TASKS, TaskSize, model_size
from mplug.text_classifier import (
    MaskFiller,
    QuestionAnswerer,
    TextClassifier,
    TokenClassifier,
    ZeroShotClassifier,
)
from mplug.text_generator import TextGenerator
from mplug.text_loading import TextModel, load_text, survey_text, text_family
from mplug.text_tasks import (
    TEXT_TASKS,
    ClassificationTask,
    FaqTask,
    FillingTask,
    GenerationTask,
    TaggingTask,
    ZeroShotTask,
)
from mplug.vqa import VqaModel

logger = logging.getLogger(__name__)

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""The models that ship with the package, a folder each."""
TEXT_DTYPES = {**DTYPES, **QUANTIZED_NAMES}
"""What the weights of text models may become."""

M = TypeVar("M", bound=TaskModel)


@overload
def load(
    source: str | Path,
    *,
    task: Literal["retrieval", "image-text-retrieval"] = "retrieval",
    device: str = "cpu",
    dtype: str = "float32",
    vision_library: VisionLibrary = "timm",
    image_size: int | None = None,
) -> ContrastiveModel: ...


@overload
def load(
    source: str | Path,
    *,
    task: Literal["rerank"],
    device: str = "cpu",
    dtype: str = "float32",
    vision_library: VisionLibrary = "timm",
    image_size: int | None = None,
) -> RerankModel: ...


@overload
def load(
    source: str | Path,
    *,
    task: Literal["caption", "image-captioning"],
    device: str = "cpu",
    dtype: str = "float32",
    vision_library: VisionLibrary = "timm",
    image_size: int | None = None,
) -> Captioner: ...


@overload
def load(
    source: str | Path,
    *,
    task: Literal["vqa", "visual-question-answering"],
    device: str = "cpu",
    dtype: str = "float32",
    vision_library: VisionLibrary = "timm",
    image_size: int | None = None,
) -> VqaModel: ...


@overload
def load(
    source: str | Path, *, task: GenerationTask, device: str = "cpu", dtype: str = "float32"
) -> TextGenerator[DecoderState]: ...


@overload
def load(
    source: str | Path, *, task: ClassificationTask, device: str = "cpu", dtype: str = "float32"
) -> TextClassifier: ...


@overload
def load(
    source: str | Path, *, task: ZeroShotTask, device: str = "cpu", dtype: str = "float32"
) -> ZeroShotClassifier: ...


@overload
def load(
    source: str | Path, *, task: TaggingTask, device: str = "cpu", dtype: str = "float32"
) -> TokenClassifier: ...


@overload
def load(
    source: str | Path, *, task: FillingTask, device: str = "cpu", dtype: str = "float32"
) -> MaskFiller: ...


@overload
def load(
    source: str | Path, *, task: FaqTask, device: str = "cpu", dtype: str = "float32"
) -> QuestionAnswerer: ...


def load(
    source: str | Path,
    *,
    task: str = "retrieval",
    device: str = "cpu",
    dtype: str = "float32",
    vision_library: VisionLibrary = "timm",
    image_size: int | None = None,
) -> ContrastiveModel | Captioner | TaskModel | TextModel:
    """Load a model with only the modules that its task needs.

    Args:
        source: a shipped model's name (`mplug-mini`); a folder: ours, ModelScope's, or the raw AliceMind /
            X-PLUG layout; or `open_clip:NAME`, `open_clip:NAME:PRETRAINED` (retrieval; its CoCa models
            caption, too).
        task: `retrieval`, `rerank`, `caption` or `vqa`, or ModelScope's `image-text-retrieval`,
            `image-captioning`, `visual-question-answering`; of folders of GPT-3, PALM, PLUG, StructBERT and
            plug_mental `text-generation`, `text-classification`, `zero-shot-classification`,
            `token-classification`, `fill-mask` or `faq-question-answering`, or one of ModelScope's other names
            for these (`mplug.text_tasks`).
        device: `cpu`, `cuda`, `cuda:1`...
        dtype: `float32`, `bfloat16` or `float16`, for text models `int8` or `int4` as well (`mplug.quantization`);
            vectors and scores are float32 in any case.
        vision_library: whose vision tower a ModelScope or raw folder gets, `timm` or `open_clip`.
        image_size: side R of pictures in pixels, where another is wanted than the checkpoint's; its table of
            positions is resized (see `mplug.checkpoints.resolution`). Models of texts have none.

    Returns:
        The task's model in evaluation mode; its `.report` says what of the checkpoint was used.

    Raises:
        CheckpointError: nothing loadable there, a model that cannot do the task, or a parameter that the task uses is
            missing or mis-shaped.
        MplugError: an unknown task, device or dtype, or an image size that the model cannot take.
    """
    task = MODELSCOPE_TASKS.get(task, task)
    if task not in TASKS and task not in TEXT_TASKS:
        raise MplugError(f"task is {task!r}; known are {', '.join([*TASKS, *MODELSCOPE_TASKS, *TEXT_TASKS])}")
    place, kind = _device(device), _dtype(dtype, TEXT_DTYPES if task in TEXT_TASKS else DTYPES)
    if task in TEXT_TASKS:
        if image_size is not None or str(source).startswith("open_clip:"):
            raise MplugError(f"{task} sees no pictures; give the folder of a text model, and no image_size")
        return load_text(find_folder(source), TEXT_TASKS[task], device=place, dtype=kind)
    if isinstance(source, str) and source.startswith("open_clip:"):
        if task not in ("retrieval", "caption") or image_size is not None:
            raise MplugError(
                f"{source} is for retrieval, or as a CoCa for captions, at its own image size; other needs take an "
                "mPLUG folder"
            )
        load_one = coca.load if task == "caption" else open_clip_model.load
        return load_one(source, device=place, dtype=kind)
    model = load_as(source, TASKS[task], vision_library=vision_library, image_size=image_size)
    if isinstance(model, RetrievalModel):
        # Read before casting, which changes the tensors but not which index the vectors belong to.
        logger.info("%s makes vectors of the fingerprint %s", model.name, model.fingerprint)
    logger.info("loaded %s for %s: %s", model.name, task, model.report)
    return model.to(device=place, dtype=kind)


def load_encoders(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    vision_library: VisionLibrary = "timm",
) -> Encoders:
    """Load the two encoders alone, from a checkpoint of any mPLUG task; arguments and errors as in `load`."""
    place, kind = _device(device), _dtype(dtype)
    model = load_as(source, Encoders, vision_library=vision_library)
    return model.to(device=place, dtype=kind)


def load_as(
    source: str | Path,
    kind: type[M],
    *,
    vision_library: VisionLibrary = "timm",
    image_size: int | None = None,
) -> M:
    """Load a model of a given kind, such as one of several tasks that is to be trained; in float32, on the CPU.

    Args:
        source: as in `load`, but for open_clip's.
        kind: what to make of it.
        vision_library: as in `load`.
        image_size: as in `load`.

    Raises:
        CheckpointError: as in `load`.
    """
    model = _load_folder(find_folder(source), kind, vision_library)
    return model if image_size is None else at_image_size(model, image_size)


def survey(source: str | Path) -> dict[str, TaskSize | str]:
    """Say of each task what a folder's model for it weighs, or why there is none; the numbers stay on the disk.

    Raises:
        CheckpointError: nothing loadable there.
    """
    folder = find_folder(source)
    family = text_family(folder)
    if family is not None:
        return survey_text(folder, family)
    found: dict[str, TaskSize | str] = {}
    refused: CheckpointError | None = None
    for task, kind in TASKS.items():
        try:
            found[task] = model_size(_load_folder(folder, kind, "timm", shapes_only=True))
        except MismatchError as error:
            found[task] = error.report.shortfall()
        except CheckpointError as error:
            refused = error
            found[task] = str(error.__cause__ or error)
    if refused is not None and not any(isinstance(each, TaskSize) for each in found.values()):
        raise refused
    return found


def find_folder(source: str | Path) -> Path:
    """Return the folder of a shipped model or of a path.

    Raises:
        CheckpointError: neither a shipped model nor a folder.
    """
    shipped = shipped_models()
    if isinstance(source, str) and source in shipped:
        return WEIGHTS_FOLDER / source
    folder = Path(source)
    if not folder.is_dir():
        raise CheckpointError(
            f"{source} is neither a folder nor a model of this package ({', '.join(shipped) or 'none'}); "
            "give a checkpoint folder, or open_clip:NAME"
        )
    return folder


def shipped_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.parent.name for path in WEIGHTS_FOLDER.glob(f"*/{native.CONFIG_FILE}"))


def _load_folder(
    folder: Path, kind: type[M], vision_library: VisionLibrary, *, shapes_only: bool = False
) -> M:
    family = text_family(folder)
    if family is not None:
        raise CheckpointError(
            f"{folder} is a {family.name}, which sees no pictures; its tasks are {', '.join(family.loaders)}"
        )
    names = {path.name for path in folder.iterdir()}
    suffixes = {Path(name).suffix for name in names}
    if native.WEIGHTS_FILE in names or (
        native.CONFIG_FILE in names and modelscope.SETTINGS_FILE not in names
    ):
        return native.load(folder, kind, shapes_only=shapes_only)
    if modelscope.WEIGHTS_FILE in names or (modelscope.SETTINGS_FILE in names and ".pth" not in suffixes):
        return modelscope.load(folder, kind, vision_library=vision_library, shapes_only=shapes_only)
    if suffixes & {*raw.WEIGHTS_SUFFIXES, *raw.SETTINGS_SUFFIXES}:
        return raw.load(folder, kind, vision_library=vision_library, shapes_only=shapes_only)
    raise CheckpointError(
        f"{folder} holds no checkpoint. Looked for our own layout ({native.CONFIG_FILE}, "
        f"{native.WEIGHTS_FILE}, {native.VOCAB_FILE}), ModelScope's ({modelscope.SETTINGS_FILE}, "
        f"config_bert.json, {modelscope.VOCAB_FILE}, {modelscope.WEIGHTS_FILE}) and the raw one "
        "(*.yaml, its BERT json, vocab.txt, *.pth)"
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MplugError(f"device is {name!r}; write cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MplugError(f"device is {name!r}, and torch sees no CUDA device here; use cpu")
    return device


def _dtype(name: str, known: Mapping[str, torch.dtype] = DTYPES) -> torch.dtype:
    if name not in known:
        raise MplugError(f"dtype is {name!r}; known are {', '.join(known)}")
    return known[name]
