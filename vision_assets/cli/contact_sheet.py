"""A contact sheet of clusters: one HTML file with everything in it, to be looked at anywhere.

What is not here: which pictures are a cluster (`core/clusters.py`), and the table in the terminal (`duplicates.py`).
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

from vision_assets.cli.pages import rendered
from vision_assets.core.clusters import ClusterPicture, Duplicates
from vision_assets.core.data_uris import luma_uri, picture_uri
from vision_assets.core.errors import InputRejected
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import Tenant

REAL_PICTURES = 240
"""Read from S3 and scaled down, about 10 KB each in the file; the others stand as their stored grey thumbnails."""
LONG_EDGE = 240
_AT_ONCE = 4


async def contact_sheet(
    tenant: Tenant,
    found: Duplicates,
    *,
    store: ObjectStore,
    now: datetime,
    on_progress: Callable[[int], None] = lambda _: None,
) -> str:
    """Lay a tenant's clusters out as HTML.

    Args:
        store: Where the pictures are.
        now: Aware UTC, to stand in the document.
        on_progress: Called with the number of pictures done since the last call.
    """
    reading = asyncio.Semaphore(_AT_ONCE)

    async def uri(picture: ClusterPicture, *, real: bool) -> str:
        async with reading:
            content = await store.get(picture.s3_key) if real else None
            on_progress(1)
            return await asyncio.to_thread(_uri, picture, content)

    pictures = [picture for cluster in found.largest for picture in cluster.pictures]
    uris = await asyncio.gather(*(uri(picture, real=at < REAL_PICTURES) for at, picture in enumerate(pictures)))
    return rendered(
        "contact_sheet.html.jinja",
        tenant=tenant.name,
        found=found,
        now=now,
        uris={picture.sha256: one for picture, one in zip(pictures, uris, strict=True)},
    )


def _uri(picture: ClusterPicture, content: bytes | None) -> str:
    """Embed a picture; where its object is gone or broken, its stored thumbnail."""
    if content is not None:
        try:
            return picture_uri(content, long_edge=LONG_EDGE)
        except InputRejected:
            pass
    return luma_uri(picture.thumbnail, width=picture.width, height=picture.height, long_edge=LONG_EDGE)
