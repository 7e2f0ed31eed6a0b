"""From a folder to the first difference."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mplug.checkpoints import modelscope
from mplug.checkpoints.files import read_bert_json
from mplug.errors import CheckpointError, MplugError
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug.tasks import MODELSCOPE_TASKS
from mplug.verification.compare import DEFAULT_TOLERANCE, Difference, StageComparison, compare
from mplug.verification.reference import ReferenceRequest, run_reference
from mplug.verification.stages import TaskStages, read_input

VERIFIED_TASKS = {task: theirs for theirs, task in MODELSCOPE_TASKS.items()}
"""Our tasks that ModelScope has a class for, and its names for them."""
DEFAULT_TEXT = "what is in the picture?"
DEFAULT_TASK = "visual-question-answering"  # ModelScope's MPlugConfig
LIBRARIES = ("torch", "timm", "pillow", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What came of a comparison."""

    task: str
    """`caption`, `vqa` or `retrieval`."""
    comparisons: tuple[StageComparison, ...]
    """The stages that both computed, in the order of the data."""
    missing: tuple[str, ...]
    """Stages that ModelScope did not reach."""
    stopped: str | None
    """The error that stopped it."""
    notes: tuple[str, ...]
    """What was done to let ModelScope run at all."""
    versions: Mapping[str, str]
    """Of our libraries."""
    reference_versions: Mapping[str, str]
    """Of ModelScope's and its."""

    @property
    def first(self) -> Difference | None:
        """The first difference; None where the stages that both computed are equal."""
        return next((one.first for one in self.comparisons if one.first is not None), None)

    @property
    def equal(self) -> bool:
        """Whether ModelScope computed every stage, and every stage is equal."""
        return self.first is None and not self.missing


def verify(
    folder: str | Path,
    *,
    task: str | None = None,
    image: str | Path | None = None,
    text: str | None = None,
    reference_python: str | Path = sys.executable,
    tolerance: float = DEFAULT_TOLERANCE,
) -> Verification:
    """Run ModelScope's package and ours on one folder, in float32 on the CPU, and compare stage by stage.

    Args:
        folder: a ModelScope folder.
        task: `caption`, `vqa`, `retrieval` or ModelScope's names; None = what the folder says.
        image: a picture's file; None = a drawn one.
        text: the question, or what is matched with the picture; None = a question. Captioning reads none.
        reference_python: interpreter of the environment that has ModelScope.
        tolerance: largest difference of floats, relative to a stage's largest value.

    Raises:
        VerificationError: ModelScope cannot be asked.
        CheckpointError: the folder is not ModelScope's, or cannot be loaded for the task.
        MplugError: an unknown task, or bytes that are no picture.
        OSError: the picture cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give a ModelScope checkpoint folder")
    settings = modelscope.read_settings(folder)
    task = _known(task or _stated_task(folder, settings.yaml), folder)
    text = DEFAULT_TEXT if text is None else text
    with _picture(image) as file:
        picture = decode_image(file.read_bytes())
        request = ReferenceRequest(folder, VERIFIED_TASKS[task], file, text)
        reference = run_reference(request, reference_python)
    stages = TaskStages(folder, task)
    pixels_3RR = to_pixels(picture, settings.image_size)
    ours = stages.run(read_input(pixels_3RR, text, stages.model.preprocess, stages.model.tokenizer))
    return Verification(
        task=task,
        comparisons=compare(ours, reference.stages, tolerance=tolerance),
        missing=tuple(stage for stage in ours if stage not in reference.stages),
        stopped=reference.stopped,
        notes=reference.notes,
        versions=_versions(),
        reference_versions=reference.versions,
    )


def drawn_picture() -> Image.Image:
    """A small picture in which every direction and channel differs: two slopes and a chequered board."""
    rows, columns = np.mgrid[0:72, 0:96]
    channels = (columns * 255 // 95, rows * 255 // 71, (rows // 9 + columns // 8) % 2 * 255)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@contextmanager
def _picture(image: str | Path | None) -> Iterator[Path]:
    if image is not None:
        yield Path(image)
        return
    with tempfile.TemporaryDirectory(prefix="mplug-verify-") as scratch:
        file = Path(scratch) / "drawn.png"
        drawn_picture().save(file)
        yield file


def _stated_task(folder: Path, yaml: Mapping[str, object]) -> str:
    """What ModelScope would do with the folder: its pipelines read the json, its class the yaml."""
    file = folder / "configuration.json"
    if not file.is_file():
        return str(yaml.get("task", DEFAULT_TASK))
    stated = read_bert_json(file)  # an object in JSON, whatever it describes
    return str(stated.get("task", yaml.get("task", DEFAULT_TASK)))


def _known(task: str, folder: Path) -> str:
    ours = MODELSCOPE_TASKS.get(task, task)
    if ours not in VERIFIED_TASKS:
        raise MplugError(
            f"{folder}: the task is {task!r}; ModelScope's mPLUG has {', '.join(MODELSCOPE_TASKS)}: name one of "
            f"{', '.join(VERIFIED_TASKS)}"
        )
    return ours


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {**versions, "python": platform.python_version()}
