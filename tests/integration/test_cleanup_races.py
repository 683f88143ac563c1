"""A clean-up beside writers, among failures, and killed between any two of its steps: nothing goes but what may."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from tests.cleaning import Cleaning, WrappedStore, down_to, sha256_of
from tests.integration.test_cleanup import by_class
from tests.integration.test_reconcile import bucket_through
from tests.world import World
from vision_assets.clients.postgres.cleanup import PostgresCleanup
from vision_assets.core.cleanup import Candidate, CleanupReport, Step
from vision_assets.core.cleanup_pass import GIVE_UP_AFTER
from vision_assets.core.errors import ConfigurationError, DatabaseConflict, StorageBusy, StorageUnavailable
from vision_assets.core.guarded_store import SLOT_LIFE
from vision_assets.core.object_ledger import Taken
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import StoredObject
from vision_assets.core.tenants import Tenant, TenantId
from vision_assets.settings import Settings


@pytest.fixture
def cleaning(world: World) -> Cleaning:
    """Clean-ups of this test's world."""
    return Cleaning(world)


@dataclass(frozen=True, slots=True)
class Interrupted(PostgresCleanup):
    """Something happens after the candidates were listed and before they are looked at again."""

    meanwhile: Callable[[TenantId], Awaitable[None]] | None = None

    async def claim(
        self,
        tenant_id: TenantId,
        candidates: Sequence[Candidate],
        *,
        step: Step,
        limits: StorageLimits,
        now: datetime,
        until: datetime,
    ) -> Sequence[Taken]:
        """Let it happen, then do as ever."""
        assert self.meanwhile
        await self.meanwhile(tenant_id)
        return await PostgresCleanup.claim(self, tenant_id, candidates, step=step, limits=limits, now=now, until=until)


async def test_new_reference_saves_a_picture(cleaning: Cleaning) -> None:
    """A post that begins to refer to a candidate after it was listed keeps it; the others go."""
    tenant = await cleaning.world.tenant("Saved")
    saved = await cleaning.put_picture(tenant, "saved", days=40)
    await cleaning.put_picture(tenant, "gone", days=40)

    async def refer(_: TenantId) -> None:
        await cleaning.refer(tenant, "saved")

    report = await cleaning.run(ledger=Interrupted(cleaning.world.database, refer))
    assert (await cleaning.world.keys()).keys() == {saved}
    assert report.left.total() == 1
    assert await cleaning.world.database.pool.fetchval("SELECT s3_key FROM media_objects") == saved
    await cleaning.assert_books_are_true()


async def test_emergency_makes_up_for_what_was_saved(cleaning: Cleaning) -> None:
    """For a candidate that is kept, the next one goes: the target is reached, by the objects that are needed."""
    tenant = await cleaning.world.tenant("Makes up")
    for number in range(4):
        await cleaning.put_picture(tenant, f"{number}", days=40 - number)

    async def refer(_: TenantId) -> None:
        if not await cleaning.world.database.pool.fetchval("SELECT count(*) FROM posts"):
            await cleaning.refer(tenant, "0")

    report = await cleaning.run(down_to(20), ledger=Interrupted(cleaning.world.database, refer))
    assert report.reached
    pictures = await cleaning.world.database.pool.fetch("SELECT sha256 FROM media_objects")
    assert {row["sha256"] for row in pictures} == {sha256_of("0"), sha256_of("3")}


@pytest.mark.parametrize("uncommitted", [False, True])
async def test_use_saves_a_picture(cleaning: Cleaning, *, uncommitted: bool) -> None:
    """A run that looks the picture up, to refer to it, keeps it; also one whose transaction is still open."""
    world = cleaning.world
    tenant = await world.tenant("Looked up")
    key = await cleaning.put_picture(tenant, "used", days=40)
    touched, finish = asyncio.Event(), asyncio.Event()

    async def record() -> None:
        async with world.database.transaction() as connection:
            await connection.execute("UPDATE media_objects SET last_used_at = now() WHERE s3_key = $1", key)
            touched.set()
            await finish.wait()

    async def look_up(_: TenantId) -> None:
        if uncommitted:
            tasks.append(asyncio.create_task(record()))
            await touched.wait()
            asyncio.get_running_loop().call_later(0.3, finish.set)
        else:
            assert await world.media_pass(tenant).ledger.find_object(tenant.id, sha256_of("used"))

    tasks: list[asyncio.Task[None]] = []
    await cleaning.run(ledger=Interrupted(world.database, look_up))
    await asyncio.gather(*tasks)
    assert (await world.keys()).keys() == {key}
    assert await world.database.pool.fetchval("SELECT count(*) FROM media_objects") == 1


async def clean_up_beside(cleaning: Cleaning, first: str, then: str) -> CleanupReport:
    """Clean up beside a transaction that makes its first change before the claim, the other when the claim waits."""
    database = cleaning.world.database
    begun = asyncio.Event()

    async def change() -> None:
        async with database.transaction() as connection:
            await connection.execute(first)
            begun.set()
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while not await database.pool.fetchval(waiting):  # noqa: ASYNC110 - the server tells no event
                await asyncio.sleep(0.01)
            await connection.execute(then)

    async def begin(_: TenantId) -> None:
        changes.append(asyncio.create_task(change()))
        await begun.wait()

    changes: list[asyncio.Task[None]] = []
    report = await cleaning.run(ledger=Interrupted(database, begin))
    await asyncio.gather(*changes)
    return report


async def test_claim_locks_pictures_before_their_results(cleaning: Cleaning) -> None:
    """Whoever writes a result locks its picture first; so does a clean-up, and neither gives way to the other."""
    tenant = await cleaning.world.tenant("Results")
    await cleaning.put_picture(tenant, "seen", days=40)
    await cleaning.put_result(tenant, "seen", days=10)
    report = await clean_up_beside(
        cleaning,
        "UPDATE media_objects SET last_used_at = last_used_at",
        "UPDATE vision_results SET analyzed_at = now()",
    )
    assert not report.failures
    assert await cleaning.world.keys() == {}


async def test_claim_locks_enriched_posts_in_their_order(cleaning: Cleaning) -> None:
    """Of a batch with a result and a summary, the posts are locked in one order, as those who enrich them do."""
    world = cleaning.world
    tenant = await world.tenant("Enriched")
    for name in ("album", "seen"):
        await cleaning.put_picture(tenant, name)
    album, single = [await cleaning.refer(tenant, name) for name in ("album", "seen")]
    summary = await cleaning.put(tenant, f"album/{album}_vision_summary_v1.json", "vision", days=30)
    result = await cleaning.put_result(tenant, "seen", days=30)
    for post_id, data in (
        (album, {"album_summary_s3_key": summary}),
        (single, {"s3_keys_list": [{"s3_key": result}], "s3_keys": {"image": result}}),
    ):
        await world.database.pool.execute(
            "INSERT INTO post_enrichment (post_id, kind, tenant_id, provider, params_hash, data, status)"
            " VALUES ($1, 'vision', $2, 'local', '', $3, 'ok')",
            post_id,
            tenant.id,
            data,
        )
    change = "UPDATE post_enrichment SET updated_at = now() WHERE post_id = '{}'"
    report = await clean_up_beside(cleaning, change.format(album), change.format(single))
    assert not report.failures
    rows = await world.database.pool.fetch("SELECT post_id, data FROM post_enrichment")
    assert {row["post_id"]: row["data"] for row in rows} == {album: {}, single: {"s3_keys_list": [], "s3_keys": {}}}


async def test_new_put_saves_an_object(cleaning: Cleaning) -> None:
    """An object that was put again after it was listed is a new one, and stays; so does one that is being put."""
    world = cleaning.world
    tenant = await world.tenant("Put again")
    again = await cleaning.put(tenant, "vision/again.json", "vision", days=30)
    picture = await cleaning.put_picture(tenant, "seen")
    being_put = await cleaning.put_result(tenant, "seen", days=30)

    async def put(tenant_id: TenantId) -> None:
        await world.quota().put(tenant_id, again, b"new", content_type="vision", mime="text/html")
        await world.database.pool.execute(
            "UPDATE storage_objects SET op_id = gen_random_uuid(), op_kind = 'put', op_delta = 0,"
            " op_until = now() + interval '1 minute' WHERE s3_key = $1",
            being_put,
        )

    report = await cleaning.run(ledger=Interrupted(world.database, put))
    assert report.left.total() == 2
    assert await world.keys() == {again: 3, being_put: 10, picture: 10}
    assert await world.database.pool.fetchval("SELECT s3_key FROM vision_results") == being_put


@dataclass
class ContestedStore(WrappedStore):
    """A bucket in which somebody puts a key while it is being deleted."""

    rival: Callable[[str], Awaitable[None]] | None = None
    tried: int = 0

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete; before and after, the other one tries."""
        await self._try(keys)
        await self.store.delete(keys)
        await self._try(keys)

    async def _try(self, keys: Sequence[str]) -> None:
        assert self.rival
        for key in keys:
            with pytest.raises(StorageBusy):
                await self.rival(key)
            self.tried += 1


async def test_put_waits_for_the_delete(cleaning: Cleaning) -> None:
    """A put of a key that is being removed waits for it; it comes after the delete in S3 and in the books."""
    world = cleaning.world
    tenant = await world.tenant("Contested")
    key = await cleaning.put_page(tenant, "a.html", days=30)

    async def put(key: str) -> None:
        await cleaning.guard().put(tenant.id, key, b"new", content_type="crawl", mime="text/html")

    store = ContestedStore(world.bucket, put)
    await cleaning.run(store=store)
    assert store.tried == 2
    assert await world.keys() == {}
    await put(key)
    assert await world.keys() == {key: 3}
    await cleaning.assert_books_are_true()


async def test_puts_and_clean_ups_together(cleaning: Cleaning) -> None:
    """Pages are put, overwritten and cleaned up at once, again and again: the books equal the bucket."""
    world = cleaning.world
    tenants = [await world.tenant(f"Together {number}") for number in range(3)]
    ended = asyncio.Event()

    async def put(tenant: Tenant, number: int) -> None:
        guard = replace(cleaning.guard(), patience_seconds=30)
        for size_bytes in range(1, 6):
            await guard.put(
                tenant.id,
                f"crawl/{tenant.id}/{number}.html",
                bytes(size_bytes),
                content_type="crawl",
                mime="text/html",
            )

    async def clean_up() -> int:
        # Its clock is far ahead: whatever is in the books may go, and every operation of the others seems overdue.
        removed = 0
        while not ended.is_set():
            report = await replace(cleaning, ahead=timedelta(days=8)).run()
            assert not report.failures
            removed += sum(total.objects for total in report.totals())
        return removed

    cleaner = asyncio.create_task(clean_up())
    try:
        async with asyncio.TaskGroup() as group:
            for tenant in tenants:
                for number in range(10):
                    group.create_task(put(tenant, number))
    finally:
        ended.set()
    assert await cleaner > 0
    await cleaning.assert_books_are_true()


@dataclass
class RefusingStore(WrappedStore):
    """A bucket that refuses deletes of some keys, after it has done a part of the request."""

    refused: Callable[[str], bool] = bool
    requests: list[tuple[str, ...]] = field(default_factory=list)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete what is not refused."""
        self.requests.append(tuple(keys))
        await self.store.delete([key for key in keys if not self.refused(key)])
        if any(map(self.refused, keys)):
            raise StorageUnavailable("refused")


async def test_refused_batch_does_not_stop_the_others(cleaning: Cleaning) -> None:
    """S3 refuses all of one tenant and one object of another: the rest goes, what went is counted, the rest later."""
    world = cleaning.world
    bad, mixed, good = [await world.tenant(name) for name in ("Bad", "Mixed", "Good")]
    refused = {await cleaning.put_page(bad, f"{n}.html", days=30 - n) for n in range(3)}
    refused.add(await cleaning.put_page(mixed, "locked.html", days=30))
    await cleaning.put_page(mixed, "free.html", days=29)
    for tenant in (bad, mixed, good):
        await cleaning.put_picture(tenant, "old", days=40)
    store = RefusingStore(world.bucket, lambda key: key in refused)
    report = await cleaning.run(store=store)
    assert [str(tenant.id) in failure for tenant, failure in zip((bad, mixed), report.failures, strict=True)] == [
        True
    ] * 2
    left = await world.keys()
    assert refused < left.keys()
    assert {key for key in left if key.startswith("media/")} == {key for key in left if f"media/{bad.id}" in key}
    assert {(t.name, t.tenants, t.objects) for t in report.totals() if t.objects} == {("crawl", 1, 1), ("media", 2, 2)}
    await cleaning.assert_books_are_true()
    again = await cleaning.run()
    assert not again.failures
    assert await world.keys() == {}


async def test_batch_that_gets_its_turn_too_late_is_not_deleted(cleaning: Cleaning) -> None:
    """A claim that waited until its slots may be lost before S3 is through deletes nothing; the next clean-up does."""

    @dataclass(frozen=True, slots=True)
    class Slow(PostgresCleanup):
        async def claim(
            self,
            tenant_id: TenantId,
            candidates: Sequence[Candidate],
            *,
            step: Step,
            limits: StorageLimits,
            now: datetime,
            until: datetime,
        ) -> Sequence[Taken]:
            taken = await PostgresCleanup.claim(
                self, tenant_id, candidates, step=step, limits=limits, now=now, until=until
            )
            cleaning.ahead += SLOT_LIFE * 0.6
            return taken

    key = await cleaning.put_page(await cleaning.world.tenant("Waited"), "a.html", days=30)
    report = await cleaning.run(ledger=Slow(cleaning.world.database))
    [failure] = report.failures
    assert "StorageBusy" in failure
    assert (await cleaning.world.keys()).keys() == {key}
    await cleaning.assert_books_are_true()
    assert not (await cleaning.run()).failures
    assert await cleaning.world.keys() == {}


async def test_s3_that_fails_for_all_ends_the_clean_up(cleaning: Cleaning) -> None:
    """When S3 refuses one tenant after the other, it is down: the clean-up ends and tells so."""
    for number in range(GIVE_UP_AFTER + 3):
        await cleaning.put_page(await cleaning.world.tenant(f"{number}"), "a.html", days=30 - number)
    store = RefusingStore(cleaning.world.bucket, lambda _: True)
    with pytest.raises(StorageUnavailable, match="refused"):
        await cleaning.run(store=store)
    assert len(store.requests) == GIVE_UP_AFTER
    await cleaning.assert_books_are_true()


@dataclass
class SilentStore(WrappedStore):
    """A bucket that tells nothing of some objects.

    Attributes:
        asked: For those.
    """

    silent: Callable[[str], bool] = bool
    asked: list[str] = field(default_factory=list)

    async def head(self, key: str) -> StoredObject | None:
        """Tell what it tells."""
        if self.silent(key):
            self.asked.append(key)
            raise StorageUnavailable("silent")
        return await self.store.head(key)


async def begin_and_die(cleaning: Cleaning, tenant: Tenant) -> None:
    """Leave an overdue operation behind."""
    await cleaning.world.database.pool.execute(
        "INSERT INTO storage_objects (tenant_id, s3_key, content_type, op_id, op_kind, op_delta, op_until)"
        " VALUES ($1::uuid, 'crawl/' || $1 || '/dead', 'crawl', gen_random_uuid(), 'put', 5, now())",
        tenant.id,
    )


async def test_operation_that_s3_does_not_tell_of_is_a_failure(cleaning: Cleaning) -> None:
    """An overdue operation that cannot be looked after is told; those of others are, and the clean-up goes on."""
    silent, good = await cleaning.world.tenant("Silent"), await cleaning.world.tenant("Good")
    for tenant in (silent, good):
        await begin_and_die(cleaning, tenant)
        await cleaning.put_page(tenant, "a.html", days=30)
    report = await cleaning.run(store=SilentStore(cleaning.world.bucket, lambda key: str(silent.id) in key))
    [failure] = report.failures
    assert str(silent.id) in failure
    assert (await cleaning.world.keys(), await cleaning.taken_bytes()) == ({}, 5)
    assert not (await replace(cleaning, ahead=timedelta(minutes=6)).run()).failures
    await cleaning.assert_books_are_true()


async def test_s3_that_tells_nothing_ends_the_clean_up(cleaning: Cleaning) -> None:
    """When S3 tells of the overdue operations of no tenant, the clean-up does not wait for it any more."""
    for number in range(GIVE_UP_AFTER + 3):
        await begin_and_die(cleaning, await cleaning.world.tenant(f"{number}"))
    store = SilentStore(cleaning.world.bucket, lambda key: key.endswith("/dead"))
    with pytest.raises(StorageUnavailable, match="dead"):
        await cleaning.run(store=store)
    assert len(store.asked) == GIVE_UP_AFTER


async def test_tenant_that_cannot_be_claimed_does_not_stop_the_others(cleaning: Cleaning) -> None:
    """A transaction that gives way for one tenant leaves it out; the others are cleaned up."""
    bad, good = await cleaning.world.tenant("Locked"), await cleaning.world.tenant("Free")
    key = await cleaning.put_page(bad, "a.html", days=30)
    await cleaning.put_page(good, "a.html", days=29)

    async def give_way(tenant_id: TenantId) -> None:
        if tenant_id == bad.id:
            raise DatabaseConflict("lock time-out")

    report = await cleaning.run(ledger=Interrupted(cleaning.world.database, give_way))
    [failure] = report.failures
    assert str(bad.id) in failure
    assert "lock time-out" in failure
    assert (await cleaning.world.keys()).keys() == {key}


async def test_bucket_that_does_not_exist(cleaning: Cleaning, parts: Settings) -> None:
    """With a wrong S3_BUCKET the clean-up fails at once, and takes nothing out of the books and the registries."""
    world = cleaning.world
    tenant = await world.tenant("Elsewhere")
    await cleaning.put_page(tenant, "a.html", days=30)
    await cleaning.put_picture(tenant, "a", days=40)
    elsewhere = bucket_through(parts.s3_endpoint_url or "", world, parts, bucket="no-such-bucket")
    with pytest.raises(ConfigurationError, match="S3_BUCKET"):
        await cleaning.run(store=elsewhere)
    assert await cleaning.taken_bytes() == 20
    assert await world.database.pool.fetchval("SELECT count(*) FROM media_objects") == 1
    assert by_class(await cleaning.run()) == {"crawl": (1, 1, 10), "media": (1, 1, 10)}
    await cleaning.assert_books_are_true()


@pytest.mark.parametrize(("point", "left"), [("before", 2), ("half", 1), ("after", 0)])
@pytest.mark.parametrize("kind", ["crawl", "vision", "media"])
async def test_killed_clean_up(
    cleaning: Cleaning, database: str, bucket: str, *, kind: str, point: str, left: int
) -> None:
    """Killed before S3 deletes, half way or after it: the slots expire, S3 is asked, and the next clean-up goes on."""
    world = cleaning.world
    first, second = await world.tenant("First"), await world.tenant("Second")
    await cleaning.put_page(first, "a.html", days=31)
    stay = {await cleaning.put_page(second, "young.html"), await cleaning.put_picture(second, "young")}
    for name in ("a", "b"):
        if kind == "crawl":
            await cleaning.put_page(second, name, days=30)
        else:
            picture = await cleaning.put_picture(second, name, days=40)
        if kind == "vision":
            stay.add(picture)
            await cleaning.refer(second, name)
            await cleaning.put_result(second, name, days=30)
    victim = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.cleanup_victim", database, bucket, point)
    assert await victim.wait() == -signal.SIGKILL
    assert len(await world.keys()) == left + len(stay)
    under_way = "SELECT count(*) FROM storage_objects WHERE op_kind = 'delete'"
    assert await world.database.pool.fetchval(under_way) == 2
    for _ in range(1_000):  # until Postgres has noticed that nobody is there any more
        if not await world.database.pool.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"):
            break
        await asyncio.sleep(0.01)
    # As long as the slots live, nobody guesses: the objects are still in the books, and no clean-up takes them.
    assert not (await cleaning.run()).removed
    assert await cleaning.taken_bytes() == 10 * (2 + len(stay))
    report = await replace(cleaning, ahead=timedelta(minutes=6)).run()
    assert not report.failures
    assert sum(total.objects for total in report.totals()) == left
    assert (await world.keys()).keys() == stay
    await cleaning.assert_books_are_true()
    evicted = "SELECT count(*) FROM vision_results WHERE s3_key IS NULL AND s3_evicted_at IS NOT NULL"
    assert await world.database.pool.fetchval(evicted) == (2 if kind == "vision" else 0)
