"""A server's data directory: the index and the kept pictures."""

from __future__ import annotations

from pathlib import Path

from mplug_index.database import Database
from mplug_index.pictures import PictureStore
from mplug_services.collection_store import CollectionStore


class Storage:
    """Opens both parts of a data directory, or makes them; blocks.

    Args:
        data_dir: the directory.

    Raises:
        DatabaseLockedError: another process has it open.
        StorageError: it cannot be read or written.
    """

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.database = Database(data_dir / "index")
        try:
            self.collections = CollectionStore(self.database, PictureStore(data_dir / "pictures"))
        except BaseException:
            self.database.close()
            raise

    def close(self) -> None:
        """Finish what is being written and give the directory free."""
        self.database.close()
