"""Image tokens on the disk: append-only segment files, read through memory maps, every record under a checksum.

A record is a header and the numbers of one picture. The header's own checksum lets a start index a segment without
reading the numbers; theirs is verified at every read. What is torn (by a crash) or damaged is taken for not there:
it is a cache, so nothing is synced and nothing is repaired. A start never appends to what it found: it begins a
segment of its own. When room is needed the oldest segment goes, whole.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mplug_services.stored_tokens import StoredTokens, TokenStorage, from_bytes, size_in_bytes

logger = logging.getLogger(__name__)

MAGIC = b"mTK1"
# Magic, form, rows, width, checksum of the numbers, both halves of the key; then the checksum of these.
_HEADER = struct.Struct("<4sB3xIII32s32s")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_FORMS = {TokenStorage.FP16: 1, TokenStorage.INT8: 2}
SEGMENTS = 16
"""Into so many the budget is cut: a sixteenth of the cache goes at once."""
SUFFIX = ".tokens"


class TokenKey(NamedTuple):
    """Whose tokens they are."""

    image_sha256: str
    """Of the file's bytes, in hex."""
    tower: str
    """Fingerprint of the vision tower, 64 hexadecimal digits."""

    def packed(self) -> tuple[bytes, bytes]:
        """Both as 32 bytes."""
        return bytes.fromhex(self.image_sha256), bytes.fromhex(self.tower)


class SegmentsBusyError(OSError):
    """Another process uses the folder."""


@dataclass(frozen=True, slots=True)
class _Header:
    key: TokenKey
    form: int
    rows: int
    width: int
    checksum: int

    def pack(self) -> bytes:
        fields = _HEADER.pack(MAGIC, self.form, self.rows, self.width, self.checksum, *self.key.packed())
        return fields + _CHECKSUM.pack(zlib.crc32(fields))

    @classmethod
    def unpack(cls, data: bytes) -> _Header | None:
        if len(data) < HEADER_BYTES or data[:4] != MAGIC:
            return None
        fields = data[: _HEADER.size]
        if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != zlib.crc32(fields):
            return None
        _, form, rows, width, checksum, image, tower = _HEADER.unpack(fields)
        return cls(TokenKey(image.hex(), tower.hex()), form, rows, width, checksum)

    @property
    def payload_bytes(self) -> int:
        storage = TokenStorage.INT8 if self.form == _FORMS[TokenStorage.INT8] else TokenStorage.FP16
        return size_in_bytes(storage, self.rows, self.width)


class _Segment:
    """One file. `size` is how much of it is whole records as far as the headers say."""

    def __init__(self, path: Path, flags: int = 0) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        self._map: mmap.mmap | None = None
        self.size = os.fstat(self._fd).st_size
        """Bytes of the file, what is torn included."""

    def append(self, record: bytes) -> int:
        """Write a record; returns its place. What a failed write left behind is cut off."""
        place = self.size
        try:
            view = memoryview(record)
            while view:
                view = view[os.pwrite(self._fd, view, self.size) :]
                self.size = place + len(record) - len(view)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, place)
                self.size = place
            raise
        return place

    def read(self, place: int, length: int) -> bytes:
        """The bytes there; fewer where the file has become shorter."""
        # Touching a map beyond the end of its file kills the process, so the file's length is asked every time.
        size = os.fstat(self._fd).st_size
        if place + length > size:
            return b""
        if self._map is None or len(self._map) < place + length:
            self._unmap()
            self._map = mmap.mmap(self._fd, size, access=mmap.ACCESS_READ)
        return self._map[place : place + length]

    def close(self) -> None:
        self._unmap()
        os.close(self._fd)

    def _unmap(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None


class TokenSegments:
    """The segments of a folder. Not for several threads at once.

    Args:
        folder: theirs alone; made where it is not there.
        storage: the form; records of another form are not found.
        max_bytes: most that the files may take together.

    Raises:
        SegmentsBusyError: another process uses the folder.
        OSError: it cannot be read or written.
    """

    def __init__(self, folder: Path, storage: TokenStorage, max_bytes: int) -> None:
        self.damaged = 0
        """Records that were found to be torn or changed."""
        self._folder = folder
        self._storage = storage
        self._max_bytes = max_bytes
        self._places: dict[TokenKey, tuple[int, int]] = {}
        self._segments: dict[int, _Segment] = {}  # by number, so the oldest first
        self._active: int | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open_segments()
        except BlockingIOError as error:
            self.close()
            raise SegmentsBusyError(f"{folder} is used by another process") from error
        except BaseException:
            self.close()
            raise

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(segment.size for segment in self._segments.values())

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def get(self, key: TokenKey) -> StoredTokens | None:
        """The tokens of a key; None where there are none that are whole."""
        if key not in self._places:
            return None
        number, place = self._places[key]
        tokens = self._read(self._segments[number], place, key)
        if tokens is None:
            self.damaged += 1
            del self._places[key]
            logger.warning("stored image tokens in %s are damaged and dropped", self._segments[number].path)
        return tokens

    def put(self, key: TokenKey, tokens: StoredTokens) -> bool:
        """Keep tokens; whether they are there now. Those that the budget cannot hold are not.

        Raises:
            OSError: the disk failed or is full; they were not kept.
        """
        if key in self._places:
            return True
        payload = tokens.to_bytes()
        rows, width = tokens.values_ND.shape
        record = _Header(key, _FORMS[self._storage], rows, width, zlib.crc32(payload)).pack() + payload
        if len(record) > self._max_bytes:
            return False
        number = self._segment_for(len(record))
        self._places[key] = (number, self._segments[number].append(record))
        return True

    def close(self) -> None:
        """Give the folder free."""
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()
        self._places.clear()
        os.close(self._lock)

    def _open_segments(self) -> None:
        names = [path for path in self._folder.glob(f"*{SUFFIX}") if path.stem.isdecimal()]
        for path in sorted(names, key=lambda path: int(path.stem)):
            self._segments[int(path.stem)] = _Segment(path)
            self._index(int(path.stem))
        self._make_room(0)

    def _index(self, number: int) -> None:
        """Find a segment's records, up to the first that is not whole."""
        segment = self._segments[number]
        place = 0
        while place < segment.size:
            header = _Header.unpack(segment.read(place, HEADER_BYTES))
            end = place + HEADER_BYTES + (header.payload_bytes if header else 0)
            if header is None or end > segment.size:
                self.damaged += 1
                logger.info("%s is torn after %d bytes; what follows is dropped", segment.path, place)
                return
            if header.form == _FORMS[self._storage]:
                self._places[header.key] = (number, place)
            place = end

    def _read(self, segment: _Segment, place: int, key: TokenKey) -> StoredTokens | None:
        header = _Header.unpack(segment.read(place, HEADER_BYTES))
        if header is None or header.key != key or header.form != _FORMS[self._storage]:
            return None
        payload = segment.read(place + HEADER_BYTES, header.payload_bytes)
        if len(payload) != header.payload_bytes or zlib.crc32(payload) != header.checksum:
            return None
        return from_bytes(payload, self._storage, header.rows, header.width)

    def _segment_for(self, length: int) -> int:
        """Number of the segment that takes the next record; room is made for it."""
        full = self._max_bytes // SEGMENTS
        if self._active is not None and self._segments[self._active].size + length > full:
            self._active = None
        self._make_room(length)
        if self._active is None:
            number = max(self._segments, default=0) + 1
            path = self._folder / f"{number:08d}{SUFFIX}"
            self._segments[number] = _Segment(path, os.O_CREAT | os.O_EXCL)
            self._active = number
        return self._active

    def _make_room(self, length: int) -> None:
        while self._segments and self.nbytes + length > self._max_bytes:
            oldest = next(iter(self._segments))
            segment = self._segments.pop(oldest)
            self._places = {key: place for key, place in self._places.items() if place[0] != oldest}
            segment.close()
            segment.path.unlink(missing_ok=True)
            if oldest == self._active:
                self._active = None
