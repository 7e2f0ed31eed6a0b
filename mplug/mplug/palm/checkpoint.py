"""ModelScope's PALM folders, read and written.

`config.json`, `configuration.json`, `pytorch_model.bin`, and a folder that `config.json` names, with the encoder's
`config.json` and its vocabulary. In place of `pytorch_model.bin` there may be the `model.safetensors` of int8 rows that
`save` writes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mplug.checkpoints.safe_files import WEIGHTS_FILE as OWN_FILE
from mplug.checkpoints.safe_files import Storage, check_place, own_file, write_tensors
from mplug.checkpoints.shards import Shards
from mplug.checkpoints.skeleton import skeleton
from mplug.checkpoints.streaming import fill
from mplug.errors import CheckpointError, ConfigError
from mplug.palm.config import PalmConfig
from mplug.palm.generator import PalmGenerator
from mplug.palm.model import PalmModel
from mplug.palm.names import TIED, bare, is_unused, sources
from mplug.palm.settings import read_settings, write_settings
from mplug.palm.texts import save_tokenizer

WEIGHTS_FILE = "pytorch_model.bin"
PREFIX = "palm."


def load(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shapes_only: bool = False,
) -> PalmGenerator:
    """Read a folder as the hub has it, in evaluation mode.

    Args:
        folder: holds the files above; the names in the weights may begin with `model.` or `palm.`, or be within a
            dictionary of one of these names.
        device: where the weights go.
        dtype: what they become.
        shapes_only: make the model on the meta device, to see whether everything is there.

    Raises:
        CheckpointError: a file is missing or broken, there are both files of weights, or the tensors do not fit the
            settings.
    """
    config, tokenizer = read_settings(folder)
    try:
        with skeleton():
            model = PalmGenerator(config, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    model.report = fill(
        model,
        Shards.open([own_file(folder, WEIGHTS_FILE) or folder / WEIGHTS_FILE]),
        sources(config),
        where=folder,
        is_unused=is_unused,
        bare=bare,
        device="meta" if shapes_only else device,
        dtype=dtype,
    )
    return model.eval()


def save(model: PalmGenerator, folder: Path, *, storage: Storage = "modelscope") -> None:
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
    write_settings(model.config, folder)
    save_tokenizer(model.tokenizer, folder / model.config.encoder_folder)
    if storage == "int8":
        write_tensors(state_dict(model), folder / OWN_FILE, int8=True)
    else:
        torch.save(state_dict(model), folder / WEIGHTS_FILE)


def state_dict(model: PalmModel) -> dict[str, Tensor]:
    """A model's tensors in ModelScope's names.

    What no output depends on is not there, and the reference makes it itself: the encoder's pooler, masks, positions.
    """
    tensors = model.state_dict()
    stored = {source.name: source.give(tensors) for source in sources(model.config)}
    twin, read = TIED
    stored[twin] = stored[read]
    return {PREFIX + name: tensor for name, tensor in stored.items()}


def count_parameters(config: PalmConfig) -> int:
    """Parameters of a model, counted on the meta device."""
    with skeleton():
        return PalmModel(config).num_parameters
