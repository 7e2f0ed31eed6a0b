"""Files of tensor-parallel ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mplug.checkpoints import shards
from mplug.checkpoints.shards import Shards, rank_files
from mplug.checkpoints.skeleton import skeleton
from mplug.errors import CheckpointError


def write(folder: Path, ranks: int) -> list[Path]:
    for rank in range(ranks):
        held = {
            "rows": torch.full((2, 3), rank),
            "small": torch.tensor([rank]),
            "large": torch.full((50, 4), rank),
        }
        torch.save({"module": held}, folder / shards.RANK_FILE.format(rank))
    return rank_files(folder)


def test_parts_come_in_the_order_of_the_files_largest_tensor_first(tmp_path: Path) -> None:
    opened = Shards.open(write(tmp_path, 4))
    assert [path.name for path in opened.paths] == [f"mp_rank_0{rank}_model_states.pt" for rank in range(4)]
    assert all(held["large"].is_meta for held in opened.shapes)
    read = [
        (name, [part.clone() for part in parts]) for name, parts in opened.read(["small", "rows", "large"])
    ]
    assert [name for name, _ in read] == ["large", "rows", "small"]
    assert all([int(part.flatten()[0]) for part in parts] == [0, 1, 2, 3] for _, parts in read)


def test_files_with_other_names_are_no_ranks(tmp_path: Path) -> None:
    (tmp_path / "mp_rank_00_optim_states.pt").touch()
    with pytest.raises(CheckpointError, match=r"holds no mp_rank_00_model_states\.pt"):
        rank_files(tmp_path)


def test_a_skeleton_has_shapes_and_no_numbers() -> None:
    with skeleton():
        layer, table = torch.nn.Linear(4, 3), torch.nn.Embedding(5, 2)
    assert layer.weight.is_meta
    assert table.weight.shape == (5, 2)
    assert torch.nn.Linear(4, 3).weight.std() > 0, "afterwards all is as before"
