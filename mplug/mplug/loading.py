"""One door to every model: by name, by folder whatever its layout, or from open_clip."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import torch

from mplug import open_clip_model
from mplug.checkpoints import modelscope, native, raw
from mplug.checkpoints.reference import VisionLibrary
from mplug.contrastive import ContrastiveModel
from mplug.encoders import Encoders
from mplug.errors import CheckpointError, MplugError
from mplug.retrieval import RetrievalModel

logger = logging.getLogger(__name__)

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""The models that ship with the package, a folder each."""

TASKS = {"retrieval": "retrieval", "image-text-retrieval": "retrieval"}
"""Task names and ModelScope's names for them."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

M = TypeVar("M", bound=Encoders)


def load(
    source: str | Path,
    *,
    task: str = "retrieval",
    device: str = "cpu",
    dtype: str = "float32",
    vision_library: VisionLibrary = "timm",
) -> ContrastiveModel:
    """Load a model with only the modules that its task needs.

    Args:
        source: a shipped model's name (`mplug-mini`); a folder: ours, ModelScope's, or the raw AliceMind /
            X-PLUG layout; or `open_clip:NAME`, `open_clip:NAME:PRETRAINED`.
        task: `retrieval`, or ModelScope's `image-text-retrieval`.
        device: `cpu`, `cuda`, `cuda:1`...
        dtype: `float32`, `bfloat16` or `float16`; vectors are float32 in any case.
        vision_library: whose vision tower a ModelScope or raw folder gets, `timm` or `open_clip`.

    Returns:
        The model in evaluation mode; its `.report` says what of the checkpoint was used.

    Raises:
        CheckpointError: nothing loadable there, or a parameter that the task uses is missing or mis-shaped.
        MplugError: an unknown task, device or dtype.
    """
    if task not in TASKS:
        raise MplugError(f"task is {task!r}; known are {', '.join(TASKS)}")
    place, kind = _device(device), _dtype(dtype)
    if isinstance(source, str) and source.startswith("open_clip:"):
        return open_clip_model.load(source, device=place, dtype=kind)
    model = _load_folder(find_folder(source), RetrievalModel, vision_library)
    # Read before casting, which changes the tensors but not which index the vectors belong to.
    fingerprint = model.fingerprint
    logger.info("loaded %s, fingerprint %s: %s", model.name, fingerprint, model.report)
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
    model = _load_folder(find_folder(source), Encoders, vision_library)
    return model.to(device=place, dtype=kind)


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


def _load_folder(folder: Path, kind: type[M], vision_library: VisionLibrary) -> M:
    names = {path.name for path in folder.iterdir()}
    suffixes = {Path(name).suffix for name in names}
    if native.WEIGHTS_FILE in names or (
        native.CONFIG_FILE in names and modelscope.SETTINGS_FILE not in names
    ):
        return native.load(folder, kind)
    if modelscope.WEIGHTS_FILE in names or (modelscope.SETTINGS_FILE in names and ".pth" not in suffixes):
        return modelscope.load(folder, kind, vision_library=vision_library)
    if suffixes & {*raw.WEIGHTS_SUFFIXES, *raw.SETTINGS_SUFFIXES}:
        return raw.load(folder, kind, vision_library=vision_library)
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


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise MplugError(f"dtype is {name!r}; known are {', '.join(DTYPES)}")
    return DTYPES[name]
