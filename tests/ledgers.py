"""The object ledger and an S3 bucket in memory, for tests of the core. What is not here: the real ones (`world.py`)."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import uuid4

from vision_assets.core.errors import DatabaseUnavailable, StorageUnavailable, TenantUnknown
from vision_assets.core.object_ledger import Begun, Committed, Entry, Operation, Overdue, Place, Taken, decide
from vision_assets.core.quota import OwnLimits, RefusalReason, StorageLimits, TenantUsage, Usage
from vision_assets.core.storage import CONTENT_TYPES, ContentType, StoredObject
from vision_assets.core.tenants import TenantId


@dataclass(slots=True)
class MemoryLedger:
    """Implements `core.object_ledger.StorageLedger` on dictionaries.

    Attributes:
        tenants: Those that exist.
        entries: Rows by place; `types` has each row's type.
        own: Limits of single tenants.
        unchecked: Failed checks that were counted.
        refused: Refusals that were counted, but for those of `begin`.
        down: Every call fails.
    """

    tenants: set[TenantId] = field(default_factory=set)
    entries: dict[Place, Entry] = field(default_factory=dict)
    types: dict[Place, ContentType] = field(default_factory=dict)
    own: dict[TenantId, OwnLimits] = field(default_factory=dict)
    unchecked: Counter[TenantId] = field(default_factory=Counter)
    refused: Counter[tuple[TenantId, RefusalReason]] = field(default_factory=Counter)
    down: bool = False

    def _answering(self) -> None:
        if self.down:
            raise DatabaseUnavailable("down")

    async def begin(
        self, operations: Sequence[Operation], *, limits: StorageLimits, now: datetime, until: datetime
    ) -> Sequence[Begun]:
        """See the Protocol."""
        self._answering()
        usage = {tenant_id: self._usage(tenant_id) for tenant_id in self.tenants}
        decision = decide(operations, entries=self.entries, usage=usage, limits=limits, now=now, until=until)
        for place, (content_type, slot) in decision.slots.items():
            self.types[place] = content_type
            self.entries[place] = replace(self.entries.get(place, Entry(None)), slot=slot)
        return decision.answers

    async def commit(self, outcomes: Sequence[Committed]) -> Sequence[bool]:
        """See the Protocol."""
        self._answering()
        booked = []
        for outcome in outcomes:
            place = outcome.operation.tenant_id, outcome.operation.key
            slot = self.entries[place].slot if place in self.entries else None
            booked.append(slot is not None and slot.id == outcome.operation.id)
            if booked[-1] and outcome.bytes is None:
                del self.entries[place]
            elif booked[-1]:
                self.entries[place] = Entry(outcome.bytes)
        return booked

    async def overdue(self, tenant_id: TenantId, *, now: datetime, until: datetime, limit: int) -> Sequence[Taken]:
        """See the Protocol."""
        self._answering()
        taken: list[Taken] = []
        for place, entry in self.entries.items():
            if place[0] == tenant_id and entry.slot and entry.slot.until <= now and len(taken) < limit:
                operation = Operation(uuid4(), *place, self.types[place], "verify")
                taken.append((operation, Overdue(entry.bytes, entry.slot.held_bytes)))
                slot = replace(entry.slot, id=operation.id, kind="verify", until=until)
                self.entries[place] = replace(entry, slot=slot)
        return taken

    async def usage(self, tenant_id: TenantId) -> TenantUsage:
        """See the Protocol."""
        self._answering()
        if tenant_id not in self.tenants:
            raise TenantUnknown(str(tenant_id))
        return self._usage(tenant_id)

    async def count_unchecked(self, checks: Mapping[TenantId, int]) -> None:
        """See the Protocol."""
        self._answering()
        self.unchecked.update(checks)

    async def count_refused(self, tenant_id: TenantId, reason: RefusalReason) -> None:
        """See the Protocol."""
        self._answering()
        self.refused[tenant_id, reason] += 1

    def _usage(self, tenant_id: TenantId) -> TenantUsage:
        types = {name: self._sum(name, {tenant_id}) for name in CONTENT_TYPES}
        everyone = {name: self._sum(name, self.tenants) for name in CONTENT_TYPES}
        return TenantUsage(types, everyone, self.own.get(tenant_id, OwnLimits()))

    def _sum(self, content_type: ContentType, tenants: set[TenantId]) -> Usage:
        rows = [e for p, e in self.entries.items() if p[0] in tenants and self.types[p] == content_type]
        return Usage(
            total_bytes=sum(row.bytes or 0 for row in rows),
            reserved_bytes=sum(row.slot.held_bytes for row in rows if row.slot),
            objects_count=sum(row.bytes is not None for row in rows),
        )


@dataclass(slots=True)
class MemoryStore:
    """Implements `core.storage.ObjectStore` on a dictionary.

    Attributes:
        objects: Bodies by key.
        broken: Methods that fail, without any effect.
        heads: Calls of `head` so far.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    heads: int = 0

    def _working(self, method: str) -> None:
        if method in self.broken:
            raise StorageUnavailable(f"{method} is broken")

    async def get(self, key: str) -> bytes | None:
        """See the Protocol."""
        self._working("get")
        return self.objects.get(key)

    async def head(self, key: str) -> StoredObject | None:
        """See the Protocol."""
        self.heads += 1
        self._working("head")
        return self._stored(key) if key in self.objects else None

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """See the Protocol."""
        self._working("put")
        self.objects[key] = body

    async def delete(self, keys: Sequence[str]) -> None:
        """See the Protocol."""
        self._working("delete")
        for key in keys:
            self.objects.pop(key, None)

    async def list(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """See the Protocol."""
        self._working("list")
        yield [self._stored(key) for key in sorted(self.objects) if key.startswith(prefix)]

    def _stored(self, key: str) -> StoredObject:
        return StoredObject(key, len(self.objects[key]), datetime(2030, 1, 1, tzinfo=UTC))
