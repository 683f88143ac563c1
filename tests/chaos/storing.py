"""A worker that puts, overwrites and deletes shared objects behind the quota. What is not here: the real S3 part."""

import hashlib
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import Any
from uuid import UUID

from tests.chaos.kill_points import instead
from tests.chaos.shift import Shift
from tests.chaos.tally import Tally
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.coalesced_ledger import CoalescedLedger
from vision_assets.core.errors import QuotaExceeded, TransientError
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.object_ledger import Begun, Operation, StorageLedger
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import CONTENT_TYPES, PREFIXES, ContentType, ObjectStore, media_key
from vision_assets.core.tenants import TenantId

STEPS = ("ledger.begin", "s3.put", "s3.delete", "s3.head", "ledger.commit", "ledger.overdue")
FOLDERS = ("media", "vision", "crawl", "album")
PUT_SHARE, DELETE_SHARE = 0.75, 0.2


async def store(shift: Shift) -> None:
    """Put, delete, look and sweep until the shift is over."""
    orders = shift.orders
    bucket = S3Bucket.connect(**orders["s3"])
    async with Database.open(orders["database_url"], max_size=orders["connections"]) as database:
        ledger = shift.points.around(PostgresStorage(database), ("begin", "commit", "overdue"), prefix="ledger")
        unchecked = Unchecked(shift.tally)
        store = unchecked.puts(shift.points.around(bucket, ("put", "delete", "head"), prefix="s3"))
        guard = QuotaGuardedStore(
            store=dawdling(store, shift),
            ledger=unchecked.begins(CoalescedLedger(ledger)),
            limits=limits(orders["limit_bytes"], tenants=len(orders["tenants"])),
            unchecked_limit_bytes=orders["unchecked_bytes"],
            slot_life=timedelta(seconds=orders["slot_seconds"]),
            patience_seconds=orders["patience_seconds"],
        )
        keeper = Keeper(shift, guard)
        if orders["sweeps"]:
            await shift.work_with(keeper.act, beside=keeper.sweep, every_seconds=0.3)
        else:
            await shift.work(keeper.act)


def limits(tenant_bytes: int, *, tenants: int, slack_bytes: int = 0) -> StorageLimits:
    """Make limits of which each bites now and then: the tenants' most, the types' and the bucket's where they meet."""
    together = tenant_bytes * tenants
    return StorageLimits(
        bucket_bytes=together * 9 // 10 + slack_bytes,
        tenant_bytes=tenant_bytes + slack_bytes,
        type_bytes=dict.fromkeys(CONTENT_TYPES, together * 4 // 10 + slack_bytes),
    )


def dawdling(store: ObjectStore, shift: Shift) -> ObjectStore:
    """Have some puts take so long to come back, though S3 has done them, that others take the worker for dead."""
    put = store.put

    async def put_slowly(*args: Any, **options: Any) -> None:
        await put(*args, **options)
        if shift.chance.random() < shift.orders["dawdlers"]:
            shift.tally.add("dawdled")
            await shift.pause(1.5 * shift.orders["slot_seconds"])

    return instead(store, put=put_slowly)


class Unchecked:
    """Counts the bytes of puts that follow upon a `begin` that did not reach the ledger, in the same coroutine."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._away: ContextVar[bool] = ContextVar("away", default=False)

    def begins(self, ledger: StorageLedger) -> StorageLedger:
        """Notice when the ledger is away."""
        begin = ledger.begin

        async def noticed(operations: Sequence[Operation], **options: Any) -> Sequence[Begun]:
            if operations[0].kind != "put":  # somebody looks after earlier puts on the way
                return await begin(operations, **options)
            self._away.set(True)
            answers = await begin(operations, **options)
            self._away.set(False)
            return answers

        return instead(ledger, begin=noticed)

    def puts(self, store: ObjectStore) -> ObjectStore:
        """Count what is put meanwhile."""
        put = store.put

        async def counted(key: str, body: bytes, **options: Any) -> None:
            if self._away.get():
                self._tally.add("unchecked puts")
                self._tally.add("unchecked bytes", len(body))
            await put(key, body, **options)

        return instead(store, put=counted)


class Keeper:
    """One guard, used by many."""

    def __init__(self, shift: Shift, guard: QuotaGuardedStore) -> None:
        self.shift, self.guard = shift, guard
        self.tenants = [TenantId(UUID(tenant)) for tenant in shift.orders["tenants"]]

    def _place(self, tenant: TenantId) -> tuple[str, ContentType, int, bool]:
        """Choose a key: with its type, the size that it is to have, and whether the key names the content."""
        chance, orders = self.shift.chance, self.shift.orders
        folder, number = chance.choice(FOLDERS), chance.randrange(orders["keys"])
        if folder == "media":
            sha = hashlib.sha256(f"{tenant} {number}".encode()).hexdigest()
            return media_key(tenant, sha, extension="png"), "media", int(sha[:8], 16) % orders["most_bytes"], True
        size = chance.randrange(orders["most_bytes"])
        return f"{folder}/{tenant}/{number:04d}.json.gz", PREFIXES[folder], size, False

    async def act(self) -> None:
        """Put, delete or look at one object."""
        shift = self.shift
        tenant = shift.chance.choice(self.tenants)
        key, content_type, size, immutable = self._place(tenant)
        what = shift.chance.random()
        try:
            if what < PUT_SHARE:
                sent = await self.guard.put(
                    tenant,
                    key,
                    bytes(size),
                    content_type=content_type,
                    mime="application/octet-stream",
                    immutable=immutable,
                )
                shift.tally.add("puts" if sent else "there already")
            elif what < PUT_SHARE + DELETE_SHARE:
                deletion = await self.guard.delete(tenant, [(key, content_type)])
                shift.tally.add("deletes busy" if deletion.busy else "deletes")
            else:
                found = await self.guard.verify(tenant, [(key, content_type)])
                shift.tally.add("looks failed" if found.failed else "looks busy" if found.busy else "looks")
                changed = [one for one in found.verified if one.before_bytes != one.after_bytes]
                shift.tally.add("looks that corrected", len(changed))
        except QuotaExceeded as error:
            shift.tally.add(f"refused {error.reason}")
        except TransientError as error:
            shift.tally.add(f"failed {type(error).__name__}")
            await shift.pause(0.1)

    async def sweep(self) -> None:
        """Look after operations that never came back."""
        tenant = self.shift.chance.choice(self.tenants)
        try:
            found = await self.guard.sweep(tenant)
        except TransientError as error:
            self.shift.tally.add(f"sweep {type(error).__name__}")
            return
        self.shift.tally.add("overdue slots swept", len(found.verified))
