"""The index and the pictures together, as searching and ingesting use them. Everything here blocks."""

from __future__ import annotations

from mplug_index.database import Database
from mplug_index.errors import CollectionExistsError, CollectionNotFoundError
from mplug_index.pictures import PictureStore
from mplug_index.types import Metric
from mplug_services.errors import failed_precondition
from mplug_services.served_model import ServedModel


class CollectionStore:
    """Collections whose vectors are the served model's.

    Args:
        database: the collections.
        pictures: kept originals and thumbnails.
    """

    def __init__(self, database: Database, pictures: PictureStore) -> None:
        self.database = database
        self.pictures = pictures

    def check_model(self, collection: str, model: ServedModel) -> None:
        """Refuse a collection of another embedding space.

        Raises:
            CollectionNotFoundError: There is none of this name.
            ServiceError: Its vectors are not the model's, or it does not say whose they are.
        """
        fingerprint = self.database.get_collection(collection).fingerprint
        if fingerprint == model.fingerprint:
            return
        whose = f"of embedding space {fingerprint}" if fingerprint else "of an unnamed embedding space"
        raise failed_precondition(
            "FINGERPRINT_MISMATCH",
            f"collection {collection!r} is {whose}, and this server's model {model.name} makes vectors of "
            f"{model.fingerprint}; use a collection made for this model, or a server of that one",
        )

    def open(self, collection: str, model: ServedModel, create: bool) -> str:
        """Make sure that the model's vectors may go into a collection, making it where that is wished.

        Returns:
            The collection's own name, where an alias was given.

        Raises:
            IndexStoreError, ServiceError: as `check_model`, or the name cannot be a collection's.
        """
        try:
            self.check_model(collection, model)
        except CollectionNotFoundError:
            if not create:
                raise
            try:
                self.database.create_collection(collection, model.embed_dim, Metric.COSINE, model.fingerprint)
            except CollectionExistsError:  # another stream was faster
                self.check_model(collection, model)
        return self.database.get_collection(collection).name
