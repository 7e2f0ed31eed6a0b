"""What can go wrong in a database, each with the value, the field and the remedy in its message."""

from __future__ import annotations

from collections.abc import Iterable


class IndexStoreError(Exception):
    """Base of every error of this package.

    Attributes:
        field: Name of the argument at fault, "" where none is.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class CollectionNotFoundError(IndexStoreError, LookupError):
    """No collection and no alias has this name."""


class CollectionExistsError(IndexStoreError, ValueError):
    """The name is taken by a collection or by an alias."""


class AliasNotFoundError(IndexStoreError, LookupError):
    """No alias has this name."""


class InvalidNameError(IndexStoreError, ValueError):
    """A collection, alias or fingerprint is not a proper name."""


class InvalidIdError(IndexStoreError, ValueError):
    """A point's id, or a request id, is empty, too long or not UTF-8."""


class DuplicateIdError(IndexStoreError, ValueError):
    """A batch holds an id more than once; nothing of it was written.

    Attributes:
        ids: The repeated ids, each once, in the order of the batch.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = tuple(ids)
        shown = ", ".join(repr(each) for each in self.ids[:10])
        more = "" if len(self.ids) <= 10 else f" and {len(self.ids) - 10} more"
        super().__init__(f"a batch may hold an id once; repeated: {shown}{more}", field="points.id")


class DimensionMismatchError(IndexStoreError, ValueError):
    """A vector's length is not the collection's dimension, or a dimension is out of range."""


class InvalidVectorError(IndexStoreError, ValueError):
    """A vector with NaN or infinity, a zero vector under cosine, or a query that sums to zero."""


class FingerprintMismatchError(IndexStoreError, ValueError):
    """The vectors are of another embedding space than the collection's."""


class InvalidFilterError(IndexStoreError, ValueError):
    """A filter that cannot mean what was intended."""


class InvalidPayloadError(IndexStoreError, ValueError):
    """A payload value of a type, size or number that cannot be stored."""


class PointNotFoundError(IndexStoreError, LookupError):
    """The collection holds no point of this id."""


class InvalidPageTokenError(IndexStoreError, ValueError):
    """A page token that this database did not give, or gave for another filter or collection."""


class InvalidLimitError(IndexStoreError, ValueError):
    """`top_k` or `page_size` below 1."""


class StorageError(IndexStoreError):
    """The disk or the database file failed, or the database is closed. Not the caller's mistake."""


class DatabaseLockedError(StorageError):
    """Another process, or another Database of this one, has the directory open."""


class PictureNotFoundError(IndexStoreError, LookupError):
    """No picture is stored under this name."""


class PictureAccessError(IndexStoreError, ValueError):
    """A picture's URI leads out of its root, or to something that is not a plain file."""


class PictureTooLargeError(IndexStoreError, ValueError):
    """A picture has more bytes than the caller wants to read."""


class PictureCorruptError(StorageError):
    """A stored picture's bytes no longer have the hash that is its name."""


# Those that can be the outcome of one point, by name: answers kept for a request id name them so.
POINT_ERRORS: dict[str, type[IndexStoreError]] = {
    error.__name__: error
    for error in (InvalidIdError, DimensionMismatchError, InvalidVectorError, InvalidPayloadError)
}
