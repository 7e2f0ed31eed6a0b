"""ModelScope's GPT-3 folders to a generator, and a generator to such a folder."""

from __future__ import annotations

from pathlib import Path

import torch

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
            `model/mp_rank_00_model_states.pt` and those of further ranks, which are merged.
        device: where the weights go.
        dtype: what they become; the files have float32 or float16.
        shapes_only: make the model on the meta device, to see whether everything is there.

    Raises:
        CheckpointError: a file is missing or broken, or the tensors do not fit the settings.
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


def save(generator: Gpt3Generator, folder: Path, *, ranks: int = 1) -> None:
    """Write a folder that the reference reads, and `load` does.

    Args:
        generator: what to write, in the layout of its configuration.
        folder: made where needed; existing files of the same names are replaced.
        ranks: files to part the distributed layout's weights into, for so many tensor-parallel ranks.

    Raises:
        MplugError: so many ranks cannot be, or the folder holds files of more.
    """
    config = generator.config
    _check_ranks(config, folder, ranks)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(config, folder, ranks=ranks)
    generator.tokenizer.save(folder / (VOCAB_FILE if config.layout == "plain" else TOKENIZER_FILE))
    tensors = generator.decoder.state_dict()
    if config.layout == "plain":
        state = {f"model.{source.name}": source.give(tensors) for source in sources(config)}
        torch.save(state, folder / WEIGHTS_FILE)
        return
    (folder / RANKS_FOLDER).mkdir(exist_ok=True)
    for rank in range(ranks):
        state = {source.name: source.give(tensors, rank, ranks) for source in sources(config)}
        torch.save({"module": state}, folder / RANKS_FOLDER / RANK_FILE.format(rank))


def _weight_files(folder: Path, config: Gpt3Config) -> list[Path]:
    return [folder / WEIGHTS_FILE] if config.layout == "plain" else rank_files(folder / RANKS_FOLDER)


def _bare(key: str) -> str:
    return key.removeprefix("model.")


def _check_ranks(config: Gpt3Config, folder: Path, ranks: int) -> None:
    if config.layout == "distributed":
        sizes = {name: getattr(config, name) for name in ("heads", "vocab_size", "ffn")}
        check_ranks(ranks, folder / RANKS_FOLDER, sizes)
    elif ranks != 1:
        raise MplugError(f"ranks is {ranks}; the plain layout has one file, so it must be 1")
