"""The machine of `tests/budget_machine.py` on the real Postgres."""

from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.budget_machine import BudgetMachine
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.core.budget import Allowance, Period
from vision_assets.core.tenants import TenantId

_EMPTY = "TRUNCATE budget_holds, budget_windows, budget_limits, token_counts, token_days"
_LIMIT = """
INSERT INTO budget_limits (scope, period, tokens, requests) VALUES ($1, $2, $3, $4)
ON CONFLICT (scope, period) DO UPDATE SET tokens = excluded.tokens, requests = excluded.requests
"""


class PostgresMachine(BudgetMachine):
    """The machine on the real books; every example begins with empty ones."""

    database_url: str
    ledger: PostgresBudget

    async def open_ledger(self) -> PostgresBudget:
        """Give an empty ledger."""
        self.stack = AsyncExitStack()
        self.ledger = await self.stack.enter_async_context(PostgresBudget.open(self.database_url))
        await self.ledger.database.pool.execute(_EMPTY)
        return self.ledger

    async def set_limit(self, scope: TenantId, period: Period, limit: Allowance) -> None:
        """Set a limit in the ledger itself."""
        await self.ledger.database.pool.execute(_LIMIT, scope, period, limit.tokens, limit.requests)

    async def close_ledger(self) -> None:
        """Close the connections."""
        await self.stack.aclose()


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_books_agree_whatever_happens(pytestconfig: pytest.Config, database: str) -> None:
    """The same steps on Postgres leave its books equal to the list, and nothing held at the end."""
    examples, steps = (400, 60) if pytestconfig.getoption("--long") else (20, 30)
    machine = type("Machine", (PostgresMachine,), {"database_url": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
