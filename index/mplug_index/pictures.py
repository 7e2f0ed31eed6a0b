"""The pictures behind the points: by content, or by where they lie under a configured root."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from mplug_index.errors import (
    PictureAccessError,
    PictureCorruptError,
    PictureNotFoundError,
    PictureTooLargeError,
    StorageError,
)
from mplug_index.storage import sync_directory

_NAME = re.compile(r"[0-9a-f]{64}")
_STALE_SECONDS = 3600.0
"""An unfinished file this old is nobody's any more."""


class PictureStore:
    """Files named by the SHA-256 of their bytes, in a directory.

    Any number of threads and processes may use one. Names are spread over 256 folders by their first two digits.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens the directory, or makes it.

        Raises:
            StorageError: It cannot be made or written.
        """
        self._path = Path(path)
        self._unfinished = self._path / "unfinished"
        try:
            self._unfinished.mkdir(parents=True, exist_ok=True)
            sync_directory(self._path.absolute().parent)
            sync_directory(self._path)
            self._drop_stale()
        except OSError as error:
            text = f"the picture directory cannot be used: {error.strerror or error}"
            raise StorageError(text, field="path") from error

    def put(self, data: bytes) -> str:
        """Stores bytes durably; storing them again is cheap.

        Returns:
            Their SHA-256, 64 hexadecimal digits: the name for `get`.

        Raises:
            StorageError: The disk failed or is full; nothing was stored.
        """
        name = hashlib.sha256(data).hexdigest()
        file = self._file(name)
        try:
            if not self._has(file, len(data)):
                self._write(file, data)
            # Also where the file was there: whoever put it may not have come to this line yet.
            sync_directory(file.parent)
        except OSError as error:
            raise StorageError(f"a picture could not be stored: {error.strerror or error}") from error
        return name

    def get(self, sha256: str) -> bytes:
        """The bytes of a name.

        Raises:
            PictureNotFoundError: There are none.
            PictureCorruptError: They changed on disk.
            StorageError: They cannot be read.
        """
        if not _NAME.fullmatch(sha256):
            text = f"a picture's name is 64 lowercase hexadecimal digits, not {sha256[:80]!r}"
            raise PictureNotFoundError(text, field="sha256")
        try:
            data = self._file(sha256).read_bytes()
        except FileNotFoundError:
            raise PictureNotFoundError(f"no picture {sha256} is stored", field="sha256") from None
        except OSError as error:
            raise StorageError(f"a picture could not be read: {error.strerror or error}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise PictureCorruptError(
                f"the picture {sha256} is damaged on disk; ingest it again", field="sha256"
            )
        return data

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and bool(_NAME.fullmatch(sha256)) and self._file(sha256).is_file()

    def _file(self, name: str) -> Path:
        return self._path / name[:2] / name

    @staticmethod
    def _has(file: Path, size: int) -> bool:
        try:
            return file.stat().st_size == size
        except FileNotFoundError:
            return False

    def _write(self, file: Path, data: bytes) -> None:
        if not file.parent.is_dir():
            file.parent.mkdir(exist_ok=True)
            sync_directory(self._path)
        fd, unfinished = tempfile.mkstemp(dir=self._unfinished)
        try:
            with os.fdopen(fd, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, file)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise

    def _drop_stale(self) -> None:
        for file in self._unfinished.iterdir():
            with suppress(FileNotFoundError):  # another process drops the same
                if time.time() - file.stat().st_mtime > _STALE_SECONDS:
                    file.unlink()


class PictureRoot:
    """Pictures that lie in a directory tree, named by their paths relative to it."""

    def __init__(self, path: str | Path) -> None:
        """Takes the directory.

        Raises:
            PictureAccessError: It is none.
        """
        self._root = Path(path).resolve()
        if not self._root.is_dir():
            raise PictureAccessError(
                "the image root is no directory; make it or configure another", field="path"
            )

    def resolve(self, uri: str) -> Path:
        """Where a picture lies, all symbolic links followed; always under the root.

        Raises:
            PictureNotFoundError: There is nothing of this name.
            PictureAccessError: The name is absolute, or leads out of the root.
        """
        if not uri or "\0" in uri or Path(uri).is_absolute() or ".." in Path(uri).parts:
            text = f"an image uri is a relative path without '..', not {uri[:200]!r}"
            raise PictureAccessError(text, field="uri")
        try:
            path = (self._root / uri).resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            raise PictureNotFoundError(f"there is no image {uri[:200]!r}", field="uri") from None
        except (
            OSError,
            RuntimeError,
            ValueError,
        ):  # a loop of links, no permission, a name too long, not UTF-8
            raise PictureAccessError(f"the image {uri[:200]!r} cannot be reached", field="uri") from None
        if not path.is_relative_to(self._root):
            raise PictureAccessError(f"the image {uri[:200]!r} lies outside of the image root", field="uri")
        return path

    def read(self, uri: str, max_bytes: int) -> bytes:
        """The bytes of a picture.

        Raises:
            PictureNotFoundError: There is nothing of this name.
            PictureAccessError: It leads out of the root, or is no plain file, or may not be read.
            PictureTooLargeError: It has more than `max_bytes`.
        """
        path = self.resolve(uri)
        try:
            fd = self._open(path)
        except OSError:
            raise PictureAccessError(f"the image {uri[:200]!r} cannot be read", field="uri") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise PictureAccessError(f"{uri[:200]!r} is no plain file", field="uri")
        with os.fdopen(fd, "rb") as stream:
            data = stream.read(max_bytes + 1)
        if len(data) > max_bytes:
            text = f"the image {uri[:200]!r} has more than {max_bytes} bytes"
            raise PictureTooLargeError(text, field="uri")
        return data

    def _open(self, path: Path) -> int:
        """Opens folder by folder and follows no link, so that none put in after `resolve` leads out."""
        *folders, name = path.relative_to(self._root).parts or (".",)
        common = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = os.open(self._root, common | os.O_DIRECTORY)
        try:
            for each in folders:
                below = os.open(each, common | os.O_DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = below
            # Not blocking: opening a FIFO would wait for its writer.
            return os.open(name, common | os.O_NONBLOCK, dir_fd=folder)
        finally:
            os.close(folder)
