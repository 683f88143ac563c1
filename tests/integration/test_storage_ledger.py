"""The object ledger in Postgres: what only a real database can get wrong. What it answers: `test_quota_machine.py`."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.world import ROOMY
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import ensure_tenant
from vision_assets.clients.postgres.storage import PostgresStorage, lock_usage
from vision_assets.core.errors import TenantUnknown
from vision_assets.core.object_ledger import Begun, Busy, Committed, Granted, Operation, OperationKind, Overdue, Taken
from vision_assets.core.quota import Usage
from vision_assets.core.storage import CONTENT_TYPES, ContentType
from vision_assets.core.tenants import TenantId

NOW = datetime(2030, 6, 1, tzinfo=UTC)
LIFE = timedelta(seconds=300)


def operation(
    tenant_id: TenantId,
    name: str,
    *,
    kind: OperationKind = "put",
    size: int = 0,
    content_type: ContentType = "crawl",
) -> Operation:
    """An operation on a key of a tenant."""
    return Operation(uuid4(), tenant_id, f"{content_type}/{tenant_id}/{name}", content_type, kind, size)


async def begin(ledger: PostgresStorage, *operations: Operation, now: datetime = NOW) -> Sequence[Begun]:
    """Begin with room for everything."""
    return await ledger.begin(operations, limits=ROOMY, now=now, until=now + LIFE)


async def test_a_slot_belongs_to_one(database: str) -> None:
    """Only the operation that has the slot can commit, once; everybody else changes nothing."""
    async with Database.open(database) as opened:
        ledger, tenant = PostgresStorage(opened), (await ensure_tenant(opened, "One")).id
        first, second = operation(tenant, "a", size=30), operation(tenant, "a", size=50)
        assert await begin(ledger, first, second) == [Granted(None), Busy(NOW + LIFE)]
        assert await begin(ledger, first) == [Granted(None)], "repeated, as after a lost answer"
        assert await ledger.commit([Committed(second, 50), Committed(second, None)]) == [False, False]
        assert (await ledger.usage(tenant)).types["crawl"] == Usage(0, 30, 0)
        assert await ledger.commit([Committed(first, 30)]) == [True]
        assert await ledger.commit([Committed(first, 30), Committed(first, None)]) == [False, False]
        assert (await ledger.usage(tenant)).types["crawl"] == Usage(30, 0, 1)


async def test_a_slot_that_is_taken_over_while_its_commit_waits(database: str) -> None:
    """A commit that waits for the one who sweeps its slot finds it gone, and books nothing."""
    async with Database.open(database) as opened:
        ledger, tenant = PostgresStorage(opened), (await ensure_tenant(opened, "One")).id
        late, deleted = operation(tenant, "a", size=30), operation(tenant, "b", kind="delete")
        await begin(ledger, late, deleted)
        async with opened.transaction() as sweeper:
            await lock_usage(sweeper, [tenant])
            commit = asyncio.create_task(ledger.commit([Committed(late, 30), Committed(deleted, None)]))
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while not await opened.pool.fetchval(waiting):
                assert not commit.done()
            await sweeper.execute("UPDATE storage_objects SET op_id = gen_random_uuid(), op_kind = 'verify'")
        assert await commit == [False, False]
        assert (await ledger.usage(tenant)).types["crawl"] == Usage(0, 30, 0)


async def test_what_is_overdue_is_taken_over_page_by_page(database: str) -> None:
    """Only slots whose time is up, the oldest first, with what they hold; and only of that tenant."""
    async with Database.open(database) as opened:
        ledger = PostgresStorage(opened)
        tenant, other = (await ensure_tenant(opened, "One")).id, (await ensure_tenant(opened, "Other")).id
        await begin(ledger, operation(tenant, "later", size=20), now=NOW + timedelta(seconds=2))
        await begin(ledger, operation(tenant, "old", size=10), operation(other, "old", size=1))
        await begin(ledger, operation(tenant, "new", size=40), now=NOW + LIFE)

        async def overdue(limit: int) -> Sequence[Taken]:
            now = NOW + LIFE + timedelta(seconds=2)
            return await ledger.overdue(tenant, now=now, until=now + LIFE, limit=limit)

        pages = [await overdue(1), await overdue(5), await overdue(5)]
        assert [[(one.key.rsplit("/")[-1], was) for one, was in page] for page in pages] == [
            [("old", Overdue(None, 10))],
            [("later", Overdue(None, 20))],
            [],
        ]
        assert await ledger.commit([Committed(one, None) for page in pages for one, _ in page]) == [True, True]
        assert (await ledger.usage(tenant)).types["crawl"] == Usage(0, 40, 0)


async def test_an_age_that_s3_tells_is_kept_for_what_is_new(database: str) -> None:
    """An object that is found gets the age that S3 tells; one that was known keeps its own; a put is new."""
    age = "SELECT recorded_at FROM storage_objects"
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    async with Database.open(database) as opened:
        ledger, tenant = PostgresStorage(opened), (await ensure_tenant(opened, "One")).id

        async def verify(size: int, modified_at: datetime) -> datetime:
            looking = operation(tenant, "a", kind="verify")
            await begin(ledger, looking)
            await ledger.commit([Committed(looking, size, modified_at)])
            found: datetime = await opened.pool.fetchval(age)
            return found

        assert await verify(10, long_ago) == long_ago
        assert await verify(10, long_ago + LIFE) == long_ago
        assert await verify(11, long_ago + LIFE) == long_ago + LIFE
        assert await verify(12, datetime(2200, 1, 1, tzinfo=UTC)) <= datetime.now(UTC) + LIFE
        putting = operation(tenant, "a", size=12)
        await begin(ledger, putting)
        await ledger.commit([Committed(putting, 12)])
        assert await opened.pool.fetchval(age) > datetime.now(UTC) - LIFE


async def test_a_batch_with_an_unknown_tenant_begins_nothing(database: str) -> None:
    """One stranger in a batch stops it as a whole."""
    async with Database.open(database) as opened:
        ledger, tenant = PostgresStorage(opened), (await ensure_tenant(opened, "One")).id
        with pytest.raises(TenantUnknown):
            await begin(ledger, operation(tenant, "a", size=1), operation(TenantId(uuid4()), "a", size=1))
        assert await opened.pool.fetchval("SELECT count(*) FROM storage_objects") == 0
        with pytest.raises(TenantUnknown):
            await ledger.usage(TenantId(uuid4()))


async def test_batches_of_all_tenants_and_types_do_not_deadlock(database: str) -> None:
    """Whoever begins, commits and sweeps, in whatever order: nobody gives way, and the limits hold at every moment."""
    chance = random.Random(7)
    async with Database.open(database, max_size=8) as opened:
        ledger = PostgresStorage(opened)
        tenants = [(await ensure_tenant(opened, f"T{number}")).id for number in range(3)]
        limits = replace(ROOMY, tenant_bytes=1000, bucket_bytes=2000)
        taken = "SELECT sum(total_bytes + reserved_bytes) FROM storage_totals"

        async def work() -> None:
            for _ in range(12):
                operations = [
                    operation(
                        chance.choice(tenants),
                        chance.choice("abcd"),
                        kind=chance.choice(["put", "put", "delete", "verify"]),
                        size=chance.choice([50, 200]),
                        content_type=chance.choice(CONTENT_TYPES),
                    )
                    for _ in range(6)
                ]
                answers = await ledger.begin(
                    operations, limits=limits, now=NOW, until=NOW + chance.choice([LIFE, -LIFE])
                )
                assert await opened.pool.fetchval(taken) <= limits.bucket_bytes
                mine = [one for one, answer in zip(operations, answers, strict=True) if isinstance(answer, Granted)]
                chance.shuffle(mine)
                await ledger.commit([Committed(one, one.size_bytes if one.kind == "put" else None) for one in mine[1:]])
                await ledger.overdue(chance.choice(tenants), now=NOW, until=NOW - LIFE, limit=3)

        await asyncio.gather(*(work() for _ in range(8)))
        sums = """
            SELECT content_type, coalesce(sum(bytes), 0), coalesce(sum(op_delta), 0), count(bytes) FROM storage_objects
            GROUP BY 1 ORDER BY 1
        """
        totals = "SELECT content_type, total_bytes, reserved_bytes, objects_count FROM storage_totals ORDER BY 1"
        assert [tuple(row) for row in await opened.pool.fetch(sums)] == [
            tuple(row) for row in await opened.pool.fetch(totals)
        ]
