"""The books of the token budget in Postgres. What is not here: the decisions (`core/budget.py`)."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from vision_assets.clients.postgres import Connection, Database, statements
from vision_assets.core.budget import (
    EVERYONE,
    EXPIRED_KEPT,
    TOKENS_STEP,
    Allowance,
    Answer,
    BudgetLimits,
    Hold,
    HoldRequest,
    Known,
    Outcome,
    Period,
    Settled,
    Swept,
    Window,
    WindowKey,
    admit,
    hold_of,
    window_keys,
)
from vision_assets.core.errors import BudgetExceeded, CallInFlight, DatabaseConflict
from vision_assets.core.tenants import TenantId

sql = statements("budget")

_SWEPT_AT_ONCE = 500
_DECISIONS = 5
_CONNECTIONS = 3
"""One batch of holds and one that settles at a time, and one for questions."""

_PATIENCE_SECONDS = 45
"""More than the lock's own time-out: calls wait for it."""

_PERIODS: tuple[Period, ...] = ("calls", "day", "month")
_FIGURES = tuple(field.name for field in fields(Window) if field.name not in ("key", "limit"))


@dataclass(frozen=True, slots=True)
class PostgresBudget:
    """Implements `core.budget.BudgetLedger`."""

    database: Database

    @classmethod
    @asynccontextmanager
    async def open(cls, database_url: str) -> "AsyncIterator[PostgresBudget]":
        """Open connections of the budget's own, when they are needed: no other work keeps a settle waiting."""
        async with Database.open(
            database_url, max_size=_CONNECTIONS, brief=True, patience_seconds=_PATIENCE_SECONDS
        ) as database:
            yield cls(database)

    async def reserve(
        self, requests: Sequence[HoldRequest], *, limits: BudgetLimits, now: datetime, until: datetime
    ) -> Sequence[Answer]:
        """See the Protocol. Mostly all of it fits, and that is one statement; else it is decided one by one."""
        day = now.date()
        holds = [hold_of(request, day=day, until=until) for request in requests]
        with suppress(asyncpg.UniqueViolationError):  # an id or a subject is held already
            async with self.database.connection() as connection:
                if await _hold_all(connection, holds, limits=limits, now=now):
                    return holds
        for attempt in range(_DECISIONS):
            answers = await self._decide(requests, limits=limits, now=now, until=until, alone=attempt == _DECISIONS - 1)
            if answers is not None and not (any(map(_waits_for_others, answers)) and (await self.sweep(now=now)).holds):
                return answers
        raise DatabaseConflict("The token budget moved again and again while a batch was decided")

    async def _decide(
        self, requests: Sequence[HoldRequest], *, limits: BudgetLimits, now: datetime, until: datetime, alone: bool
    ) -> Sequence[Answer] | None:
        """Decide a batch one by one. What is denied needs no lock, and what is granted is checked under it once more.

        Args:
            alone: Keep everyone else from the budget meanwhile.

        Returns:
            None: others were faster, and nothing was done.
        """
        day = now.date()
        calls = {(request.tenant_id, request.provider) for request in requests}
        keys = list({key for tenant_id, provider in calls for key in window_keys(tenant_id, day, provider=provider)})
        ids = {request.id for request in requests}
        subjects = {(request.tenant_id, request.subject) for request in requests if request.subject is not None}
        async with self.database.transaction() if alone else self.database.connection() as connection:
            if alone:
                await sql.lock(connection)
            windows = {window.key: window for window in await _read_windows(connection, keys, limits=limits)}
            found = sql.known_holds(
                connection,
                ids=ids,
                tenant_ids=[tenant_id for tenant_id, _ in subjects],
                subjects=[subject for _, subject in subjects],
            )
            known = _known([row async for row in found], ids)
            answers, new = admit(requests, windows, known, day=day, until=until)
            with suppress(asyncpg.UniqueViolationError):
                if not new or await _hold_all(connection, new, limits=limits, now=now):
                    return answers
            return None

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | None]:
        """See the Protocol."""
        first: dict[UUID, int] = {}
        for place, outcome in enumerate(outcomes):
            first.setdefault(outcome.hold.id, place)
        places = list(first.values())
        async with self.database.connection() as connection:
            ended = sql.settle(
                connection,
                ids=list(first),
                actual_tokens=[outcomes[place].actual_tokens for place in places],
                tokens_step=TOKENS_STEP,
            )
            late = {places[row["place"] - 1]: row["was_expired"] async for row in ended}
        return [
            Settled(outcome.actual_tokens or 0, late[place]) if place in late else None
            for place, outcome in enumerate(outcomes)
        ]

    async def abandon(self, holds: Sequence[Hold]) -> None:
        """See the Protocol."""
        ids = [hold.id for hold in holds]
        async with self.database.transaction() as connection:
            await sql.expire(connection, ids=ids)
            await sql.explain(connection, ids=ids)

    async def sweep(self, *, now: datetime, tenant_id: TenantId | None = None) -> Swept:
        """See the Protocol."""
        holds = tokens = 0
        async with self.database.connection() as connection:
            while overdue := [
                row["id"]
                async for row in sql.overdue(connection, now=now, tenant_id=tenant_id, row_limit=_SWEPT_AT_ONCE)
            ]:
                charged = await sql.expire(connection, ids=overdue)
                holds += charged["holds"]
                tokens += charged["tokens"]
            await sql.forget_expired(connection, before=now - EXPIRED_KEPT)
        return Swept(holds, tokens)

    async def lost(self, tenant_id: TenantId, *, since: datetime) -> Swept:
        """See the Protocol."""
        async with self.database.connection() as connection:
            row = await sql.lost(connection, tenant_id=tenant_id, since=since)
            return Swept(row["holds"], row["tokens"])

    async def windows(self, keys: Sequence[WindowKey], *, limits: BudgetLimits) -> Sequence[Window]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            return await _read_windows(connection, keys, limits=limits)

    async def token_counts(self, *, provider: str, model: str, prompt: str) -> Mapping[int, int]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.token_counts(connection, provider=provider, model=model, prompt=prompt)
            return {row["tokens"]: row["calls"] async for row in rows}


async def _hold_all(connection: Connection, holds: Sequence[Hold], *, limits: BudgetLimits, now: datetime) -> bool:
    """Write holds and move their windows if all of it fits, else do nothing."""
    kinds: dict[tuple[str, str, str], int] = {}
    kind = [kinds.setdefault((hold.provider, hold.model, hold.prompt), len(kinds) + 1) for hold in holds]
    providers, models, prompts = zip(*kinds, strict=True)
    fits: bool = await sql.hold_all(
        connection,
        ids=[hold.id for hold in holds],
        tenant_ids=[hold.tenant_id for hold in holds],
        kinds=kind,
        subjects=[hold.subject for hold in holds],
        attempts=[hold.attempt for hold in holds],
        estimates=[hold.estimated_tokens for hold in holds],
        providers=providers,
        models=models,
        prompts=prompts,
        limit_global=[False] * len(_PERIODS) + [True] * len(_PERIODS),
        limit_periods=_PERIODS * 2,
        **_limit_columns(limits.of(scope, period) for scope in (holds[0].tenant_id, EVERYONE) for period in _PERIODS),
        day=now.date(),
        reserved_at=now,
        expires_at=holds[0].expires_at,
    )
    return fits


def _waits_for_others(answer: Answer) -> bool:
    """Tell whether an answer may hang on a hold that has expired."""
    return isinstance(answer, CallInFlight) or (isinstance(answer, BudgetExceeded) and answer.reason == "rate_limited")


async def _read_windows(connection: Connection, keys: Sequence[WindowKey], *, limits: BudgetLimits) -> Sequence[Window]:
    scopes, periods, providers, days = zip(*keys, strict=True)
    rows = sql.windows(
        connection,
        scopes=scopes,
        periods=periods,
        providers=providers,
        days=days,
        **_limit_columns(limits.of(key.scope, key.period) for key in keys),
    )
    return [_window(row) async for row in rows]


def _limit_columns(allowances: Iterable[Allowance]) -> dict[str, Sequence[int | None]]:
    tokens, requests = zip(*((allowance.tokens, allowance.requests) for allowance in allowances), strict=True)
    return {"limit_tokens": tokens, "limit_requests": requests}


def _window(row: Mapping[str, Any]) -> Window:
    return Window(
        key=WindowKey(row["scope"], row["period"], row["provider"], row["starts_on"]),
        limit=Allowance(row["limit_tokens"], row["limit_requests"]),
        **{name: row[name] for name in _FIGURES},
    )


def _known(rows: Iterable[Mapping[str, Any]], ids: set[UUID]) -> Known:
    """Sort what was found; a hold may be there twice, by its id and by its subject."""
    holds = list({row["id"]: row for row in rows}.values())
    return Known(
        by_id={
            row["id"]: (Hold(*(row[name] for name in Hold._fields)), row["expired"])
            for row in holds
            if row["id"] in ids
        },
        live={(row["tenant_id"], row["subject"]): row["expires_at"] for row in holds if not row["expired"]},
        expired=Counter((row["tenant_id"], row["subject"]) for row in holds if row["expired"]),
    )
