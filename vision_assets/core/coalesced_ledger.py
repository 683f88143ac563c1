"""An object ledger whose callers share transactions: who comes while one is under way is in the next one.

A transaction holds locks that all tenants wait for until it is on the disk; those that share it wait for that once.
What is not here: the ledger (`object_ledger.py`), and the batching itself (`coalescing.py`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from vision_assets.core.coalescing import Coalescer
from vision_assets.core.errors import PermanentError
from vision_assets.core.object_ledger import Begun, Committed, Operation, StorageLedger, Taken
from vision_assets.core.quota import RefusalReason, StorageLimits, TenantUsage
from vision_assets.core.tenants import TenantId


@dataclass(frozen=True, slots=True)
class _Asked:
    operation: Operation
    limits: StorageLimits
    now: datetime
    until: datetime


def _leave(_: _Asked, __: Begun | PermanentError) -> None:
    """Leave a slot that nobody waits for any more: it expires and is looked after, as that of any broken-off put."""


@dataclass(frozen=True, slots=True)
class CoalescedLedger:
    """Implements `StorageLedger` over another one. It belongs to one event loop."""

    ledger: StorageLedger
    _beginning: Coalescer[_Asked, Begun | PermanentError] = field(init=False)
    _committing: Coalescer[Committed, bool] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_beginning", Coalescer(self._begin_all, on_abandoned=_leave))
        object.__setattr__(self, "_committing", Coalescer(self.ledger.commit))

    @classmethod
    @asynccontextmanager
    async def over(cls, ledger: StorageLedger) -> "AsyncIterator[CoalescedLedger]":
        """Lay it over a ledger; in the end it waits for what is under way."""
        coalesced = cls(ledger)
        try:
            yield coalesced
        finally:
            await coalesced._beginning.drain()
            await coalesced._committing.drain()

    async def begin(
        self, operations: Sequence[Operation], *, limits: StorageLimits, now: datetime, until: datetime
    ) -> Sequence[Begun]:
        """See the Protocol. Several operations are a batch already."""
        if len(operations) != 1:
            return await self.ledger.begin(operations, limits=limits, now=now, until=until)
        answer = await self._beginning.submit(_Asked(operations[0], limits, now, until))
        if isinstance(answer, PermanentError):
            raise answer
        return [answer]

    async def _begin_all(self, asked: Sequence[_Asked]) -> Sequence[Begun | PermanentError]:
        limits = asked[0].limits
        try:
            if any(one.limits != limits for one in asked):
                return [answer for one in asked for answer in await self._begin_all([one])]
            # No slot ends before its caller believes it does, and none counts as overdue before its time.
            now, until = min(one.now for one in asked), max(one.until for one in asked)
            return await self.ledger.begin([one.operation for one in asked], limits=limits, now=now, until=until)
        except PermanentError as error:
            if len(asked) == 1:
                return [error]
            # It is one caller's own: nothing was begun, so each is asked for alone.
            return [answer for one in asked for answer in await self._begin_all([one])]

    async def commit(self, outcomes: Sequence[Committed]) -> Sequence[bool]:
        """See the Protocol."""
        if len(outcomes) != 1:
            return await self.ledger.commit(outcomes)
        return [await self._committing.submit(outcomes[0])]

    async def overdue(self, tenant_id: TenantId, *, now: datetime, until: datetime, limit: int) -> Sequence[Taken]:
        """See the Protocol."""
        return await self.ledger.overdue(tenant_id, now=now, until=until, limit=limit)

    async def usage(self, tenant_id: TenantId) -> TenantUsage:
        """See the Protocol."""
        return await self.ledger.usage(tenant_id)

    async def count_unchecked(self, checks: Mapping[TenantId, int]) -> None:
        """See the Protocol."""
        await self.ledger.count_unchecked(checks)

    async def count_refused(self, tenant_id: TenantId, reason: RefusalReason) -> None:
        """See the Protocol."""
        await self.ledger.count_refused(tenant_id, reason)
