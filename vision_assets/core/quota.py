"""The storage quota: limits, what counts against them, and whether usage may grow.

What is not here: operations on objects and the ledger (`object_ledger.py`), and their steps (`guarded_store.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vision_assets.core.storage import CONTENT_TYPES, ContentType
from vision_assets.core.tenants import TenantId

RefusalReason = Literal["bucket_full", "tenant_limit", "type_limit"]


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """Upper bounds in bytes: of the bucket, of one tenant, and of each content type over all tenants."""

    bucket_bytes: int
    tenant_bytes: int
    type_bytes: Mapping[ContentType, int]


@dataclass(frozen=True, slots=True)
class OwnLimits:
    """Where a tenant's limits differ from those of all.

    Attributes:
        tenant_bytes: In the place of `StorageLimits.tenant_bytes`; None: as for all.
        type_bytes: Of this tenant's objects of a type; beside the limit of the type over all tenants.
    """

    tenant_bytes: int | None = None
    type_bytes: Mapping[ContentType, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What is stored of one content type.

    Attributes:
        reserved_bytes: Held for operations that are under way.
    """

    total_bytes: int = 0
    reserved_bytes: int = 0
    objects_count: int = 0

    @property
    def taken_bytes(self) -> int:
        """What counts against the limits."""
        return self.total_bytes + self.reserved_bytes


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """What a tenant has stored, and the limits of its own.

    Attributes:
        types: Of this tenant; every type is there.
        everyone: Of all tenants together; every type is there.
    """

    types: Mapping[ContentType, Usage]
    everyone: Mapping[ContentType, Usage]
    own: OwnLimits = OwnLimits()


@dataclass(frozen=True, slots=True)
class Level:
    """Bytes taken so far beside their limit; None: there is none."""

    taken_bytes: int
    limit_bytes: int | None

    def overflows(self, growth_bytes: int) -> bool:
        """Tell whether growth would break the limit."""
        return self.limit_bytes is not None and self.taken_bytes + growth_bytes > self.limit_bytes


@dataclass(frozen=True, slots=True)
class Figures:
    """What a check compares, stored and reserved bytes together.

    Attributes:
        growth_bytes: New size less the size that is counted under the same key.
        type: Of the content type over all tenants.
        own_type: Of the content type, this tenant's.
    """

    content_type: ContentType
    growth_bytes: int
    bucket: Level
    tenant: Level
    type: Level
    own_type: Level


@dataclass(frozen=True, slots=True)
class QuotaVerdict:
    """Whether an object may be put at this moment; nothing is held for it.

    Attributes:
        figures: None when the ledger could not be asked: then the put is allowed.
    """

    allowed: bool
    reason: RefusalReason | None = None
    figures: Figures | None = None


def figures(
    tenant_id: TenantId,
    content_type: ContentType,
    growth_bytes: int,
    *,
    usage: TenantUsage,
    limits: StorageLimits,
    held: Mapping[tuple[TenantId, ContentType], int] | None = None,
) -> Figures:
    """Put together what a check compares.

    Args:
        growth_bytes: New size less the size that is counted under the same key.
        held: Bytes that are reserved beside those in `usage`.
    """
    held = held or {}
    own = usage.own
    of_all = {name: usage.everyone[name].taken_bytes for name in CONTENT_TYPES}
    of_tenant = {name: usage.types[name].taken_bytes for name in CONTENT_TYPES}
    for (holder, name), more_bytes in held.items():
        of_all[name] += more_bytes
        if holder == tenant_id:
            of_tenant[name] += more_bytes
    return Figures(
        content_type=content_type,
        growth_bytes=growth_bytes,
        bucket=Level(sum(of_all.values()), limits.bucket_bytes),
        tenant=Level(sum(of_tenant.values()), limits.tenant_bytes if own.tenant_bytes is None else own.tenant_bytes),
        type=Level(of_all[content_type], limits.type_bytes[content_type]),
        own_type=Level(of_tenant[content_type], own.type_bytes.get(content_type)),
    )


def refusal(figures: Figures) -> RefusalReason | None:
    """Decide whether usage may grow; what does not grow is never refused."""
    growth_bytes = figures.growth_bytes
    if growth_bytes <= 0:
        return None
    if figures.bucket.overflows(growth_bytes):
        return "bucket_full"
    if figures.tenant.overflows(growth_bytes):
        return "tenant_limit"
    if figures.type.overflows(growth_bytes) or figures.own_type.overflows(growth_bytes):
        return "type_limit"
    return None
