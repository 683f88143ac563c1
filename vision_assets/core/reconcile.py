"""The recount of a tenant's usage from what really lies in S3.

The listing is walked to its end before anything is changed: a listing that fails or breaks off changes nothing.
What is not here: the check before a put (`quota.py`).
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from vision_assets.core.storage import PREFIXES, ContentType, ObjectStore, StoredObject
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the ledger was from the listing, in one class.

    Attributes:
        bytes: Of the objects; for a wrong size the difference, listing less ledger.
        examples: A few keys.
    """

    objects: int = 0
    bytes: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TypeUsage:
    """What a tenant has stored of one content type."""

    content_type: ContentType
    total_bytes: int
    objects_count: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What a recount found and corrected.

    Attributes:
        missing: In the ledger, not in S3: taken out.
        untracked: In S3, not in the ledger: taken in.
        wrong_size: In both, with another size: corrected.
    """

    usage: tuple[TypeUsage, ...]
    listed_objects: int
    missing: Drift = field(default_factory=Drift)
    untracked: Drift = field(default_factory=Drift)
    wrong_size: Drift = field(default_factory=Drift)


class ListingLedger(Protocol):
    """The object ledger, as a recount sees it."""

    async def reconcile(
        self, tenant_id: TenantId, listing: AsyncIterator[Sequence[tuple[StoredObject, ContentType]]]
    ) -> UsageReport:
        """Bring the ledger in line with a listing, in one transaction.

        Rows that were recorded after the listing began are left alone: the listing may be older than they are.

        Raises:
            StorageUnavailable: The listing broke off; nothing was changed.
        """
        ...


async def _listing(
    tenant_id: TenantId, store: ObjectStore
) -> AsyncIterator[Sequence[tuple[StoredObject, ContentType]]]:
    for folder, content_type in PREFIXES.items():
        async for chunk in store.list(f"{folder}/{tenant_id}/"):
            yield [(stored, content_type) for stored in chunk]


async def recount_usage(tenant_id: TenantId, *, store: ObjectStore, ledger: ListingLedger) -> UsageReport:
    """Recompute a tenant's usage from S3 and correct the ledger by it.

    Raises:
        StorageUnavailable: Transient; nothing was changed.
    """
    report = await ledger.reconcile(tenant_id, _listing(tenant_id, store))
    for name in ("missing", "untracked", "wrong_size"):
        drift: Drift = getattr(report, name)
        if drift.objects:
            log.warning("usage.drift", drift=name, objects=drift.objects, bytes=drift.bytes, examples=drift.examples)
    return report
