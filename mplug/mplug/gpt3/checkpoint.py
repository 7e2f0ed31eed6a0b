"""ModelScope's GPT-3 folders to a generator, and a generator to such a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mplug.checkpoints.safe_files import WEIGHTS_FILE as OWN_FILE
from mplug.checkpoints.safe_files import Storage, check_place, own_file, write_tensors
from mplug.checkpoints.shards import RANK_FILE, Shards, check_ranks, rank_files
from mplug.checkpoints.skeleton import skeleton
from mplug.checkpoints.streaming import fill
from mplug.errors import CheckpointError, ConfigError, MplugError
from mplug.gpt3.config import Gpt3Config
from mplug.gpt3.generator import Gpt3Generator
from mplug.gpt3.names import sources
from mplug.gpt3.settings import read_settings, write_settings
from mplug.gpt3.texts import TOKENIZER_FILE, VOCAB_FILE, read_tokenizer

WEIGHTS_FILE = "pytorch_model.bin"
"""Of the plain layout; every name in it begins with `model.`."""
RANKS_FOLDER = "model"
"""Of the distributed one."""


def load(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shapes_only: bool = False,
) -> Gpt3Generator:
    """Read a folder as the hub has it, in evaluation mode.

    The weights are read into their places one by one, so that no more than a twentieth of them is in memory twice.

    Args:
        folder: `config.json`, `configuration.json`, and `vocab.txt` with `pytorch_model.bin`, or `tokenizer.json` with
            `model/mp_rank_00_model_states.pt` and those of further ranks, which are merged. In place of either file of
            weights there may be the `model.safetensors` of `save`.
        device: where the weights go.
        dtype: what they become; the files have float32 or float16.
        shapes_only: make the model on the meta device, to see whether everything is there.

    Raises:
        CheckpointError: a file is missing or broken, there are weights of two kinds, or the tensors do not fit the
            settings.
        MplugError: the tokenizer needs jieba, which is not installed.
    """
    config = read_settings(folder)
    tokenizer = read_tokenizer(folder, config)
    try:
        with skeleton():
            generator = Gpt3Generator(config, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    generator.report = fill(
        generator.decoder,
        Shards.open(_weight_files(folder, config)),
        sources(config),
        where=folder,
        is_unused=lambda name: False,
        bare=_bare,
        device="meta" if shapes_only else device,
        dtype=dtype,
    )
    return generator.eval()


def save(generator: Gpt3Generator, folder: Path, *, ranks: int = 1, storage: Storage = "modelscope") -> None:
    """Write a folder that the reference reads, and `load` does; one of int8 rows is for `load` alone.

    Args:
        generator: what to write, in the layout of its configuration.
        folder: made where needed; existing files of the same names are replaced.
        ranks: files to part the distributed layout's weights into, for so many tensor-parallel ranks.
        storage: `modelscope`, or `int8` for one file of a quarter the size (`mplug.checkpoints.quantize`).

    Raises:
        MplugError: so many ranks cannot be, or the folder holds other weights.
    """
    config = generator.config
    check_place(folder, storage, _hub_files(config))
    _check_ranks(config, folder, ranks, storage)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(config, folder, ranks=ranks)
    generator.tokenizer.save(folder / (VOCAB_FILE if config.layout == "plain" else TOKENIZER_FILE))
    if storage == "int8":
        write_tensors(_state(generator, 0, 1), folder / OWN_FILE, int8=True)
    elif config.layout == "plain":
        torch.save(_state(generator, 0, 1), folder / WEIGHTS_FILE)
    else:
        (folder / RANKS_FOLDER).mkdir(exist_ok=True)
        for rank in range(ranks):
            state = {"module": _state(generator, rank, ranks)}
            torch.save(state, folder / RANKS_FOLDER / RANK_FILE.format(rank))


def _state(generator: Gpt3Generator, rank: int, ranks: int) -> dict[str, Tensor]:
    tensors, config = generator.decoder.state_dict(), generator.config
    prefix = "model." if config.layout == "plain" else ""
    return {prefix + source.name: source.give(tensors, rank, ranks) for source in sources(config)}


def _weight_files(folder: Path, config: Gpt3Config) -> list[Path]:
    own = own_file(folder, _hub_files(config))
    if own is not None:
        return [own]
    return [folder / WEIGHTS_FILE] if config.layout == "plain" else rank_files(folder / RANKS_FOLDER)


def _hub_files(config: Gpt3Config) -> str:
    return WEIGHTS_FILE if config.layout == "plain" else f"{RANKS_FOLDER}/mp_rank_*"


def _bare(key: str) -> str:
    return key.removeprefix("model.")


def _check_ranks(config: Gpt3Config, folder: Path, ranks: int, storage: Storage) -> None:
    if config.layout == "distributed" and storage == "modelscope":
        sizes = {name: getattr(config, name) for name in ("heads", "vocab_size", "ffn")}
        check_ranks(ranks, folder / RANKS_FOLDER, sizes)
    elif ranks != 1:
        one = "the plain layout" if config.layout == "plain" else f"the storage {storage!r}"
        raise MplugError(f"ranks is {ranks}; {one} has one file, so it must be 1")
