"""What brings the storage's books in order after chaos, and how much it had to do. What is not here: any load."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.chaos.storing import limits
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.postgres.usage import PostgresReconciliation
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.reconcile import Reconciliation
from vision_assets.core.tenants import TenantId


@dataclass(slots=True)
class Reconciler:
    """Reconciles tenants, one at a time.

    Attributes:
        orders: Of the workers.
        ahead_seconds: Its clock; ahead by a slot's life, all slots of the dead are overdue.
        runs: Reconciliations so far.
        drift: Objects by class that they confirmed and put right.
        nominated: Objects that they looked at.
    """

    database: Database
    orders: dict[str, Any]
    store: S3Bucket
    slot_seconds: float = 60
    ahead_seconds: float = 0
    runs: int = 0
    nominated: int = 0
    drift: Counter[str] = field(default_factory=Counter)

    @property
    def guard(self) -> QuotaGuardedStore:
        """The store behind the quota."""
        return QuotaGuardedStore(
            store=self.store,
            ledger=PostgresStorage(self.database),
            limits=limits(self.orders["limit_bytes"], tenants=len(self.orders["tenants"])),
            slot_life=timedelta(seconds=self.slot_seconds),
            clock=lambda: datetime.now(UTC) + timedelta(seconds=self.ahead_seconds),
        )

    async def sweep(self, tenants: Sequence[UUID]) -> int:
        """Look after operations that never came back, and tell how many there were."""
        return sum([len((await self.guard.sweep(TenantId(tenant))).verified) for tenant in tenants])

    async def reconcile(self, tenant: UUID) -> Counter[str]:
        """Reconcile one tenant, and tell what was put right."""
        report = await Reconciliation(
            tenant_id=TenantId(tenant),
            store=self.store,
            guard=self.guard,
            ledger=PostgresReconciliation(self.database),
        ).run()
        found: Counter[str] = Counter(off_sums=len(report.off_sums))
        found.update({name: drift.objects for name, drift in report.drift.items()})
        found = +found  # without those that are nothing
        self.drift += found
        self.runs += 1
        self.nominated += report.nominated
        return found
