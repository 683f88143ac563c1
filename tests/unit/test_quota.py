"""The storage quota's decisions, and the guard's steps one by one; all of them together: `test_quota_machine.py`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from tests.ledgers import MemoryLedger, MemoryStore
from vision_assets.core.errors import (
    ConfigurationError,
    DatabaseConflict,
    DatabaseUnavailable,
    KeyMisplaced,
    QuotaExceeded,
    StorageBusy,
    StorageUnavailable,
    TenantUnknown,
)
from vision_assets.core.guarded_store import SLOT_LIFE, QuotaGuardedStore, Unbooked
from vision_assets.core.object_ledger import Begun, Committed, Operation
from vision_assets.core.quota import OwnLimits, RefusalReason, StorageLimits, TenantUsage, Usage, figures, refusal
from vision_assets.core.storage import CONTENT_TYPES, ContentType, StoredObject
from vision_assets.core.tenants import TenantId

LIMITS = StorageLimits(bucket_bytes=1000, tenant_bytes=500, type_bytes={"media": 700, "vision": 100, "crawl": 100})
TENANT, OTHER = TenantId(UUID(int=1)), TenantId(UUID(int=2))
NOW = datetime(2030, 6, 1, tzinfo=UTC)


def key(name: str, tenant_id: TenantId = TENANT) -> str:
    """Name a picture."""
    return f"media/{tenant_id}/{name}"


def usage(tenant: int, everyone: int, *, reserved: int = 0, own: OwnLimits | None = None) -> TenantUsage:
    """Usage of a tenant with only pictures."""
    nothing: dict[ContentType, Usage] = dict.fromkeys(CONTENT_TYPES, Usage())
    return TenantUsage(
        nothing | {"media": Usage(tenant, reserved, 1)},
        nothing | {"media": Usage(everyone, reserved, 1)},
        own or OwnLimits(),
    )


@pytest.mark.parametrize(
    ("found", "growth", "content_type", "expected"),
    [
        (usage(0, 0), 500, "media", None),
        (usage(1, 1), 500, "media", "tenant_limit"),
        (usage(0, 0, reserved=1), 500, "media", "tenant_limit"),
        (usage(0, 900), 101, "vision", "bucket_full"),
        (usage(0, 899, reserved=1), 101, "vision", "bucket_full"),
        (usage(0, 600), 101, "media", "type_limit"),
        (usage(0, 0), 101, "vision", "type_limit"),
        (usage(0, 0, own=OwnLimits(tenant_bytes=600)), 600, "media", None),
        (usage(0, 0, own=OwnLimits(tenant_bytes=0)), 1, "media", "tenant_limit"),
        (usage(50, 50, own=OwnLimits(type_bytes={"media": 60})), 11, "media", "type_limit"),
        (usage(50, 50, own=OwnLimits(type_bytes={"media": 60})), 11, "vision", None),
        (usage(0, 0, own=OwnLimits(type_bytes={"vision": 200})), 101, "vision", "type_limit"),
        (usage(2000, 2000), 0, "media", None),
        (usage(2000, 2000), -10, "media", None),
    ],
)
def test_refusal(found: TenantUsage, growth: int, content_type: ContentType, expected: str | None) -> None:
    """Each limit blocks by its own reason, reserved bytes count, and what does not grow is never refused."""
    assert refusal(figures(TENANT, content_type, growth, usage=found, limits=LIMITS)) == expected


@dataclass
class WatchedLedger(MemoryLedger):
    """A ledger that may give way, or go down between beginning and end."""

    conflict: bool = False
    commits_down: bool = False

    async def begin(
        self, operations: Sequence[Operation], *, limits: StorageLimits, now: datetime, until: datetime
    ) -> Sequence[Begun]:
        """Begin, or give way."""
        if self.conflict:
            raise DatabaseConflict("lock time-out")
        return await MemoryLedger.begin(self, operations, limits=limits, now=now, until=until)

    async def commit(self, outcomes: Sequence[Committed]) -> Sequence[bool]:
        """Commit, or be down."""
        if self.commits_down:
            raise DatabaseUnavailable("down")
        return await MemoryLedger.commit(self, outcomes)


@dataclass
class SlowStore(MemoryStore):
    """A store whose puts wait for each other's permission."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Put when the gate is open."""
        self.waiting += 1
        await self.gate.wait()
        await MemoryStore.put(self, key, body, mime=mime, encoding=encoding)


class Scene:
    """A guard, its ledger and its store; `now` may be moved."""

    def __init__(self, store: MemoryStore | None = None, *, patience_seconds: float = 0) -> None:
        self.now = NOW
        self.ledger = WatchedLedger({TENANT, OTHER})
        self.store = store or MemoryStore()
        self.patience_seconds = patience_seconds
        self.guard = self.another_process()

    def another_process(self, unbooked: Unbooked | None = None) -> QuotaGuardedStore:
        """A guard on the same ledger and store."""
        return QuotaGuardedStore(
            self.store,
            self.ledger,
            LIMITS,
            unbooked=unbooked or Unbooked(),
            unchecked_limit_bytes=300,
            clock=lambda: self.now,
            patience_seconds=self.patience_seconds,
        )

    async def put(
        self,
        name: str,
        size: int,
        *,
        tenant_id: TenantId = TENANT,
        immutable: bool = False,
        by: QuotaGuardedStore | None = None,
    ) -> bool:
        """Put a picture of a size."""
        guard = by or self.guard
        return await guard.put(
            tenant_id, key(name, tenant_id), bytes(size), content_type="media", mime="image/png", immutable=immutable
        )

    @property
    def sizes(self) -> dict[str, int | None]:
        """What the books say: name → bytes."""
        sizes = {where.removeprefix(key("", who)): entry.bytes for (who, where), entry in self.ledger.entries.items()}
        assert len(sizes) == len(self.ledger.entries)
        return sizes

    @property
    def held(self) -> int:
        """Bytes that are held."""
        return sum(entry.slot.held_bytes for entry in self.ledger.entries.values() if entry.slot)


@pytest.mark.parametrize("processes", [1, 8])
async def test_puts_at_once_do_not_overshoot(processes: int) -> None:
    """Of puts under way at once, in one process or many, only as many go through as the limit has room for."""
    store = SlowStore()
    scene = Scene(store)
    guards = [scene.another_process() for _ in range(processes)]
    tasks = [asyncio.create_task(scene.put(f"k{n}", 200, by=guards[n % processes])) for n in range(8)]
    await asyncio.sleep(0)
    store.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(outcome is True for outcome in outcomes) == 2  # 500 bytes a tenant
    refused = [outcome for outcome in outcomes if isinstance(outcome, QuotaExceeded)]
    assert [error.reason for error in refused] == ["tenant_limit"] * 6
    assert "400 of 500 bytes" in str(refused[0])
    assert (sum(filter(None, scene.sizes.values())), scene.held) == (400, 0)


async def test_a_failed_put_gives_its_room_back() -> None:
    """S3 that refuses is asked what is there: nothing, so nothing is held afterwards."""
    scene = Scene()
    scene.store.broken = {"put"}
    with pytest.raises(StorageUnavailable):
        await scene.put("a", 400)
    assert scene.sizes == {}
    scene.store.broken = set()
    assert await scene.put("a", 400)
    assert scene.sizes == {"a": 400}


async def test_a_put_that_only_seems_to_fail_counts() -> None:
    """An answer that was lost does not lose the object: S3 is asked, and it is booked."""

    class Losing(MemoryStore):
        async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
            await MemoryStore.put(self, key, body, mime=mime, encoding=encoding)
            raise StorageUnavailable("the answer was lost")

    scene = Scene(Losing())
    with pytest.raises(StorageUnavailable):
        await scene.put("a", 400)
    assert (scene.sizes, scene.held) == ({"a": 400}, 0)


async def test_a_wrong_setting_tells_nothing_of_objects() -> None:
    """Of a bucket that does not exist nobody asks what it holds; the room comes back when its time is up."""

    class NoBucket(MemoryStore):
        async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
            raise ConfigurationError("no bucket")

        async def delete(self, keys: Sequence[str]) -> None:
            raise ConfigurationError("no bucket")

    scene = Scene()
    await scene.put("a", 100)
    scene.guard.store = store = NoBucket()
    with pytest.raises(ConfigurationError):
        await scene.put("b", 300)
    with pytest.raises(ConfigurationError):
        await scene.guard.delete(TENANT, [(key("a"), "media")])
    assert (scene.sizes, scene.held, store.heads) == ({"a": 100, "b": None}, 300, 0)
    scene.now += SLOT_LIFE
    await scene.another_process().sweep(TENANT)
    assert (scene.sizes, scene.held) == ({"a": 100}, 0)


async def test_while_s3_tells_nothing_the_room_stays_held() -> None:
    """What became of a put that nobody can tell is not guessed; when its time is up, S3 is asked."""
    scene = Scene()
    scene.store.broken = {"put", "head"}
    with pytest.raises(StorageUnavailable):
        await scene.put("a", 400)
    assert scene.held == 400
    with pytest.raises(QuotaExceeded):
        await scene.put("b", 200)
    scene.now += SLOT_LIFE
    assert (await scene.guard.sweep(TENANT)).failed == (key("a"),)
    assert scene.held == 400
    scene.now += SLOT_LIFE
    scene.store.broken = set()
    [found] = (await scene.guard.sweep(TENANT)).verified
    assert (found.key, found.after_bytes, found.overdue, found.held_bytes) == (key("a"), None, True, 400)
    assert scene.ledger.entries == {}


async def test_a_cancelled_put_is_looked_after_when_its_time_is_up() -> None:
    """Cancellation frees nothing: S3 may have taken the object. The next put of the key finds out what is there."""
    store = SlowStore()
    scene = Scene(store)
    task = asyncio.create_task(scene.put("a", 400))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.objects[key("a")] = bytes(400)  # S3 had taken it
    store.gate.set()
    assert scene.held == 400
    with pytest.raises(StorageBusy):
        await scene.put("a", 300)
    scene.now += SLOT_LIFE
    assert await scene.put("a", 300)
    assert store.heads == 1
    assert (scene.sizes, scene.held) == ({"a": 300}, 0)


async def test_whoever_looks_after_operations_that_never_came_back_says_so() -> None:
    """A put on the key of a dead one, and a sweep, leave a line with keys and held bytes; a common look leaves none."""
    scene = Scene(SlowStore())
    for name in ("a", "b"):
        task = asyncio.create_task(scene.put(name, 100))
        await asyncio.sleep(0)
        task.cancel()
    scene.store = scene.guard.store = MemoryStore()
    scene.now += SLOT_LIFE
    with capture_logs() as logs:
        await scene.put("a", 10)
        await scene.guard.sweep(TENANT)
        await scene.guard.verify(TENANT, [(key("a"), "media")])
    said = [(line["objects"], line["held_bytes"], line["examples"]) for line in logs if "stale" in line["event"]]
    assert said == [(1, 100, [key("a")]), (1, 100, [key("b")])]


async def test_a_store_that_is_down_is_not_asked_for_every_object() -> None:
    """After a refused delete of many, a few unanswered looks tell that S3 is down; the rest waits for better times."""
    scene = Scene()
    names = [str(number) for number in range(50)]
    for name in names:
        await scene.put(name, 1)
    scene.store.broken = {"delete", "head"}
    with pytest.raises(StorageUnavailable):
        await scene.guard.delete(TENANT, [(key(name), "media") for name in names])
    assert scene.store.heads == scene.guard.heads
    scene.now += SLOT_LIFE
    scene.store.broken = set()
    assert len((await scene.guard.sweep(TENANT)).verified) == len(names)
    assert scene.sizes == dict.fromkeys(names, 1)


async def test_a_sweep_ends_when_s3_tells_nothing() -> None:
    """Looks that hang for longer than a slot lives are not begun again and again: the sweep ends and says so."""

    class Hanging(MemoryStore):
        async def head(self, key: str) -> StoredObject | None:
            scene.now += SLOT_LIFE
            return await MemoryStore.head(self, key)

    scene = Scene(Hanging(broken={"put", "head"}))
    with pytest.raises(StorageUnavailable):
        await scene.put("a", 400)
    assert (await scene.guard.sweep(TENANT)).failed == (key("a"),)
    assert (scene.store.heads, scene.held) == (2, 400)


async def test_what_gets_its_turn_too_late_is_not_sent() -> None:
    """Who waited until its slot may be lost before S3 is through asks S3 for nothing, and gives its room back."""
    scene = Scene()
    await scene.put("a", 100)

    class Slow(WatchedLedger):
        async def begin(
            self, operations: Sequence[Operation], *, limits: StorageLimits, now: datetime, until: datetime
        ) -> Sequence[Begun]:
            answers = await WatchedLedger.begin(self, operations, limits=limits, now=now, until=until)
            scene.now += SLOT_LIFE * 0.6
            return answers

    scene.guard.ledger = Slow(scene.ledger.tenants, entries=scene.ledger.entries, types=scene.ledger.types)
    with pytest.raises(StorageBusy):
        await scene.put("b", 300)
    with pytest.raises(StorageBusy):
        await scene.guard.delete(TENANT, [(key("a"), "media")])
    assert scene.store.objects.keys() == {key("a")}
    assert (scene.sizes, scene.held) == ({"a": 100}, 0)


async def test_a_delete_that_comes_too_late_spares_what_was_put_since() -> None:
    """Once its slot was taken over, a delete that still waits must not take away another one's object."""
    scene = Scene()
    await scene.put("a", 100)
    deleter, other = scene.guard, scene.another_process()

    class Meanwhile(WatchedLedger):
        async def begin(
            self, operations: Sequence[Operation], *, limits: StorageLimits, now: datetime, until: datetime
        ) -> Sequence[Begun]:
            answers = await WatchedLedger.begin(self, operations, limits=limits, now=now, until=until)
            if operations[0].kind == "delete":
                scene.now += SLOT_LIFE
                await scene.put("a", 200, by=other)
            return answers

    deleter.ledger = Meanwhile(scene.ledger.tenants, entries=scene.ledger.entries, types=scene.ledger.types)
    with pytest.raises(StorageBusy):
        await deleter.delete(TENANT, [(key("a"), "media")])
    assert (scene.sizes, scene.store.objects) == ({"a": 200}, {key("a"): bytes(200)})


async def test_a_key_is_waited_for() -> None:
    """A put of a key that is being put waits for a while, and then goes on."""
    store = SlowStore()
    scene = Scene(store, patience_seconds=5)
    first = asyncio.create_task(scene.put("a", 100))
    await asyncio.sleep(0)
    second = asyncio.create_task(scene.put("a", 200))
    await asyncio.sleep(0)
    assert store.waiting == 1
    store.gate.set()
    assert await first
    assert await second
    assert scene.sizes == {"a": 200}


async def test_the_same_bytes_need_not_wait() -> None:
    """Whoever puts an object whose key names its content goes on at once: after a crash nobody waits for the dead."""
    store = SlowStore()
    scene = Scene(store)
    first = asyncio.create_task(scene.put("a", 300, immutable=True))
    await asyncio.sleep(0)
    second = asyncio.create_task(scene.put("a", 300, immutable=True, by=scene.another_process()))
    await asyncio.sleep(0)
    assert (store.waiting, scene.held) == (2, 300)
    store.gate.set()
    assert all(await asyncio.gather(first, second))
    assert (scene.sizes, scene.held) == ({"a": 300}, 0)


async def test_other_bytes_wait_whatever_is_said_of_them() -> None:
    """A put of another size is no put of the same bytes: it waits, also when its caller says otherwise."""
    scene = Scene(SlowStore())
    first = asyncio.create_task(scene.put("a", 300, immutable=True))
    await asyncio.sleep(0)
    with pytest.raises(StorageBusy):
        await scene.put("a", 400, immutable=True)
    first.cancel()


async def test_what_is_there_is_not_sent_again() -> None:
    """An object whose key names its content is sent once; one that may change is sent again."""
    scene = Scene()
    assert [await scene.put("a", 10, immutable=True) for _ in range(2)] == [True, False]
    assert [await scene.put("b", 10) for _ in range(2)] == [True, True]


async def test_deletes_count_down_and_say_so_twice() -> None:
    """A deleted object counts no more; deleting it again changes nothing; one that is being put is left alone."""
    store = SlowStore()
    store.gate.set()
    scene = Scene(store)
    await scene.put("a", 400)
    assert (await scene.guard.delete(TENANT, [(key("a"), "media")])).freed_bytes == 400
    assert (await scene.guard.delete(TENANT, [(key("a"), "media")])).freed_bytes == 0
    assert (scene.sizes, store.objects) == ({}, {})
    store.gate.clear()
    task = asyncio.create_task(scene.put("a", 500))
    await asyncio.sleep(0)
    deletion = await scene.guard.delete(TENANT, [(key("a"), "media")])
    assert (deletion.deleted, deletion.busy) == ((), (key("a"),))
    store.gate.set()
    assert await task


async def test_a_failing_check_lets_uploads_go_on_up_to_a_cap() -> None:
    """While the ledger is down puts go on until the process has made too many; they are booked when it is back."""
    scene = Scene()
    scene.ledger.down = True
    assert await scene.put("a", 200)
    assert await scene.put("b", 100, tenant_id=OTHER)
    with pytest.raises(DatabaseUnavailable):
        await scene.put("c", 1)
    assert scene.store.objects.keys() == {key("a"), key("b", OTHER)}
    scene.ledger.down = False
    assert await scene.put("d", 1)
    assert scene.sizes == {"a": 200, "b": 100, "d": 1}
    assert scene.ledger.unchecked == {TENANT: 1, OTHER: 1}
    assert (scene.guard.unbooked.operations, scene.guard.unbooked.unchecked_bytes) == ([], 0)
    scene.ledger.down = True
    assert await scene.put("e", 300), "what is booked leaves room for others"


async def test_a_tenant_that_goes_meanwhile_holds_up_nobody() -> None:
    """What was put unchecked for a tenant that is gone when the ledger comes back is nobody's concern any more."""
    scene = Scene()
    scene.ledger.down = True
    assert await scene.put("a", 200, tenant_id=OTHER)
    assert await scene.put("b", 100)
    scene.ledger.down = False
    scene.ledger.tenants.remove(OTHER)
    assert await scene.put("c", 10)
    assert scene.sizes == {"b": 100, "c": 10}
    assert (scene.guard.unbooked.operations, scene.guard.unbooked.unchecked_bytes) == ([], 0)


async def test_the_cap_holds_for_puts_at_once_and_for_all_guards_of_a_process() -> None:
    """Bytes that are on their way without a check count too, whichever guard lets them through."""
    store = SlowStore()
    scene = Scene(store)
    scene.ledger.down = True
    unbooked = Unbooked()
    guards = [scene.another_process(unbooked) for _ in range(4)]
    tasks = [asyncio.create_task(scene.put(f"k{n}", 100, by=guards[n])) for n in range(4)]
    await asyncio.sleep(0)
    store.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(outcome is True for outcome in outcomes) == 3
    assert sum(isinstance(outcome, DatabaseUnavailable) for outcome in outcomes) == 1


async def test_a_time_out_is_not_a_ledger_that_is_down() -> None:
    """Who only gives way to others lets nothing through unchecked."""
    scene = Scene()
    scene.ledger.conflict = True
    with pytest.raises(DatabaseConflict):
        await scene.put("a", 1)
    assert scene.store.objects == {}


async def test_a_put_that_cannot_be_booked_is_booked_later() -> None:
    """The object is there, so the put has worked; its room stays held until the ledger is back, and then it counts."""
    scene = Scene()
    scene.ledger.commits_down = True
    assert await scene.put("a", 400)
    assert scene.held == 400
    scene.ledger.commits_down = False
    await scene.put("b", 1)
    assert (scene.sizes, scene.held) == ({"a": 400, "b": 1}, 0)


async def test_a_put_that_is_cancelled_while_it_is_booked_is_booked_later() -> None:
    """Whether the books were made before the cancellation nobody knows; the next call that works has a look."""

    class Stalling(WatchedLedger):
        async def commit(self, outcomes: Sequence[Committed]) -> Sequence[bool]:
            if outcomes[0].operation.kind == "put":
                await asyncio.Event().wait()
            return await WatchedLedger.commit(self, outcomes)

    scene = Scene()
    scene.ledger = scene.guard.ledger = Stalling({TENANT, OTHER})
    task = asyncio.create_task(scene.put("a", 400))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.held == 400
    assert (await scene.guard.verify(TENANT, [(key("b"), "media")])).verified
    assert (scene.sizes, scene.held) == ({"a": 400}, 0)


async def test_a_slot_that_was_lost_is_looked_at_again() -> None:
    """Whoever finds its slot swept has S3 asked anew: the one who swept may have looked too early."""
    store = SlowStore()
    scene = Scene(store)
    task = asyncio.create_task(scene.put("a", 400))
    await asyncio.sleep(0)
    scene.now += SLOT_LIFE
    assert [one.after_bytes for one in (await scene.guard.sweep(TENANT)).verified] == [None]
    assert scene.ledger.entries == {}
    store.gate.set()
    assert await task
    assert scene.sizes == {"a": 400}


async def test_what_is_told_is_checked_where_somebody_else_may_have_written() -> None:
    """A size that is told is booked as it is, unless an operation on the key never came back: then S3 is asked."""
    store = SlowStore()
    scene = Scene(store)
    assert await scene.guard.update_tenant_usage(TENANT, key("a"), "media", 300)
    assert (scene.sizes, store.heads) == ({"a": 300}, 0)
    task = asyncio.create_task(scene.put("a", 400))
    await asyncio.sleep(0)
    assert not await scene.guard.update_tenant_usage(TENANT, key("a"), "media", 300)
    task.cancel()
    store.objects[key("a")] = bytes(400)  # S3 had taken it
    scene.now += SLOT_LIFE
    assert await scene.another_process().update_tenant_usage(TENANT, key("a"), "media", 300)
    assert (scene.sizes, scene.held) == ({"a": 400}, 0)


async def test_verdict() -> None:
    """The verdict tells reason and figures, and holds nothing; a check that fails allows."""
    scene = Scene()
    await scene.put("a", 400)
    allowed = await scene.guard.check_quota_before_upload(TENANT, 100, "media")
    assert (allowed.allowed, allowed.reason) == (True, None)
    refused = await scene.guard.check_quota_before_upload(TENANT, 101, "media")
    assert refused.figures
    assert (refused.allowed, refused.reason, refused.figures.tenant.taken_bytes) == (False, "tenant_limit", 400)
    assert scene.held == 0
    with pytest.raises(TenantUnknown):
        await scene.guard.check_quota_before_upload(TenantId(UUID(int=9)), 1, "media")
    scene.ledger.down = True
    assert (await scene.guard.check_quota_before_upload(TENANT, 10_000, "media")).allowed


async def test_verdicts_are_counted() -> None:
    """A refusal counts at once; a check that failed counts when the ledger is back."""
    scene = Scene()
    await scene.guard.check_quota_before_upload(TENANT, 1, "media")
    assert not (await scene.guard.check_quota_before_upload(TENANT, 501, "media")).allowed
    assert scene.ledger.refused == {(TENANT, "tenant_limit"): 1}
    scene.ledger.down = True
    await scene.guard.check_quota_before_upload(TENANT, 1, "media")
    scene.ledger.down = False
    await scene.put("a", 1)
    assert scene.ledger.unchecked == {TENANT: 1}


async def test_a_refusal_that_cannot_be_counted_stays_one() -> None:
    """The verdict hangs on what the ledger said, not on whether it can count."""
    scene = Scene()

    class Deaf(WatchedLedger):
        async def count_refused(self, tenant_id: TenantId, reason: RefusalReason) -> None:
            raise DatabaseUnavailable("down")

    scene.guard.ledger = Deaf({TENANT})
    assert not (await scene.guard.check_quota_before_upload(TENANT, 501, "media")).allowed


async def test_usage_is_cached_for_readers_only() -> None:
    """A reader sees figures up to 15 minutes old; a check never does."""
    scene = Scene()
    assert (await scene.guard.get_tenant_usage(TENANT)).types["media"].total_bytes == 0
    await scene.put("a", 400)
    scene.now += timedelta(minutes=14)
    assert (await scene.guard.get_tenant_usage(TENANT)).types["media"].total_bytes == 0
    assert not (await scene.guard.check_quota_before_upload(TENANT, 101, "media")).allowed
    scene.now += timedelta(minutes=1)
    assert (await scene.guard.get_tenant_usage(TENANT)).types["media"].total_bytes == 400


async def test_a_tenant_that_is_not_there() -> None:
    """Nothing is put for a tenant that does not exist."""
    scene = Scene()
    with pytest.raises(TenantUnknown):
        await scene.put("a", 1, tenant_id=TenantId(UUID(int=9)))
    assert scene.store.objects == {}


@pytest.mark.parametrize(
    ("tenant_id", "where", "content_type"),
    [
        (TENANT, key("a", OTHER), "media"),
        (TENANT, key("a"), "crawl"),
        (TENANT, f"album/{TENANT}/a", "media"),
        (TENANT, f"media/t{TENANT}/a", "media"),
        (TENANT, f"media/{TENANT}", "media"),
        (TENANT, f"elsewhere/{TENANT}/a", "media"),
        (OTHER, key("a"), "media"),
    ],
)
async def test_a_key_is_the_tenants_and_of_its_type(tenant_id: TenantId, where: str, content_type: ContentType) -> None:
    """Nobody puts, deletes or books in the name of another tenant or type; the error names the key and its place."""
    scene = Scene()
    await scene.put("a", 100)
    await scene.put("a", 200, tenant_id=OTHER)
    objects, entries = dict(scene.store.objects), dict(scene.ledger.entries)
    guard = scene.guard
    for act in (
        guard.put(tenant_id, where, b"1", content_type=content_type, mime="image/png"),
        guard.delete(tenant_id, [(key("a", tenant_id), "media"), (where, content_type)]),
        guard.verify(tenant_id, [(where, content_type)]),
        guard.update_tenant_usage(tenant_id, where, content_type, None),
    ):
        with pytest.raises(KeyMisplaced, match=f"{where} is no key.*/{tenant_id}/"):
            await act
    assert (scene.store.objects, scene.ledger.entries) == (objects, entries)


async def test_albums_summaries_are_results() -> None:
    """What lies below `album/` counts as `vision`."""
    scene = Scene()
    where = f"album/{TENANT}/a"
    assert await scene.guard.put(TENANT, where, b"1", content_type="vision", mime="application/json")
    assert (await scene.guard.delete(TENANT, [(where, "vision")])).deleted == (where,)
