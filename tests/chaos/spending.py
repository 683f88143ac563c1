"""A worker that makes paid calls through the budget gate. What is not here: the provider (`biller.py`)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar
from uuid import UUID, uuid4

from tests.chaos.biller import call_provider
from tests.chaos.shift import Shift
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.core.budget import BudgetLimits, Hold
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import BudgetExceeded, CallInFlight, TooManyAttempts, TransientError
from vision_assets.core.tenants import TenantId

T = TypeVar("T")

STEPS = ("ledger.reserve", "provider.call", "ledger.settle", "ledger.sweep")
PROVIDER, MODEL, PROMPT = "paid", "model", "prompt"
_SETTLE_TRIES = 40


async def spend(shift: Shift) -> None:
    """Call, settle and sweep until the shift is over."""
    orders = shift.orders
    async with PostgresBudget.open(orders["database_url"]) as ledger:
        gate = BudgetGate(
            ledger=shift.points.around(ledger, ("reserve", "settle", "sweep"), prefix="ledger"),
            limits=BudgetLimits(),  # all stand in the ledger
            hold_life=timedelta(seconds=orders["hold_seconds"]),
        )
        spender = Spender(shift, gate)
        await shift.work_with(spender.call, beside=spender.sweep, every_seconds=0.3)
        await gate.aclose()


class Spender:
    """One gate, used by many."""

    def __init__(self, shift: Shift, gate: BudgetGate) -> None:
        self.shift, self.gate = shift, gate
        self.tenants = [TenantId(UUID(tenant)) for tenant in shift.orders["tenants"]]

    async def sweep(self) -> None:
        """Charge what has expired."""
        try:
            swept = await self.gate.sweep()
        except TransientError as error:
            self.shift.tally.add(f"sweep {type(error).__name__}")
            return
        self.shift.tally.add("expired holds swept", swept.holds)

    async def call(self) -> None:
        """Make one paid call within the budget, or find out that it may not be made."""
        shift = self.shift
        tenant = shift.chance.choice(self.tenants)
        tokens = shift.chance.randint(1, shift.orders["most_tokens"])
        subject = f"subject {shift.chance.randrange(10_000)}" if shift.chance.random() < 0.3 else None
        try:
            hold = await self.gate.reserve(
                tenant,
                provider=PROVIDER,
                model=MODEL,
                prompt=PROMPT,
                estimated_tokens=tokens,
                subject=subject,
                hold_id=uuid4(),
            )
        except (BudgetExceeded, CallInFlight, TooManyAttempts, TransientError) as error:
            reason = error.reason if isinstance(error, BudgetExceeded) else type(error).__name__
            shift.tally.add(f"deferred {reason}")
            await shift.pause(shift.chance.uniform(0, 0.1))
            return
        if shift.chance.random() < 0.05:  # changed its mind
            await self._surely(lambda: self.gate.release(hold))
            shift.tally.add("released")
            return
        try:
            async with asyncio.timeout(shift.orders["hold_seconds"] * 0.8):
                billed = await shift.points.step("provider.call", lambda: self._bill(hold, tokens))
        except (TimeoutError, OSError):  # it may have been billed
            await self._surely(lambda: self.gate.abandon(hold))
            shift.tally.add("abandoned")
            return
        shift.tally.add("calls")
        if shift.chance.random() < shift.orders["dawdlers"]:  # until others take it for dead
            await shift.pause(1.5 * shift.orders["hold_seconds"])
        await self._settle(hold, billed)

    async def _bill(self, hold: Hold, tokens: int) -> int:
        return await call_provider(
            self.shift.orders["biller_port"],
            call=hold.id,
            tenant=hold.tenant_id,
            subject=hold.subject or "",
            max_tokens=tokens,
        )

    async def _settle(self, hold: Hold, billed: int) -> None:
        """Settle, now and then twice at once: only one of the two may count."""
        twice = self.shift.chance.random() < 0.1
        results = await asyncio.gather(
            *(self._surely(lambda: self.gate.settle(hold, billed)) for _ in range(2 if twice else 1))
        )
        counted = [settled for settled in results if settled]
        self.shift.tally.add("settled", len(counted))
        self.shift.tally.add("settled late", sum(settled.late for settled in counted))
        self.shift.tally.add("settled twice", max(len(counted) - 1, 0))

    async def _surely(self, end: Callable[[], Awaitable[T]]) -> T | None:
        """End a hold, however long the ledger is away, within bounds: whoever gives up leaves it to expire."""
        for _ in range(_SETTLE_TRIES):
            try:
                return await end()
            except TransientError as error:
                self.shift.tally.add(f"settle {type(error).__name__}")
                await asyncio.sleep(0.25)
        self.shift.tally.add("left to expire")
        return None
