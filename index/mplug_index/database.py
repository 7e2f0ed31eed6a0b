"""Databases: collections of vectors with typed payload, durable in SQLite and searchable in FAISS."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from mplug_index import catalog, points, search, writes
from mplug_index.answers import RequestWindow
from mplug_index.errors import (
    InvalidFilterError,
    InvalidLimitError,
    StorageError,
)
from mplug_index.filter_sql import compile_filter, digest
from mplug_index.filters import Filter
from mplug_index.group_commit import GroupCommitter
from mplug_index.live import LiveCollections
from mplug_index.locks import DirectoryLock
from mplug_index.page_token import make_token, read_token
from mplug_index.storage import ReaderPool, open_writer, sync_directory
from mplug_index.types import CollectionInfo, Metric, Point, QueryPart, ScoredPoint, UpsertOutcome
from mplug_index.vectors import check_dimension


class Database:
    """A directory of collections. Every method may be called from any thread; all of them block.

    A write returns when it is durable (synced to disk) and searchable. A read sees one state of the
    database, which holds every write that had returned when it began. Every `collection` argument may be an
    alias.
    """

    def __init__(self, path: str | Path, *, request_window: RequestWindow | None = None) -> None:
        """Opens the directory, or makes it; loads the vectors into memory.

        Args:
            path: The directory.
            request_window: How long request ids are remembered.

        Raises:
            DatabaseLockedError: It is open elsewhere.
            StorageError: It holds something else, or cannot be read or written.
        """
        self._window = request_window or RequestWindow()
        directory = Path(path)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            sync_directory(directory.absolute().parent)
            self._lock = DirectoryLock(directory / "lock")
        except OSError as error:
            text = f"the database directory cannot be used: {error.strerror or error}"
            raise StorageError(text, field="path") from error
        try:
            self._open(directory / "index.sqlite")
        except BaseException:
            self._lock.release()
            raise

    def _open(self, file: Path) -> None:
        connection = open_writer(file)
        try:
            self._live = LiveCollections(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise StorageError(f"the database file is damaged: {error}", field="path") from error
            raise
        self._readers = ReaderPool(file)
        self._writer = GroupCommitter(connection, self._live)

    def close(self) -> None:
        """Finishes the writes under way, closes the file and gives the lock back; again is harmless."""
        self._readers.close()
        self._writer.close()
        self._lock.release()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create_collection(
        self, name: str, dimension: int, metric: Metric = Metric.COSINE, fingerprint: str = ""
    ) -> CollectionInfo:
        """Makes an empty collection.

        Args:
            name: 1 to 128 letters, digits, '_', '-' and '.'.
            dimension: Length of its vectors, 1 to 65,536.
            metric: How near two vectors are.
            fingerprint: The embedding space of its vectors; "" accepts any.

        Raises:
            InvalidNameError: The name or fingerprint is not one.
            DimensionMismatchError: The dimension is out of range.
            CollectionExistsError: The name is taken.
        """
        catalog.check_name(name, "name")
        catalog.check_fingerprint_text(fingerprint)
        check_dimension(dimension)
        operation = partial(
            catalog.create_collection,
            name=name,
            dimension=dimension,
            metric=Metric(metric),
            fingerprint=fingerprint,
        )
        return self._writer.submit(operation)

    def get_collection(self, name: str) -> CollectionInfo:
        """A collection as it stands.

        Raises:
            CollectionNotFoundError: There is none of this name.
        """
        with self._readers.snapshot() as connection:
            return catalog.describe(connection, catalog.resolve(connection, name))

    def list_collections(self) -> list[CollectionInfo]:
        """All collections, by name."""
        with self._readers.snapshot() as connection:
            return [catalog.describe(connection, row) for row in catalog.list_rows(connection)]

    def delete_collection(self, name: str) -> None:
        """Deletes a collection, its points and its aliases. `name` may not be an alias.

        Raises:
            CollectionNotFoundError: There is none of this name.
        """
        self._writer.submit(partial(catalog.delete_collection, name=name))

    def set_alias(self, alias: str, collection: str) -> None:
        """Points a second name at a collection; one that is there is moved in one step.

        Raises:
            InvalidNameError: The alias is not a name.
            CollectionExistsError: A collection has this name.
            CollectionNotFoundError: There is no such collection.
        """
        catalog.check_name(alias, "alias")
        self._writer.submit(partial(catalog.set_alias, alias=alias, collection=collection))

    def delete_alias(self, alias: str) -> None:
        """Deletes an alias, not its collection.

        Raises:
            AliasNotFoundError: There is none.
        """
        catalog.check_name(alias, "alias")
        self._writer.submit(partial(catalog.delete_alias, alias=alias))

    def upsert(
        self, collection: str, points: Sequence[Point], *, fingerprint: str = "", request_id: str = ""
    ) -> list[UpsertOutcome]:
        """Inserts points; those whose ids are there are replaced. Each point fails or goes in by itself.

        Args:
            collection: A name or an alias.
            points: With vectors of the collection's dimension.
            fingerprint: The embedding space of the vectors, where known.
            request_id: Repeating it within the window changes nothing and gives the first answer; "": none.

        Returns:
            One outcome for each point, in order.

        Raises:
            CollectionNotFoundError: There is none of this name.
            FingerprintMismatchError: The vectors are of another space than the collection's.
            DuplicateIdError: The batch holds an id twice; nothing was written.
        """
        writes.check_request_id(request_id)
        with self._readers.snapshot() as connection:
            row = catalog.resolve(connection, collection)
        row.check_fingerprint(fingerprint)
        writes.check_duplicates(points)
        prepared = [writes.prepare(point, row) for point in points]
        ids = [point.id if isinstance(point.id, str) else "" for point in points]
        return self._writer.submit(
            partial(
                writes.upsert, window=self._window, row=row, ids=ids, prepared=prepared, request_id=request_id
            )
        )

    def delete(
        self,
        collection: str,
        *,
        ids: Sequence[str] | None = None,
        filter: Filter | None = None,
        request_id: str = "",
    ) -> int:
        """Deletes points by id, by filter, or those that satisfy both. The empty filter is satisfied by all.

        Args:
            collection: A name or an alias.
            ids: Those that are not there are passed over.
            filter: What to delete.
            request_id: As in `upsert`.

        Returns:
            How many points were deleted.

        Raises:
            CollectionNotFoundError: There is none of this name.
            InvalidFilterError: Neither ids nor a filter is given.
            InvalidIdError: An id is not one.
        """
        writes.check_request_id(request_id)
        if ids is None and filter is None:
            text = "give ids or a filter; Filter() deletes every point"
            raise InvalidFilterError(text, field="filter")
        for id in ids or ():
            points.check_id(id, field="ids")
        with self._readers.snapshot() as connection:
            row = catalog.resolve(connection, collection)
        return self._writer.submit(
            partial(
                writes.delete, window=self._window, row=row, ids=ids, filter=filter, request_id=request_id
            )
        )

    def get(
        self, collection: str, ids: Sequence[str], *, with_vector: bool = False
    ) -> tuple[list[Point], list[str]]:
        """Points by id in the order of `ids`, each once, and the ids that are not there.

        Raises:
            CollectionNotFoundError: There is none of this name.
            InvalidIdError: An id is not one.
        """
        for id in ids:
            points.check_id(id, field="ids")
        unique = list(dict.fromkeys(ids))
        with self._readers.snapshot() as connection:
            row = catalog.resolve(connection, collection)
            found = points.read_by_ids(connection, row.number, unique, with_vector=with_vector)
        return [found[id][1] for id in unique if id in found], [id for id in unique if id not in found]

    def count(self, collection: str, filter: Filter | None = None) -> int:
        """How many points there are, or satisfy the filter.

        Raises:
            CollectionNotFoundError: There is none of this name.
        """
        with self._readers.snapshot() as connection:
            row = catalog.resolve(connection, collection)
            return points.count(connection, row.number, compile_filter(filter, row.number))

    def scroll(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        page_size: int = 100,
        page_token: str = "",
        with_vector: bool = False,
    ) -> tuple[list[Point], str]:
        """One page of a walk over all points by id; points there throughout the walk come exactly once.

        Returns:
            The points, and the token of the next page, "" at the end.

        Raises:
            CollectionNotFoundError: There is none of this name.
            InvalidPageTokenError: The token is damaged, or of another collection or filter.
            InvalidLimitError: `page_size` is below 1.
        """
        _check_limit(page_size, "page_size")
        filter_digest = digest(filter)
        with self._readers.snapshot() as connection:
            row = catalog.resolve(connection, collection)
            page = points.read_page(
                connection,
                row.number,
                compile_filter(filter, row.number),
                after=read_token(page_token, row.number, filter_digest),
                limit=page_size + 1,
                with_vector=with_vector,
            )
        if len(page) <= page_size:
            return page, ""
        return page[:page_size], make_token(row.number, filter_digest, page[page_size - 1].id)

    def query(
        self,
        collection: str,
        parts: Sequence[QueryPart],
        *,
        top_k: int = 10,
        filter: Filter | None = None,
        with_vector: bool = False,
        fingerprint: str = "",
    ) -> list[ScoredPoint]:
        """The nearest points to a weighted sum of vectors and stored points, best first, equal scores by id.

        Args:
            collection: A name or an alias.
            parts: Under cosine each is normalised before it is weighted, and their sum after.
            top_k: How many results; there are fewer where fewer points are there or satisfy the filter.
            filter: Every result satisfies it.
            with_vector: Whether results bring their vectors.
            fingerprint: The embedding space of the parts' vectors, where known.

        Raises:
            CollectionNotFoundError: There is none of this name.
            FingerprintMismatchError: The vectors are of another space than the collection's.
            PointNotFoundError: A part's `stored_id` is not there.
            DimensionMismatchError: A part's vector has another length.
            InvalidVectorError: A part is not a proper vector, or the parts cancel out.
            InvalidLimitError: `top_k` is below 1.
        """
        _check_limit(top_k, "top_k")
        with self._readers.snapshot() as connection:
            return search.query(
                connection,
                self._live,
                collection,
                parts,
                top_k=top_k,
                filter=filter,
                with_vector=with_vector,
                fingerprint=fingerprint,
            )


def _check_limit(limit: int, field: str) -> None:
    if not isinstance(limit, int) or limit < 1:
        raise InvalidLimitError(f"{field} must be 1 or more, not {limit!r}", field=field)
