"""The database and the search index that the settings lead to, for all commands.

What is not here: what a command does with them.
"""

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from vision_assets.clients.postgres import Database
from vision_assets.core.errors import ConfigurationError
from vision_assets.settings import Settings

if TYPE_CHECKING:
    from vision_assets.clients.qdrant import QdrantIndex

START_PARTS = "Start the embedded parts with `vision-assets up --parts`, or set"


def open_database(*, max_size: int = 8) -> AbstractAsyncContextManager[Database]:
    """Open the database.

    Args:
        max_size: Connections at most.

    Raises:
        ConfigurationError: There is none.
    """
    url = Settings().database_url
    if url is None:
        raise ConfigurationError(f"There is no database. {START_PARTS} DATABASE_URL.")
    return Database.open(url.get_secret_value(), max_size=max_size)


def open_index() -> "QdrantIndex":
    """Open the search index.

    Raises:
        ConfigurationError: There is none.
    """
    from vision_assets.clients.qdrant import QdrantIndex  # noqa: PLC0415 - it takes seconds to load

    settings = Settings()
    if settings.qdrant_url is None:
        raise ConfigurationError(f"There is no search index. {START_PARTS} QDRANT_URL.")
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    return QdrantIndex(settings.qdrant_url, api_key=key)
