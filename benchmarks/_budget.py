"""What every way to keep a token budget has in common that `ledger` compares.

Each bounds the same windows: day, month and calls at once, of the tenant and of all tenants together.

What is not here: the ways themselves (`_budget_postgres.py`, `_budget_redis.py`), and who drives them (`_race.py`).
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from vision_assets.core.tenants import TenantId

CALLS_AT_ONCE = 100_000
PLENTY_TOKENS = 10**15
"""Limits that are compared like all others and never reached."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the sides keep their books."""

    database_url: str
    redis_url: str


class Side(Protocol):
    """One way to keep a budget."""

    def limit(self, day_tokens: int) -> None:
        """Set every tenant's limit of a day; the other windows have room for everything."""
        ...

    async def pay(self, tenant_id: TenantId, estimated_tokens: int, actual_tokens: int, call_seconds: float) -> bool:
        """Make one paid call: reserve, call, settle. False: the budget did not let it through."""
        ...


async def make_call(seconds: float) -> None:
    """Take as long as a provider would; without a duration not even a turn of the loop."""
    if seconds:
        await asyncio.sleep(seconds)
