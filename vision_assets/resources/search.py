"""The search index."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dagster as dg

from vision_assets.clients.qdrant import QdrantIndex


class QdrantResource(dg.ConfigurableResource[None]):
    """The search index."""

    url: str
    api_key: str | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[QdrantIndex]:
        """Open a client in the running event loop, and close it at the end."""
        async with QdrantIndex(self.url, api_key=self.api_key) as index:
            yield index
