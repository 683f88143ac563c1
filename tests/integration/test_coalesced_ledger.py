"""Operations of many callers in shared transactions of the real object ledger."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.world import ROOMY
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import ensure_tenant
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.core.coalesced_ledger import CoalescedLedger
from vision_assets.core.errors import TenantUnknown
from vision_assets.core.object_ledger import Begun, Busy, Committed, Granted, Operation
from vision_assets.core.quota import Usage
from vision_assets.core.tenants import TenantId

NOW = datetime(2030, 6, 1, tzinfo=UTC)
LIFE = timedelta(seconds=300)
SIZE = 10


@dataclass(frozen=True, slots=True)
class Counted(PostgresStorage):
    """The ledger in Postgres, which notes the size of each batch."""

    begun: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)

    async def begin(self, operations: Sequence[Operation], **options: Any) -> Sequence[Begun]:
        """Note it, and begin."""
        self.begun.append(len(operations))
        return await PostgresStorage.begin(self, operations, **options)

    async def commit(self, outcomes: Sequence[Committed]) -> Sequence[bool]:
        """Note it, and commit."""
        self.committed.append(len(outcomes))
        return await PostgresStorage.commit(self, outcomes)


@asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[tuple[Counted, CoalescedLedger, list[TenantId]]]:
    """Two tenants and both ledgers."""
    async with Database.open(database_url) as database:
        tenants = [(await ensure_tenant(database, name)).id for name in ("One", "Two")]
        counted = Counted(database)
        async with CoalescedLedger.over(counted) as coalesced:
            yield counted, coalesced, tenants


def put(tenant_id: TenantId, name: str) -> Operation:
    """A put of a few bytes."""
    return Operation(uuid4(), tenant_id, f"crawl/{tenant_id}/{name}", "crawl", "put", SIZE)


async def begin(ledger: CoalescedLedger, operation: Operation, *, later: timedelta = timedelta()) -> Begun:
    """Begin one operation, with room for everything."""
    now = NOW + later
    [answer] = await ledger.begin([operation], limits=ROOMY, now=now, until=now + LIFE)
    return answer


async def test_callers_of_all_tenants_share_transactions(database: str) -> None:
    """Who comes while one is under way is in the next; answers and books are as if each had come alone."""
    async with opened(database) as (counted, ledger, tenants):
        operations = [put(tenant, str(number)) for number in range(20) for tenant in tenants]
        answers = await asyncio.gather(*(begin(ledger, operation) for operation in operations))
        assert answers == [Granted(None)] * len(operations)
        assert counted.begun == [len(operations)]
        again, own = put(tenants[0], "0"), operations[0]
        assert list(await asyncio.gather(begin(ledger, again), begin(ledger, own))) == [Busy(NOW + LIFE), Granted(None)]
        booked = await asyncio.gather(*(ledger.commit([Committed(one, SIZE)]) for one in [*operations, again]))
        assert booked == [[True]] * len(operations) + [[False]]
        assert counted.committed == [len(operations) + 1]
        for tenant in tenants:
            assert (await ledger.usage(tenant)).types["crawl"] == Usage(20 * SIZE, 0, 20)


async def test_what_is_one_callers_own_fault_is_no_others(database: str) -> None:
    """An unknown tenant fails for whoever asked for it; the others get their slots."""
    async with opened(database) as (_, ledger, tenants):
        nobody = TenantId(uuid4())
        asked = [put(tenants[0], "a"), put(nobody, "b"), put(tenants[1], "c")]
        answers = await asyncio.gather(*(begin(ledger, one) for one in asked), return_exceptions=True)
        assert [answers[0], answers[2]] == [Granted(None)] * 2
        assert isinstance(answers[1], TenantUnknown)


async def test_no_slot_ends_before_its_caller_believes(database: str) -> None:
    """Callers of one batch looked at the clock at different times: the latest end holds for all."""
    async with opened(database) as (counted, ledger, tenants):
        late = timedelta(seconds=20)
        early, later = put(tenants[0], "a"), put(tenants[0], "b")
        await asyncio.gather(begin(ledger, early), begin(ledger, later, later=late))
        assert counted.begun == [2]
        assert await begin(ledger, put(tenants[0], "a")) == Busy(NOW + late + LIFE)


async def test_a_caller_that_is_cancelled_takes_nobody_with_it(database: str) -> None:
    """Its slot stays until it expires, what it had done is booked, and the others go on."""
    async with opened(database) as (_, ledger, tenants):
        broken_off, other = put(tenants[0], "a"), put(tenants[0], "b")
        tasks = [asyncio.create_task(begin(ledger, one)) for one in (broken_off, other)]
        await asyncio.sleep(0)  # both wait for the batch
        tasks[0].cancel()
        assert await tasks[1] == Granted(None)
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        committing = asyncio.create_task(ledger.commit([Committed(other, SIZE)]))
        await asyncio.sleep(0)
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
    async with opened(database) as (_, ledger, tenants):
        assert (await ledger.usage(tenants[0])).types["crawl"].total_bytes == SIZE
