"""Where a picture's bytes lie. They are read when they are needed, by the threads that decode them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Picture(Protocol):
    """A picture that has not been read yet."""

    def read(self) -> bytes:
        """The bytes of the image file.

        Raises:
            OSError: they cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file of its own."""

    path: Path

    def read(self) -> bytes:
        """The bytes of the image file."""
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class PictureBytes:
    """Bytes that came with their row."""

    data: bytes

    def read(self) -> bytes:
        """The bytes of the image file."""
        return self.data


@dataclass(frozen=True, slots=True)
class PictureInside:
    """A stretch of a larger file: a member of a tar archive."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes of the image file."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise OSError(f"{self.path} ends inside the picture at byte {self.offset}")
        return data
