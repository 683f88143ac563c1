"""The page of `vision-assets explain --html`: both pictures of each decision, in one file that needs no other.

What is not here: the same in a terminal (`explain.py`).
"""

import asyncio

from vision_assets.cli.pages import rendered
from vision_assets.clients.postgres.explain import Explained
from vision_assets.core.data_uris import picture_uri
from vision_assets.core.errors import InputRejected
from vision_assets.core.storage import ObjectStore

LONG_EDGE = 480


async def page(found: Explained, *, tenant_name: str, store: ObjectStore) -> str:
    """Lay a picture and its candidates out as HTML.

    Args:
        found: What is known of it.
        tenant_name: Whose it is.
        store: Where the pictures lie; one that is gone, or cannot be decoded, is named instead.

    Raises:
        StorageUnavailable: S3 did not answer.
    """
    keys = {found.picture.sha256: found.picture.s3_key} | {
        one.candidate_sha256: one.s3_key for one in found.decisions if one.s3_key is not None
    }
    return rendered(
        "explanation.html.jinja",
        tenant=tenant_name,
        found=found,
        uris={sha256: await _uri(store, key) for sha256, key in keys.items()},
    )


async def _uri(store: ObjectStore, key: str) -> str | None:
    content = await store.get(key)
    if content is None:
        return None
    try:
        return await asyncio.to_thread(picture_uri, content, long_edge=LONG_EDGE)
    except InputRejected:
        return None
