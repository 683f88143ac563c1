"""The storage quota: whether a put may be made, and what a tenant has stored.

What is not here: the recount from S3 (`reconcile.py`) and the tables (`clients/postgres/ledger.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

import structlog

from vision_assets.core.errors import QuotaExceeded, TransientError
from vision_assets.core.storage import ContentType, ObjectStore
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """Upper bounds in bytes: of the bucket, of one tenant, and of each content type over all tenants."""

    bucket_bytes: int
    tenant_bytes: int
    type_bytes: dict[ContentType, int]


@dataclass(frozen=True, slots=True)
class UsedBytes:
    """What a check compares with the limits.

    Attributes:
        object: What is already counted under the key that is about to be put.
    """

    bucket: int
    tenant: int
    type: int
    object: int


class UsageLedger(Protocol):
    """What is known to lie in S3, by object key."""

    async def used_bytes(self, tenant_id: TenantId, content_type: ContentType, key: str) -> UsedBytes:
        """Sum up usage for one check.

        Raises:
            DatabaseUnavailable: Transient.
        """
        ...

    async def record_put(self, tenant_id: TenantId, key: str, content_type: ContentType, size_bytes: int) -> None:
        """Count an object that was put: once however often it is said, an overwrite by the difference."""
        ...


def refusal(used: UsedBytes, limits: StorageLimits, growth_bytes: int, content_type: ContentType) -> str | None:
    """Decide whether usage may grow.

    Args:
        growth_bytes: New size less the size that is already counted under the same key.

    Returns:
        None, or `bucket_full`, `tenant_limit` or `type_limit`. What does not grow is never refused.
    """
    if growth_bytes <= 0:
        return None
    if used.bucket + growth_bytes > limits.bucket_bytes:
        return "bucket_full"
    if used.tenant + growth_bytes > limits.tenant_bytes:
        return "tenant_limit"
    if used.type + growth_bytes > limits.type_bytes[content_type]:
        return "type_limit"
    return None


@dataclass(frozen=True, slots=True)
class _Hold:
    """Bytes of a put of this process that is under way."""

    tenant_id: TenantId
    content_type: ContentType
    bytes: int


@dataclass(slots=True)
class QuotaGuardedStore:
    """The only way to put an object: asks the quota before, and counts the bytes after.

    Puts of this process that began earlier and are under way are held against the limits. What other processes have
    under way is not: their puts of that moment may go over a limit.
    """

    store: ObjectStore
    ledger: UsageLedger
    limits: StorageLimits
    _holds: dict[int, _Hold] = field(default_factory=dict)
    _tickets: Iterator[int] = field(default_factory=count)

    async def put(
        self,
        tenant_id: TenantId,
        key: str,
        body: bytes,
        *,
        content_type: ContentType,
        mime: str,
        encoding: str | None = None,
        immutable: bool = False,
    ) -> bool:
        """Put an object within the tenant's quota.

        Args:
            immutable: The key names the content, so an object that is counted with this size is there already.

        Returns:
            Whether anything was sent.

        Raises:
            QuotaExceeded: Nothing was put.
            StorageUnavailable: Transient; a repeated put of the same key is safe.
        """
        earlier = list(self._holds.values())
        ticket = next(self._tickets)
        # Held before the check: of two puts at once the later one counts the earlier one, whatever each waits for.
        self._holds[ticket] = _Hold(tenant_id, content_type, len(body))
        try:
            growth = await self.check_quota_before_upload(tenant_id, len(body), content_type, key=key, holds=earlier)
            if immutable and growth == 0:
                return False
            await self.store.put(key, body, mime=mime, encoding=encoding)
            await self.ledger.record_put(tenant_id, key, content_type, len(body))
        finally:
            del self._holds[ticket]
        return True

    async def check_quota_before_upload(
        self,
        tenant_id: TenantId,
        size_bytes: int,
        content_type: ContentType,
        *,
        key: str,
        holds: Sequence[_Hold] = (),
    ) -> int:
        """Ask whether an object of this size may be put.

        A quota that is exceeded blocks. A check that fails lets the upload go on: the next recount corrects the books.

        Args:
            holds: Of puts that count as done.

        Returns:
            Bytes by which usage will grow; negative when the object becomes smaller.

        Raises:
            QuotaExceeded: The put would break a limit.
        """
        try:
            used = await self.ledger.used_bytes(tenant_id, content_type, key)
        except TransientError as error:
            log.warning(
                "quota.check_failed",
                key=key,
                size_bytes=size_bytes,
                error_type=type(error).__name__,
                outcome="upload goes on",
                exc_info=True,
            )
            return size_bytes
        growth = size_bytes - used.object
        used = replace(
            used,
            bucket=used.bucket + sum(hold.bytes for hold in holds),
            tenant=used.tenant + sum(hold.bytes for hold in holds if hold.tenant_id == tenant_id),
            type=used.type + sum(hold.bytes for hold in holds if hold.content_type == content_type),
        )
        if (reason := refusal(used, self.limits, growth, content_type)) is not None:
            log.warning(
                "quota.blocked",
                reason=reason,
                key=key,
                content_type=content_type,
                growth_bytes=growth,
                bucket_bytes=used.bucket,
                tenant_bytes=used.tenant,
                type_bytes=used.type,
            )
            raise QuotaExceeded(
                reason,
                f"{key} needs {growth} more bytes and would break the storage limit ({reason}): the tenant uses "
                f"{used.tenant} of {self.limits.tenant_bytes} bytes, {content_type} {used.type} of "
                f"{self.limits.type_bytes[content_type]}, the bucket {used.bucket} of {self.limits.bucket_bytes}. "
                "Raise the limit or delete objects; the next run tries again.",
            )
        return growth
