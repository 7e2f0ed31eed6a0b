"""ModelScope's StructBERT and plug_mental folders, read and written.

`config.json`, `configuration.json`, `vocab.txt`, `pytorch_model.bin` (or the `model.safetensors` of int8 rows that
`save` writes), and maybe `label_mapping.json` and `tokenizer_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from mplug.checkpoints.files import read_tensors, write_json
from mplug.checkpoints.report import load_strictly
from mplug.checkpoints.safe_files import WEIGHTS_FILE as OWN_FILE
from mplug.checkpoints.safe_files import Storage, check_place, own_file, read_stored, write_tensors
from mplug.errors import CheckpointError, ConfigError
from mplug.quantization import QUANTIZED, quantize
from mplug.structbert.classifier import Classifier, EntailmentClassifier
from mplug.structbert.config import StructBertConfig
from mplug.structbert.faq import FaqAnswerer
from mplug.structbert.filler import WordFiller
from mplug.structbert.model import StructBertModel
from mplug.structbert.names import (
    OTHERS,
    OUTPUT_BIAS,
    OUTPUT_WORDS,
    POSITION_IDS,
    WORDS,
    bare,
    file_name,
    names,
)
from mplug.structbert.settings import FAQ_TASK, from_config, read_settings, to_config
from mplug.structbert.tagger import Tagger
from mplug.text.tokenizer import WordPieceTokenizer

WEIGHTS_FILE = "pytorch_model.bin"
VOCAB_FILE = "vocab.txt"

Task = Classifier | EntailmentClassifier | Tagger | WordFiller | FaqAnswerer
M = TypeVar("M", bound=StructBertModel)

TASKS: Mapping[str, type[Classifier | Tagger | WordFiller | FaqAnswerer]] = {
    "text-classification": Classifier,
    "sentiment-classification": Classifier,
    "sentence-similarity": Classifier,
    "nli": Classifier,
    "zero-shot-classification": Classifier,
    "token-classification": Tagger,
    "word-segmentation": Tagger,
    "part-of-speech": Tagger,
    "named-entity-recognition": Tagger,
    "fill-mask": WordFiller,
    FAQ_TASK: FaqAnswerer,
}
"""ModelScope's tasks, and the model that does each; zero-shot classification is an entailment model, asked."""
ZERO_SHOT = "zero-shot-classification"


def load_task(
    folder: Path,
    task: str = "",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shapes_only: bool = False,
) -> Task:
    """Read a folder for what it was made for, or for another task that it can do.

    Args:
        folder: ModelScope's.
        task: one of `TASKS`; empty: what `configuration.json` says.
        device: as of `load`.
        dtype: as of `load`.
        shapes_only: as of `load`.

    Raises:
        CheckpointError: as `load`; there is no task that we know, or the folder was made for one of another kind.
        MplugError: zero-shot classification is asked of a model that is none of entailment.
    """
    stated = to_config(read_settings(folder)).task
    task = task or stated
    if task not in TASKS:
        raise CheckpointError(f"{folder}: the task is {task!r}; StructBERT's are {', '.join(TASKS)}")
    if stated in TASKS and TASKS[stated] is not TASKS[task]:
        # Their heads may have the same names and shapes; what they give would mean nothing.
        raise CheckpointError(f"{folder} was made for {stated}, and cannot do {task}")
    model = load(folder, TASKS[task], device=device, dtype=dtype, shapes_only=shapes_only)
    return EntailmentClassifier(model) if task == ZERO_SHOT and isinstance(model, Classifier) else model


def load(
    folder: Path,
    kind: type[M],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shapes_only: bool = False,
) -> M:
    """Read a folder, in evaluation mode.

    Args:
        folder: ModelScope's.
        kind: what to make of it: `Classifier`, `Tagger`, `WordFiller` or `FaqAnswerer`.
        device: where the weights go.
        dtype: what they become.
        shapes_only: make the model on the meta device, to see whether everything is there.

    Raises:
        CheckpointError: a file is missing or broken, there are both files of weights, or the tensors do not fit the
            settings.
    """
    config = to_config(read_settings(folder))
    tokenizer = WordPieceTokenizer.from_file(
        folder / VOCAB_FILE, max_length=config.max_length, lower_case=config.lower_case
    )
    tensors = _read_weights(folder, shapes_only)
    try:
        with torch.device("meta" if shapes_only else "cpu"):
            model = kind(config, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    fill(model, tensors, where=folder)
    if dtype in QUANTIZED and not shapes_only:
        return quantize(model.to(device), dtype)
    return model.eval().to(device="meta" if shapes_only else device, dtype=dtype)


def fill(model: StructBertModel, tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Fill a model from a state dict in ModelScope's names, and write its report.

    Args:
        model: receives the tensors.
        tensors: by the file's names.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: a tensor that the model uses is missing or has another shape.
    """
    stored = bare(tensors, model.config.prefix)
    if OUTPUT_BIAS not in stored and "cls.predictions.bias" in stored:
        stored[OUTPUT_BIAS] = stored.pop("cls.predictions.bias")
    wanted = names(model)
    theirs = {ours: file_name(name, model.config) for name, ours in wanted.items()}
    rest = {name: key for name, (key, _) in stored.items() if name not in wanted}
    model.report = load_strictly(
        model,
        {wanted[name]: _float(tensor) for name, (_, tensor) in stored.items() if name in wanted},
        where=where,
        unused=tuple(key for name, key in rest.items() if OTHERS.match(name)),
        unknown=tuple(key for name, key in rest.items() if not OTHERS.match(name)),
        original_name=lambda ours: theirs.get(ours, ours),
    )


def state_dict(model: StructBertModel) -> dict[str, Tensor]:
    """A model's tensors in ModelScope's names, as its own class of the same task has them.

    What no output depends on is not there: the pooler of models that do not pool.
    """
    held = model.state_dict()
    stored = {theirs: held[ours].detach().cpu() for theirs, ours in names(model).items()}
    stored[POSITION_IDS] = torch.arange(model.config.encoder.positions)[None]
    if isinstance(model, WordFiller):
        stored[OUTPUT_WORDS] = stored[WORDS]
    return {file_name(name, model.config): tensor for name, tensor in stored.items()}


def save(model: StructBertModel, folder: Path, *, storage: Storage = "modelscope") -> None:
    """Write a folder as ModelScope has them, making it where needed.

    Args:
        model: what to write, whatever its device and type.
        folder: existing files of the same names are replaced.
        storage: `modelscope`; or `int8`, which `load` reads, for a file of a quarter the size
            (`mplug.checkpoints.quantize`).

    Raises:
        MplugError: the folder holds weights of the other storage.
    """
    check_place(folder, storage, WEIGHTS_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in from_config(model.config).items():
        write_json(folder / name, values)
    model.tokenizer.save(folder / VOCAB_FILE)
    if storage == "int8":
        write_tensors(state_dict(model), folder / OWN_FILE, int8=True)
    else:
        torch.save(state_dict(model), folder / WEIGHTS_FILE)


def _read_weights(folder: Path, shapes_only: bool) -> dict[str, Tensor]:
    own = own_file(folder, WEIGHTS_FILE)
    if own is not None:
        return read_stored(own, shapes_only=shapes_only)
    return read_tensors(folder / WEIGHTS_FILE, shapes_only=shapes_only)


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def count_parameters(config: StructBertConfig, kind: type[StructBertModel]) -> int:
    """Parameters of a model, counted without making it."""
    tokenizer = WordPieceTokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], max_length=config.max_length
    )
    with torch.device("meta"):
        return kind(config, tokenizer).num_parameters
