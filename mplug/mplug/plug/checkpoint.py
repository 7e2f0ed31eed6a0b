"""ModelScope's PLUG folders, read and written.

`config.json`, `configuration.json`, `vocab.txt`, and `model/mp_rank_00_model_states.pt` with those of further
tensor-parallel ranks; the published model has eight. In place of the folder `model` there may be the
`model.safetensors` of int8 rows that `save` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mplug.checkpoints.report import LoadReport
from mplug.checkpoints.safe_files import WEIGHTS_FILE as OWN_FILE
from mplug.checkpoints.safe_files import Storage, check_place, own_file, write_tensors
from mplug.checkpoints.shards import RANK_FILE, Shards, check_ranks, rank_files
from mplug.checkpoints.skeleton import skeleton
from mplug.checkpoints.streaming import Source, both, fill
from mplug.errors import CheckpointError, ConfigError, MplugError
from mplug.plug.classifier import PlugClassifier
from mplug.plug.config import PlugConfig
from mplug.plug.generator import PlugGenerator
from mplug.plug.model import PlugModel
from mplug.plug.names import HEAD, TIED, bare, decoder_sources, encoder_sources, head_sources, is_unused
from mplug.plug.settings import read_settings, write_settings
from mplug.quantization import QUANTIZED
from mplug.quantized_linear import COMPUTED
from mplug.text.tokenizer import WordPieceTokenizer

RANKS_FOLDER = "model"
HUB_FILES = f"{RANKS_FOLDER}/mp_rank_*"
VOCAB_FILE = "vocab.txt"

Plug = PlugGenerator | PlugClassifier


def load(
    folder: Path,
    *,
    pretraining: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shapes_only: bool = False,
) -> PlugGenerator:
    """Read a folder as the hub has it, in evaluation mode.

    The ranks are merged a tensor at a time, so that little of the weights is in memory twice.

    Args:
        folder: holds the files above.
        pretraining: read the heads of pretraining, too, so that `save` writes the whole checkpoint.
        device: where the weights go.
        dtype: what they become; the published ones are float16.
        shapes_only: make the model on the meta device, to see whether everything is there.

    Raises:
        CheckpointError: a file is missing or broken, there are weights of two kinds, or the tensors do not fit the
            settings.
    """
    config = read_settings(folder)
    tokenizer = _tokenizer(folder, config)
    try:
        with skeleton():
            model = PlugGenerator(config, tokenizer, pretraining=pretraining)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    place = "meta" if shapes_only else device
    model.report = _fill(model, _sources(model), _shards(folder), folder, place, dtype)
    return model.eval()


def load_classifier(
    folder: Path,
    *,
    labels: tuple[str, ...] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shapes_only: bool = False,
) -> PlugClassifier:
    """Read the encoder alone, and a classifier's layer on it; the decoder takes no memory.

    Args:
        folder: as of `load`; a fine-tuned model's weights have `classifier.weight` and `classifier.bias`.
        labels: of the classifier, none = those that the folder names. For labels that are given, where the weights have
            no classifier, its layer is new: a model to be fine-tuned.
        device: as of `load`.
        dtype: as of `load`.
        shapes_only: as of `load`.

    Raises:
        CheckpointError: as `load`; or there are no labels, or no layer for those that the folder names.
    """
    config = read_settings(folder, labels=labels)
    tokenizer = _tokenizer(folder, config)
    try:
        with skeleton():
            model = PlugClassifier(config, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    shards = _shards(folder)
    place = "meta" if shapes_only else device
    if labels and HEAD not in {bare(key) for key in shards.shapes[0]}:
        sources = encoder_sources(config, "")
        model.report = _fill(model.encoder, sources, shards, folder, place, dtype)
        kind = COMPUTED if dtype in QUANTIZED else dtype
        model.classifier = nn.Linear(config.hidden, len(labels), device=place, dtype=kind)
    else:
        model.report = _fill(model, _sources(model), shards, folder, place, dtype)
    return model.eval()


def save(model: Plug, folder: Path, *, ranks: int | None = None, storage: Storage = "modelscope") -> None:
    """Write a folder as ModelScope has them, making it where needed: the parts that the model holds.

    Args:
        model: what to write, whatever its device and type.
        folder: existing files of the same names are replaced.
        ranks: files to split the weights into, for so many tensor-parallel ranks; None = 8, as published, or one
            of int8.
        storage: `modelscope`; or `int8`, which `load` reads, for one file of a quarter the size
            (`mplug.checkpoints.quantize`).

    Raises:
        MplugError: so many ranks cannot be, or the folder holds other weights.
    """
    check_place(folder, storage, HUB_FILES)
    ranks = ranks or (1 if storage == "int8" else 8)
    _check_ranks(model.config, folder, ranks, storage)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(model.config, folder, ranks=ranks)
    model.tokenizer.save(folder / VOCAB_FILE)
    if storage == "int8":
        write_tensors(rank_state(model, 0, 1), folder / OWN_FILE, int8=True)
        return
    (folder / RANKS_FOLDER).mkdir(exist_ok=True)
    for rank in range(ranks):
        torch.save({"module": rank_state(model, rank, ranks)}, folder / RANKS_FOLDER / RANK_FILE.format(rank))


def rank_state(model: PlugModel | PlugClassifier, rank: int, ranks: int) -> dict[str, Tensor]:
    """One rank's state dict, in the reference's names and order."""
    tensors = model.state_dict()
    state = {source.name: source.give(tensors, rank, ranks) for source in _sources(model)}
    if isinstance(model, PlugModel) and model.heads is not None:
        twin, read = TIED
        state[twin] = state[read]
    return state


def count_parameters(config: PlugConfig) -> int:
    """Parameters of a model without the heads of pretraining, counted on the meta device."""
    with skeleton():
        return PlugModel(config).num_parameters


def _sources(model: PlugModel | PlugClassifier) -> Iterator[Source]:
    yield from encoder_sources(model.config)
    if isinstance(model, PlugClassifier):
        yield from both("classifier", "classifier")
        return
    if model.heads is not None:
        yield from head_sources()
    yield from decoder_sources(model.config)


def _shards(folder: Path) -> Shards:
    own = own_file(folder, HUB_FILES)
    return Shards.open(rank_files(folder / RANKS_FOLDER) if own is None else [own])


def _check_ranks(config: PlugConfig, folder: Path, ranks: int, storage: Storage) -> None:
    if storage == "modelscope":
        sizes = {name: getattr(config, name) for name in ("heads", "vocab_size", "ffn")}
        check_ranks(ranks, folder / RANKS_FOLDER, sizes)
    elif ranks != 1:
        raise MplugError(f"ranks is {ranks}; the storage {storage!r} has one file, so it must be 1")


def _fill(
    part: nn.Module,
    sources: Iterator[Source],
    shards: Shards,
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype,
) -> LoadReport:
    return fill(
        part,
        shards,
        list(sources),
        where=folder,
        is_unused=is_unused,
        bare=bare,
        device=device,
        dtype=dtype,
    )


def _tokenizer(folder: Path, config: PlugConfig) -> WordPieceTokenizer:
    return WordPieceTokenizer.from_file(folder / VOCAB_FILE, max_length=config.max_length)
