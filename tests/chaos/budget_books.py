"""What must be true of the budget's books at every moment, and what at the end. What is not here: any load."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

import asyncpg

from tests.chaos.biller import Bill
from tests.chaos.watch import Connection

EVERYONE = UUID(int=2**128 - 1)

_WINDOWS = """
SELECT scope, period, provider, starts_on, used_tokens, held_tokens, used_requests, held_requests,
       overrun_tokens, phantom_tokens, l.tokens AS limit_tokens, l.requests AS limit_requests
FROM budget_windows LEFT JOIN budget_limits l USING (scope, period)
"""
_FIGURES = ("used_tokens", "held_tokens", "used_requests", "held_requests", "overrun_tokens", "phantom_tokens")
_HOLDS = "SELECT id, tenant_id, provider, day, estimated_tokens, expired FROM budget_holds"
_DAYS = """
SELECT tenant_id, day, sum(tokens + unconfirmed_tokens)::bigint AS used_tokens,
       sum(calls + unconfirmed_calls)::bigint AS used_requests, sum(unconfirmed_tokens)::bigint AS phantom_tokens
FROM token_days GROUP BY 1, 2
"""
# Looks at every single version of a window; what looks now and then may miss an excess that was given back.
_GUARD = """
CREATE TABLE budget_excesses (said text);
CREATE FUNCTION note_budget_excess() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO budget_excesses
    SELECT format('%s exceeds %s', NEW, l) FROM budget_limits l
    WHERE l.scope = NEW.scope AND l.period = NEW.period
      AND (NEW.used_tokens + NEW.held_tokens - NEW.overrun_tokens > l.tokens
           OR NEW.held_requests + CASE WHEN NEW.period = 'calls' THEN 0 ELSE NEW.used_requests END > l.requests);
    RETURN NULL;
END $$;
CREATE TRIGGER noted AFTER INSERT OR UPDATE ON budget_windows FOR EACH ROW EXECUTE FUNCTION note_budget_excess();
"""


@dataclass(frozen=True, slots=True)
class Books:
    """The whole ledger at one moment."""

    windows: Sequence[asyncpg.Record]
    holds: Sequence[asyncpg.Record]
    days: Sequence[asyncpg.Record]

    def used(self) -> Counter[UUID]:
        """Tokens used by tenant, over all days."""
        return self._sum("used_tokens")

    def charged(self) -> Counter[UUID]:
        """Tokens used or held by tenant, over all days."""
        return self.used() + self._sum("held_tokens")

    def _sum(self, column: str) -> Counter[UUID]:
        sums: Counter[UUID] = Counter()
        for window in self.windows:
            if window["period"] == "day" and window["scope"] != EVERYONE:
                sums[window["scope"]] += window[column]
        return sums

    @property
    def live(self) -> int:
        """Holds that are neither settled nor expired."""
        return sum(not hold["expired"] for hold in self.holds)


async def note_excesses(connection: Connection) -> None:
    """Have the database note every moment at which a window exceeds its limit."""
    await connection.execute(_GUARD)


async def excesses(connection: Connection) -> list[str]:
    """Tell what was noted since the last time."""
    return [row["said"] for row in await connection.fetch("DELETE FROM budget_excesses RETURNING said")]


async def read_books(connection: Connection) -> Books:
    """Read all at one moment."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return Books(await connection.fetch(_WINDOWS), await connection.fetch(_HOLDS), await connection.fetch(_DAYS))


def violations(books: Books) -> list[str]:
    """Name what contradicts itself: invariants 1 to 3 of the budget.

    Windows hold what the live holds say, charge what the expired ones say, agree with each other and with what is
    billed by model, and keep to their limits but for overruns.
    """
    found = _misbooked_days(books)
    expected = _expected(books.holds)
    parts: dict[tuple[str, UUID, date], Counter[str]] = defaultdict(Counter)
    for window in books.windows:
        scope, period, provider, starts_on = (window[name] for name in ("scope", "period", "provider", "starts_on"))
        name = f"{period} {starts_on} {provider} of {'all' if scope == EVERYONE else scope}"
        figures = Counter({column: window[column] for column in _FIGURES})
        says = expected.pop((scope, period, provider, starts_on), Counter())
        if any(figures[column] != says[column] for column in ("held_requests", "held_tokens", "phantom_tokens")):
            found.append(f"{name}: {dict(figures)}, the holds say {dict(says)}")
        found += [f"{name}: {excess}: {dict(figures)}" for excess in _excesses(period, window)]
        if period != "calls":
            parts[period, scope, starts_on] = figures
    found += [f"holds without a window: {place} {dict(sums)}" for place, sums in expected.items() if sums.total()]
    return found + _disagreements(parts)


def _excesses(period: str, window: asyncpg.Record) -> list[str]:
    """Name the limits that a window breaks."""
    taken = {
        "tokens": window["held_tokens"] + window["used_tokens"] - window["overrun_tokens"],
        # What was ever called does not count against calls at once.
        "requests": window["held_requests"] + (0 if period == "calls" else window["used_requests"]),
    }
    return [
        f"more {unit} than the limit of {limit}"
        for unit, used in taken.items()
        if (limit := window[f"limit_{unit}"]) is not None and used > limit
    ]


def _expected(holds: Sequence[asyncpg.Record]) -> dict[tuple[UUID, str, str, date], Counter[str]]:
    """Sum up what the holds say of each window."""
    sums: dict[tuple[UUID, str, str, date], Counter[str]] = defaultdict(Counter)
    for hold in holds:
        day, estimate = hold["day"], hold["estimated_tokens"]
        for scope in (hold["tenant_id"], EVERYONE):
            for period, provider, starts_on in (
                ("day", "", day),
                ("month", "", day.replace(day=1)),
                ("calls", hold["provider"], date(1970, 1, 1)),
            ):
                window = sums[scope, period, provider, starts_on]
                if hold["expired"]:
                    window["phantom_tokens"] += estimate
                else:
                    window.update(held_tokens=estimate, held_requests=1)
    return sums


def _disagreements(parts: dict[tuple[str, UUID, date], Counter[str]]) -> list[str]:
    """Hold days against months, and tenants against all together."""
    months: dict[tuple[UUID, date], Counter[str]] = defaultdict(Counter)
    together: dict[tuple[str, date], Counter[str]] = defaultdict(Counter)
    for (period, scope, starts_on), figures in parts.items():
        if period == "day":
            months[scope, starts_on.replace(day=1)].update(figures)
        if scope != EVERYONE:
            together[period, starts_on].update(figures)
    found = [
        f"month {month} of {scope}: {parts['month', scope, month]}, its days say {figures}"
        for (scope, month), figures in months.items()
        if parts["month", scope, month] != figures
    ]
    found += [
        f"{period} {starts_on} of all: {parts[period, EVERYONE, starts_on]}, the tenants say {figures}"
        for (period, starts_on), figures in together.items()
        if parts[period, EVERYONE, starts_on] != figures
    ]
    return found


def _misbooked_days(books: Books) -> list[str]:
    """Hold the tenants' days against what is billed by model."""
    columns = ("used_tokens", "used_requests", "phantom_tokens")
    by_model = {(row["tenant_id"], row["day"]): tuple(row[name] for name in columns) for row in books.days}
    windows = {
        (window["scope"], window["starts_on"]): tuple(window[name] for name in columns)
        for window in books.windows
        if window["period"] == "day" and window["scope"] != EVERYONE
    }
    nothing = (0, 0, 0)
    return [
        f"{place}: {windows.get(place, nothing)} of {columns}, by model {by_model.get(place, nothing)}"
        for place in windows.keys() | by_model.keys()
        if windows.get(place, nothing) != by_model.get(place, nothing)
    ]


def uncharged(books: Books, billed: Counter[UUID]) -> list[str]:
    """Name tenants that were billed for more than is charged to them (invariant 4).

    Args:
        billed: As it was *before* the books were read.
    """
    charged = books.charged()
    return [
        f"{tenant}: billed {tokens}, charged {charged[tenant]}"
        for tenant, tokens in billed.items()
        if tokens > charged[tenant]
    ]


def misbilled(books: Books, bills: Sequence[Bill]) -> list[str]:
    """Name tenants whose charge is not, to the token, what was billed and what expired holds stand for.

    An expired hold is charged at its estimate, and its bill, if there was one, is not charged beside it.
    """
    expired = {hold["id"]: hold for hold in books.holds if hold["expired"]}
    expected: Counter[UUID] = Counter()
    for bill in bills:
        if bill.call not in expired:
            expected[bill.tenant] += bill.tokens
    for hold in expired.values():
        expected[hold["tenant_id"]] += hold["estimated_tokens"]
    used = books.used()
    return [
        f"{tenant}: charged {used[tenant]}, billed and expired {expected[tenant]}"
        for tenant in used.keys() | expected.keys()
        if used[tenant] != expected[tenant]
    ]


def ends(books: Books) -> list[str]:
    """Name what is still held though all work is over and the last hold has expired (invariant 5)."""
    held = [dict(window) for window in books.windows if window["held_tokens"] or window["held_requests"]]
    return [f"{books.live} holds are live", f"held: {held}"] if books.live or held else []
