"""Ways to keep a token budget in Postgres: ours, coalesced and not, and check-then-act.

What is not here: our own ledger's code (`vision_assets`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg

from benchmarks._budget import CALLS_AT_ONCE, PLENTY_TOKENS, Servers, make_call
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.core.budget import (
    EVERYONE,
    HOLD_LIFE,
    Allowance,
    BudgetLimits,
    Hold,
    HoldRequest,
    Outcome,
    Period,
)
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import BudgetExceeded
from vision_assets.core.tenants import TenantId

PROVIDER, MODEL, PROMPT = "benchmark", "benchmark", "0" * 16
NAIVE_CONNECTIONS = 8
"""Of one process, at most; more made it no faster."""


def _limits(day_tokens: int) -> BudgetLimits:
    plenty = Allowance(tokens=PLENTY_TOKENS)
    rest: dict[Period, Allowance] = {"month": plenty, "calls": Allowance(requests=CALLS_AT_ONCE)}
    return BudgetLimits(tenant={"day": Allowance(tokens=day_tokens), **rest}, everyone={"day": plenty, **rest})


@dataclass(slots=True)
class Coalesced:
    """Our gate as it is used: what the process asks at once goes to Postgres together."""

    ledger: PostgresBudget
    gate: BudgetGate

    @classmethod
    @asynccontextmanager
    async def open(cls, servers: Servers) -> "AsyncIterator[Coalesced]":
        """Connect."""
        async with PostgresBudget.open(servers.database_url) as ledger:
            yield cls(ledger, BudgetGate(ledger, _limits(PLENTY_TOKENS)))

    def limit(self, day_tokens: int) -> None:
        self.gate = BudgetGate(self.ledger, _limits(day_tokens))

    async def pay(self, tenant_id: TenantId, estimated_tokens: int, actual_tokens: int, call_seconds: float) -> bool:
        try:
            hold = await self.gate.reserve(
                tenant_id, provider=PROVIDER, model=MODEL, prompt=PROMPT, estimated_tokens=estimated_tokens
            )
        except BudgetExceeded:
            return False
        await make_call(call_seconds)
        assert await self.gate.settle(hold, actual_tokens)
        return True


@dataclass(slots=True)
class Single:
    """Our ledger without the gate's batching: each hold is a transaction of its own."""

    ledger: PostgresBudget
    limits: BudgetLimits

    @classmethod
    @asynccontextmanager
    async def open(cls, servers: Servers) -> "AsyncIterator[Single]":
        """Connect."""
        async with PostgresBudget.open(servers.database_url) as ledger:
            yield cls(ledger, _limits(PLENTY_TOKENS))

    def limit(self, day_tokens: int) -> None:
        self.limits = _limits(day_tokens)

    async def pay(self, tenant_id: TenantId, estimated_tokens: int, actual_tokens: int, call_seconds: float) -> bool:
        now = datetime.now(UTC)
        request = HoldRequest(uuid4(), tenant_id, PROVIDER, MODEL, PROMPT, estimated_tokens)
        (hold,) = await self.ledger.reserve([request], limits=self.limits, now=now, until=now + HOLD_LIFE)
        if not isinstance(hold, Hold):
            return False
        await make_call(call_seconds)
        (settled,) = await self.ledger.settle([Outcome(hold, actual_tokens)])
        assert settled
        return True


NAIVE_TABLE = """
CREATE TABLE naive_usage (
    scope uuid, period text, starts_on date, used_tokens bigint NOT NULL, PRIMARY KEY (scope, period, starts_on)
) WITH (fillfactor = 20)
"""
_NAIVE_CHECK = """
SELECT scope, period, used_tokens FROM naive_usage
WHERE scope IN ($1, $2) AND (period, starts_on) IN (('day', $3), ('month', $4))
"""
_NAIVE_ADD = """
INSERT INTO naive_usage AS u (scope, period, starts_on, used_tokens)
VALUES ($1, 'day', $3, $5), ($1, 'month', $4, $5), ($2, 'day', $3, $5), ($2, 'month', $4, $5)
ON CONFLICT (scope, period, starts_on) DO UPDATE SET used_tokens = u.used_tokens + excluded.used_tokens
"""


@dataclass(slots=True)
class CheckThenAct:
    """Look whether there is room, call, add what it took. Nothing is held in between: unsafe."""

    pool: "asyncpg.Pool[asyncpg.Record]"
    day_tokens: int = PLENTY_TOKENS

    @classmethod
    @asynccontextmanager
    async def open(cls, servers: Servers) -> "AsyncIterator[CheckThenAct]":
        """Connect."""
        async with asyncpg.create_pool(servers.database_url, min_size=1, max_size=NAIVE_CONNECTIONS) as pool:
            yield cls(pool)

    def limit(self, day_tokens: int) -> None:
        self.day_tokens = day_tokens

    async def pay(self, tenant_id: TenantId, estimated_tokens: int, actual_tokens: int, call_seconds: float) -> bool:
        today = datetime.now(UTC).date()
        windows = (tenant_id, EVERYONE, today, today.replace(day=1))
        for scope, period, used_tokens in await self.pool.fetch(_NAIVE_CHECK, *windows):
            limit = self.day_tokens if (scope, period) == (tenant_id, "day") else PLENTY_TOKENS
            if used_tokens + estimated_tokens > limit:
                return False
        await make_call(call_seconds)
        await self.pool.execute(_NAIVE_ADD, *windows, actual_tokens)
        return True
