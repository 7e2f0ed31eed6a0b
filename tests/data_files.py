"""The same rows written as every kind of file that can be trained on."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Rows = Sequence[dict[str, Any]]


def png(number: int) -> bytes:
    """A small picture of a colour of its own."""
    data = io.BytesIO()
    Image.new("RGB", (12, 8), (number * 7 % 256, number * 31 % 256, number % 256)).save(data, "PNG")
    return data.getvalue()


def captioned(count: int) -> Rows:
    """Rows with a picture's path and captions in two languages."""
    return [
        {
            "id": f"r{n}",
            "image": f"images/photo/{n}.png",
            "captions": [f"caption {n}", "a b"],
            "captions_zh": [f"第{n}"],
        }
        for n in range(count)
    ]


def write_pictures(folder: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        path = folder / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


def write_jsonl(folder: Path, rows: Rows) -> str:
    write_pictures(folder, rows)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_csv(folder: Path, rows: Rows) -> str:
    write_pictures(folder, rows)
    path = folder / "rows.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        for row in rows:
            table.writerow({name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()})
    return str(path)


def write_parquet(folder: Path, rows: Rows) -> str:
    path = folder / "rows.parquet"
    pq.write_table(_table(rows), path, row_group_size=7)
    return str(path)


def write_shards(folder: Path, rows: Rows) -> str:
    for shard in range(3):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            for number, row in list(enumerate(rows))[shard::3]:
                columns = {name: value for name, value in row.items() if name != "image"}
                add_member(archive, row["image"], png(number))
                add_member(archive, f"{row['image'].removesuffix('.png')}.json", json.dumps(columns).encode())
    return str(folder / "{000..002}.tar")


def write_folder(folder: Path, rows: Rows) -> str:
    """An image folder of Hugging Face's kind, in two splits."""
    for split, part in (("train", rows[1:]), ("validation", rows[:1])):
        here = folder / split
        here.mkdir()
        renamed = [{"file_name" if name == "image" else name: v for name, v in row.items()} for row in part]
        (here / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in renamed))
        for row in part:
            (here / row["image"]).parent.mkdir(parents=True, exist_ok=True)
            (here / row["image"]).write_bytes(png(list(rows).index(row)))
    (folder / "README.md").write_text("A card.")
    return str(folder)


def write_parquet_folder(folder: Path, rows: Rows) -> str:
    """A dataset of Hugging Face's kind: Parquet files under data/."""
    (folder / "data").mkdir()
    half = len(rows) // 2
    for part, name in ((rows[:half], "train-00000-of-00002"), (rows[half:], "train-00001-of-00002")):
        pq.write_table(_table(part, list(rows).index(part[0])), folder / "data" / f"{name}.parquet")
    (folder / "README.md").write_text("A card.")
    return str(folder)


WRITERS: dict[str, Callable[[Path, Rows], str]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "parquet": write_parquet,
    "shards": write_shards,
    "folder": write_folder,
    "parquet folder": write_parquet_folder,
}


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _table(rows: Rows, first: int = 0) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {**row, "image": {"bytes": png(first + number), "path": row["image"]}}
            for number, row in enumerate(rows)
        ]
    )
