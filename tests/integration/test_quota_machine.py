"""The quota's state machine on the real Postgres, where usage and totals are kept by triggers."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.quota_machine import TENANTS, Books, QuotaMachine, unlogged
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.limits import clear_storage_limits, set_storage_limits
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.core.object_ledger import Entry, Place, Slot
from vision_assets.core.quota import OwnLimits, Usage
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import TenantId


@dataclass(slots=True)
class PostgresBooks:
    """Implements `Books`."""

    database: Database
    ledger: PostgresStorage = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = PostgresStorage(self.database)

    async def empty(self) -> None:
        """Start with both tenants and nothing else."""
        await self.database.pool.execute("DELETE FROM tenants")
        left = await self.database.pool.fetch("SELECT total_bytes, reserved_bytes, objects_count FROM storage_totals")
        assert [tuple(row) for row in left] == [(0, 0, 0)] * 3, "what a tenant had goes with it"
        await self.database.pool.execute(
            "INSERT INTO tenants (id, name) SELECT id, id::text FROM unnest($1::uuid[]) AS id", TENANTS
        )

    async def entries(self) -> Mapping[Place, Entry]:
        """See the Protocol."""
        rows = await self.database.pool.fetch("SELECT * FROM storage_objects")
        return {
            (row["tenant_id"], row["s3_key"]): Entry(
                row["bytes"],
                Slot(row["op_id"], row["op_kind"], row["op_bytes"], row["op_delta"], row["op_until"])
                if row["op_id"]
                else None,
            )
            for row in rows
        }

    async def usage(self) -> tuple[Mapping[tuple[TenantId, ContentType], Usage], Mapping[ContentType, Usage]]:
        """See the Protocol."""
        figures = "content_type, total_bytes, reserved_bytes, objects_count"
        by_tenant = await self.database.pool.fetch(f"SELECT tenant_id, {figures} FROM tenant_storage_usage")  # noqa: S608
        by_type = await self.database.pool.fetch(f"SELECT {figures} FROM storage_totals")  # noqa: S608
        assert (len(by_tenant), len(by_type)) == (6, 3)
        return {(row[0], row[1]): Usage(*row[2:]) for row in by_tenant}, {row[0]: Usage(*row[1:]) for row in by_type}

    async def set_own(self, tenant_id: TenantId, own: OwnLimits) -> None:
        """See the Protocol."""
        limits = dict(own.type_bytes) | ({} if own.tenant_bytes is None else {"all": own.tenant_bytes})
        await clear_storage_limits(self.database, tenant_id)
        await set_storage_limits(self.database, tenant_id, limits)

    async def unchecked(self) -> Counter[TenantId]:
        """See the Protocol."""
        rows = await self.database.pool.fetch(
            "SELECT tenant_id, value FROM counters WHERE name = 'storage_quota_check_failures_total'"
        )
        return Counter({row["tenant_id"]: row["value"] for row in rows})


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_quota_machine(database: str, request: pytest.FixtureRequest) -> None:
    """Whatever happens to operations, in whatever order, rows, usage and totals stay right."""
    long = request.config.getoption("--long")
    with unlogged(), asyncio.Runner() as runner:
        opened = Database.open(database, max_size=2)
        under_test = PostgresBooks(runner.run(opened.__aenter__()))

        class Machine(QuotaMachine):
            loop = runner.get_loop()

            def books(self) -> Books:
                """The ledger, emptied."""
                self.play(under_test.empty())
                return under_test

        try:
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=200 if long else 15,
                    stateful_step_count=60 if long else 30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(opened.__aexit__(None, None, None))
