"""The quota's state machine on a ledger in memory: thousands of steps."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.ledgers import MemoryLedger
from tests.quota_machine import TENANTS, Books, QuotaMachine, unlogged
from vision_assets.core.object_ledger import Entry, Place
from vision_assets.core.quota import OwnLimits, Usage
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import TenantId


@dataclass(slots=True)
class MemoryBooks:
    """Implements `Books`."""

    ledger: MemoryLedger = field(default_factory=lambda: MemoryLedger(set(TENANTS)))

    async def entries(self) -> Mapping[Place, Entry]:
        """See the Protocol."""
        return dict(self.ledger.entries)

    async def usage(self) -> tuple[Mapping[tuple[TenantId, ContentType], Usage], Mapping[ContentType, Usage]]:
        """See the Protocol."""
        found = {tenant: await self.ledger.usage(tenant) for tenant in TENANTS}
        by_tenant = {(tenant, name): one for tenant, all_ in found.items() for name, one in all_.types.items()}
        return by_tenant, found[TENANTS[0]].everyone

    async def set_own(self, tenant_id: TenantId, own: OwnLimits) -> None:
        """See the Protocol."""
        self.ledger.own[tenant_id] = own

    async def unchecked(self) -> Counter[TenantId]:
        """See the Protocol."""
        return self.ledger.unchecked


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_quota_machine(request: pytest.FixtureRequest) -> None:
    """Whatever happens to operations, in whatever order, the books stay right."""
    long = request.config.getoption("--long")
    with unlogged(), asyncio.Runner() as runner:

        class Machine(QuotaMachine):
            loop = runner.get_loop()

            def books(self) -> Books:
                """A ledger of this run's own."""
                return MemoryBooks()

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=2000 if long else 80,
                stateful_step_count=60 if long else 50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
