"""A tenant with stored pictures and a provider that costs, for tests of the pass of `vision_results`.

What is not here: assertions.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.paid_provider import PaidProvider
from tests.world import ROOMY, World
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.postgres.turns import PostgresLine
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.analysis import VisionPass
from vision_assets.core.budget import Allowance, BudgetLimits, Hold, Window
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.importing import PostSource
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision_ledger import VisionLedger
from vision_assets.core.vision_report import VisionReport

ROOM = BudgetLimits(tenant={"day": Allowance(1_000_000), "calls": Allowance(requests=3)})


async def soon(seconds: float) -> None:
    """Wait, but not as long as said."""
    await asyncio.sleep(seconds / 20)


@dataclass(slots=True)
class Bench:
    """A tenant with stored pictures, and any number of workers with pools and gates of their own."""

    worlds: Callable[[], Awaitable[World]]
    ledgers: Callable[[], Awaitable[PostgresBudget]]
    world: World
    tenant: Tenant
    sha256s: list[str] = field(default_factory=list)
    provider: PaidProvider = field(default_factory=PaidProvider)
    limits: BudgetLimits = ROOM
    policy: VisionPolicy = field(default_factory=VisionPolicy)
    local: PaidProvider | None = None

    async def show(self, source: Path | PostSource) -> None:
        """Import posts, store their pictures, and list all of the tenant's in `sha256s`, by first appearance."""
        await self.world.load(self.tenant, source)
        await self.world.store_media(self.tenant)
        rows = await self.world.database.pool.fetch(
            "SELECT sha256 FROM media_objects WHERE tenant_id = $1 ORDER BY first_post_seq, first_position",
            self.tenant.id,
        )
        self.sha256s = [row["sha256"] for row in rows]

    async def gate(self, *, ago: timedelta = timedelta()) -> BudgetGate:
        """A gate with connections of its own.

        Args:
            ago: How long its clock is behind: what it holds was held that long ago.
        """
        return BudgetGate(await self.ledgers(), self.limits, clock=lambda: datetime.now(UTC) - ago, sleep=soon)

    async def analyse(
        self,
        gate: BudgetGate | None = None,
        *,
        world: World | None = None,
        store: ObjectStore | None = None,
        ledger: VisionLedger | None = None,
    ) -> VisionReport:
        """Run the pass.

        Args:
            store: What is put goes there.
            ledger: Of results; None: the world's.
        """
        gate = gate or await self.gate()
        report = await self.one_pass(gate, world=world or self.world, store=store, ledger=ledger).analyse_media()
        await gate.aclose()
        return report

    async def count(self) -> int:
        """Count what a pass would do now."""
        gate = await self.gate()
        count = await self.one_pass(gate, world=self.world).count()
        await gate.aclose()
        return count

    def one_pass(
        self,
        gate: BudgetGate,
        *,
        world: World,
        store: ObjectStore | None = None,
        ledger: VisionLedger | None = None,
    ) -> VisionPass:
        """Prepare the pass; arguments as of `analyse`."""
        return VisionPass(
            tenant_id=self.tenant.id,
            provider=self.provider,
            store=world.bucket,
            quota=QuotaGuardedStore(store=store or world.bucket, ledger=PostgresStorage(world.database), limits=ROOMY),
            ledger=ledger or PostgresVision(world.database),
            policy=self.policy,
            gate=gate,
            local=self.local,
        )

    async def leave_a_hold(self, sha256: str, *, ago: timedelta) -> Hold:
        """Hold the call about a picture as a worker does that died that long ago."""
        return await (await self.gate(ago=ago)).reserve(
            self.tenant.id,
            provider="paid",
            model="test-1",
            prompt="prompt-1",
            estimated_tokens=1792,
            subject=f"{sha256}/paid/test-1/v1.0",
        )

    async def day(self) -> Window:
        """The tenant's day."""
        return next(w for w in await (await self.gate()).windows(self.tenant.id) if w.key.period == "day")

    async def wait_until_due(self) -> None:
        """Let the time come of whatever was deferred."""
        await self.world.database.pool.execute("UPDATE vision_decisions SET due_at = now()")

    async def is_due(self, now: datetime) -> bool:
        """Tell whether the tenant comes in line because of pictures that waited."""
        await self.rows("DELETE FROM tenant_changes")
        await PostgresLine(self.world.database).add_due(now)
        return bool(await self.rows("SELECT FROM tenant_changes WHERE tenant_id = $1", self.tenant.id))

    async def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Ask the database."""
        return [tuple(row) for row in await self.world.database.pool.fetch(query, *values)]


NewBench = Callable[[str], Awaitable[Bench]]
"""Of a tenant, by its name."""
