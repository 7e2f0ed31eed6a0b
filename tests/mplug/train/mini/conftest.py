"""Data and a start for the stages of mplug-mini; one thread, since tiny tensors are slower with several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mini_pictures import Loop, small, stage_config, write_data, write_start
from mplug.train.mini.experiment import open_stage


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all stages, which share the towers; other modules get their threads back."""
    folder = tmp_path_factory.mktemp("cache")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLUG_CACHE", str(folder))
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def written(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What (c) leaves: captions and answers by heart."""
    config = stage_config(start, goal="writing", batch=small(captioned=12, questions=12))
    stage = open_stage(config, data)
    Loop(stage).run(150)
    folder = tmp_path_factory.mktemp("written")
    stage.save(folder)
    return folder
