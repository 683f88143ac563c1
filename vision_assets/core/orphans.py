"""Orphans: objects in S3 that no row refers to, and strays: folders of tenants that do not exist.

They are reported, and removed when somebody says so. An orphan is older than a day: between an upload and the row that
refers to it there may be a crash and another run. To be removed, each is looked at again in the transaction that takes
its slot, so what is referred to by then stays.
What is not here: how an object is deleted (`guarded_store.py`), and when old objects go by themselves (`cleanup.py`).
"""

from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from vision_assets.core.errors import ConfigurationError
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.object_ledger import Taken
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import PREFIXES, StoredObject
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)

ORPHAN_AGE = timedelta(hours=24)
BATCH_SIZE = 500
PER_FOLDER = 10_000
"""Orphans of each folder nominated at once: that costs a scan over all objects of the tenant, a batch a transaction."""

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Orphans:
    """Orphans of one top-level folder.

    Attributes:
        examples: A few keys.
    """

    folder: str
    objects: int
    bytes: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StrayFolder:
    """A folder that lies where a tenant's would, and whose name is no tenant's.

    Attributes:
        prefix: For example `media/<name>/`.
        name: What stands in the place of the tenant.
    """

    prefix: str
    name: str


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed.

    Attributes:
        objects: Of strays: also those that went by themselves meanwhile.
    """

    objects: int = 0
    bytes: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(self.objects + other.objects, self.bytes + other.bytes)


class OrphanLedger(Protocol):
    """The registries that refer to objects, and the object ledger.

    Every method raises `DatabaseUnavailable` or `DatabaseConflict`; both are transient.
    """

    async def orphans(self, tenant_id: TenantId, *, before: datetime) -> Sequence[Orphans]:
        """Sum up a tenant's orphans that were last booked or used before a moment, by folder."""
        ...

    async def nominated(self, tenant_id: TenantId, *, before: datetime, per_folder: int) -> Sequence[str]:
        """List the first keys of a tenant's orphans in each folder; see `orphans`. It keeps nobody waiting."""
        ...

    async def take_orphans(
        self,
        tenant_id: TenantId,
        keys: Sequence[str],
        *,
        limits: StorageLimits,
        before: datetime,
        now: datetime,
        until: datetime,
    ) -> Sequence[Taken]:
        """Look again which of these keys are orphans, and take their slots for deletion, in one transaction.

        Whoever is about to refer to an object puts it first, or finds it counted, which makes it young. If that comes
        before, it is no orphan; if it comes after, the key is busy until the object is gone and can be put again.

        Args:
            before: See `orphans`.
            limits, now, until: As of `StorageLedger.begin`.
        """
        ...

    async def tenants(self) -> AbstractSet[TenantId]:
        """List all tenants, active or not."""
        ...


class FolderStore(Protocol):
    """An S3 bucket, as far as strays go."""

    async def folders(self, prefix: str) -> Sequence[str]:
        """Name the folders right below a prefix.

        Raises:
            StorageUnavailable: Transient.
        """
        ...

    def list(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """Walk all objects below a prefix, in chunks."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        ...


async def stray_folders(store: FolderStore, ledger: OrphanLedger) -> list[StrayFolder]:
    """Find folders where tenants' are and that are no tenant's.

    Raises:
        StorageUnavailable, DatabaseUnavailable, DatabaseConflict: Transient.
    """
    # First the folders: a tenant that comes in between has its folder later than its row.
    found = [
        StrayFolder(f"{folder}/{name}/", name) for folder in PREFIXES for name in await store.folders(f"{folder}/")
    ]
    known = {str(tenant_id) for tenant_id in await ledger.tenants()} if found else set()
    return [folder for folder in found if folder.name not in known]


async def remove_orphans(
    tenant_id: TenantId, *, guard: QuotaGuardedStore, ledger: OrphanLedger, age: timedelta = ORPHAN_AGE
) -> Removed:
    """Delete a tenant's orphans, batch by batch. Broken off, it leaves slots that expire and are looked after.

    Raises:
        StorageBusy, StorageUnavailable: Transient; what was removed until then is booked.
        DatabaseUnavailable, DatabaseConflict: The same.
    """
    removed = Removed()
    while True:
        until_now = removed
        keys = await ledger.nominated(tenant_id, before=guard.clock() - age, per_folder=PER_FOLDER)
        for start in range(0, len(keys), BATCH_SIZE):
            removed += await _remove_batch(tenant_id, keys[start : start + BATCH_SIZE], guard, ledger, age)
        if removed == until_now:
            return removed


async def _remove_batch(
    tenant_id: TenantId, keys: Sequence[str], guard: QuotaGuardedStore, ledger: OrphanLedger, age: timedelta
) -> Removed:
    now = guard.clock()
    until = now + guard.slot_life
    taken = await ledger.take_orphans(tenant_id, keys, limits=guard.limits, before=now - age, now=now, until=until)
    deletion = await guard.delete_begun(taken, until=until)
    if deletion.deleted:
        log.info("orphans.removed", objects=len(deletion.deleted), bytes=deletion.freed_bytes)
    return Removed(len(deletion.deleted), deletion.freed_bytes)


async def remove_strays(
    name: str,
    *,
    store: FolderStore,
    ledger: OrphanLedger,
    dry_run: bool,
    age: timedelta = ORPHAN_AGE,
    now: datetime | None = None,
) -> Removed:
    """Delete what lies in the folders of a name that is no tenant's, but for what is young.

    Nobody has slots for such objects, so before each page it is asked again whether there is such a tenant by now.

    Args:
        name: As `stray_folders` tells it.
        dry_run: Only sum up.
        now: Aware UTC; None: the present.

    Raises:
        ConfigurationError: There is such a tenant, or none at all: then it is the wrong database.
        StorageUnavailable, DatabaseUnavailable, DatabaseConflict: Transient.
    """
    before = (now or datetime.now(UTC)) - age
    removed = Removed()
    for folder in PREFIXES:
        async for page in store.list(f"{folder}/{name}/"):
            old = [stored for stored in page if stored.modified_at < before]
            if not old:
                continue
            _refuse_tenant(name, await ledger.tenants())
            if not dry_run:
                await store.delete([stored.key for stored in old])
                log.info("strays.removed", folder=f"{folder}/{name}/", objects=len(old))
            removed += Removed(len(old), sum(stored.bytes for stored in old))
    return removed


def _refuse_tenant(name: str, known: AbstractSet[TenantId]) -> None:
    if not known:
        raise ConfigurationError(
            "The database knows no tenant at all, so every folder of the bucket would be a stray. "
            "Check DATABASE_URL and S3_BUCKET; nothing was removed."
        )
    if name in {str(tenant_id) for tenant_id in known}:
        raise ConfigurationError(f"{name} is a tenant; nothing more was removed.")
