"""The budget's gate and decisions against a simple list of calls, on books in memory."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.budget_ledger import MemoryBudget
from tests.budget_machine import BudgetMachine
from vision_assets.core.budget import Allowance, Period
from vision_assets.core.tenants import TenantId


class MemoryMachine(BudgetMachine):
    """The machine on books in memory."""

    memory: MemoryBudget

    async def open_ledger(self) -> MemoryBudget:
        """Give an empty ledger."""
        self.memory = MemoryBudget()
        return self.memory

    async def set_limit(self, scope: TenantId, period: Period, limit: Allowance) -> None:
        """Set a limit in the ledger itself."""
        self.memory.limits[scope, period] = limit


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_books_agree_whatever_happens(pytestconfig: pytest.Config) -> None:
    """Thousands of steps in random orders leave the books equal to the list, and nothing held at the end."""
    examples, steps = (1500, 80) if pytestconfig.getoption("--long") else (60, 40)
    run_state_machine_as_test(
        MemoryMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
