"""Pictures to ingest, from what is named on the command line: folders, patterns, files, JSON lines."""

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from mplug_services.cli.common import Refusal, UsageError
from mplug_services.cli.conditions import parse_time
from mplug_services.client import IngestItem, PayloadValue

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Names that are taken for pictures inside a folder or a pattern; a file that is named is always taken."""


Found: TypeAlias = IngestItem | Refusal


def find_items(sources: Sequence[str], time_fields: Sequence[str] = ()) -> list[Found]:
    """Everything that the sources name, in a stable order; an id that comes a second time is refused.

    Raises:
        UsageError: A source does not exist or holds no picture.
    """
    items: list[Found] = []
    seen: set[str] = set()
    for source in sources:
        found = list(_expand(source, time_fields))
        if not found:
            raise UsageError(f"{source} holds no picture ({', '.join(sorted(SUFFIXES))})")
        for item in found:
            if isinstance(item, IngestItem) and item.id in seen:
                item = Refusal(item.id, f"the id stands more than once; the second time in {source}")
            seen.add(item.id)
            items.append(item)
    return items


def _expand(source: str, time_fields: Sequence[str]) -> Iterator[Found]:
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        if path.suffix == ".jsonl":
            return _json_lines(path, time_fields)
        return iter([IngestItem(path.name, path)])
    if glob.has_magic(source):
        return _pattern(source)
    raise UsageError(f"{source} does not exist; give a folder, a pattern, a picture or a .jsonl file")


def _folder(folder: Path) -> Iterator[Found]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield IngestItem(relative.as_posix(), path)


def _pattern(pattern: str) -> Iterator[Found]:
    """Ids are relative to the folder that the pattern names before its first wildcard."""
    parts = Path(pattern).parts
    first_wild = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:first_wild])
    for name in sorted(glob.glob(pattern, recursive=True)):
        path = Path(name)
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield IngestItem(path.relative_to(base).as_posix(), path)


def _json_lines(file: Path, time_fields: Sequence[str]) -> Iterator[Found]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _json_line(file, number, line, time_fields)


def _json_line(file: Path, number: int, line: str, time_fields: Sequence[str]) -> Found:
    place = f"{file.name}:{number}"
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        return Refusal(place, f"not JSON: {error}")
    if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
        return Refusal(place, 'not an object with a text field "image"')
    image = fields.pop("image")
    id = fields.pop("id", image)
    try:
        payload = {
            key: _payload(key, value, time_fields) for key, value in fields.items() if value is not None
        }
    except ValueError as error:
        return Refusal(str(id), str(error))
    return IngestItem(str(id), file.parent / image, payload)


def _payload(key: str, value: object, time_fields: Sequence[str]) -> PayloadValue:
    if key in time_fields:
        if not isinstance(value, str):
            raise ValueError(f"field {key!r} is no time: {value!r}")
        try:
            return parse_time(value)
        except ValueError as error:
            raise ValueError(f"field {key!r} is no time: {value!r}") from error
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(str(item) for item in value)
    raise ValueError(f"field {key!r} is neither text, number, true, false nor a list of texts: {value!r}")
