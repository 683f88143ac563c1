"""What is written of alerts, on the real Postgres: once, whoever reads what again, and however many at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.alerts import KEPT, PostgresAlerts
from vision_assets.clients.postgres.deliveries import open_alerts, recent_messages
from vision_assets.clients.postgres.posts import ensure_tenant
from vision_assets.core.alerts import GONE, AlertKey, AlertRules, Evaluation
from vision_assets.core.levels import Severity

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RULES = AlertRules(group_above=3)


@dataclass
class Desk:
    """A book of alerts and its database."""

    database: Database
    book: PostgresAlerts

    async def tenant(self, name: str) -> str:
        """Make a tenant, and give its partition key."""
        return str((await ensure_tenant(self.database, name)).id)

    async def take_in(self, *evaluations: Evaluation, now: datetime | None = None) -> list[str]:
        """Take evaluations in, and give the kinds of what people are told."""
        now = now or max([NOON, *(one.at for one in evaluations)])
        taken = await self.book.take_in(evaluations, rules=RULES, now=now)
        return [one.kind for one in taken.transitions]

    async def messages(self) -> list[tuple[str, list[str | None]]]:
        """List the messages, the oldest first: kind, and the tenants that it is about."""
        reports = await recent_messages(self.database, limit=1000)
        return [
            (report.message.topic.kind, [one.tenant for one in report.message.told]) for report in reversed(reports)
        ]

    async def rows(self, query: str) -> list[Any]:
        """Ask the database."""
        return [tuple(row) for row in await self.database.pool.fetch(query)]


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    """A desk with both channels set."""
    async with Database.open(database) as opened:
        yield Desk(opened, PostgresAlerts(opened, ("telegram", "webhook")))


def outcome(partition: str, severity: Severity | None, number: int, check: str = "quota_below_limit") -> Evaluation:
    """The outcome of a check of a tenant, so many minutes after noon."""
    key = AlertKey("check", "tenant_storage_usage", check, partition)
    return Evaluation(key, severity, f"{severity}\0 full", NOON + number * MINUTE, number, f"run {number}")


async def test_every_transition_is_a_message_with_a_delivery_for_each_channel(desk: Desk) -> None:
    """Opened, escalated, eased, told again, resolved: each once, in order, with the tenant's name."""
    alpha = await desk.tenant("Alpha")
    severities: list[Severity | None] = [None, "warn", "warn", "error", "warn"]
    for number, severity in enumerate(severities):
        await desk.take_in(outcome(alpha, severity, number))
    await desk.take_in(now=NOON + timedelta(hours=25))
    await desk.take_in(outcome(alpha, None, 1600))
    assert await desk.messages() == [
        (kind, ["Alpha"]) for kind in ("opened", "escalated", "eased", "reminder", "resolved")
    ]
    assert await desk.rows(
        "SELECT DISTINCT state, channel, count(*) FROM alert_deliveries GROUP BY 1, 2 ORDER BY 2"
    ) == [
        ("pending", "telegram", 5),
        ("pending", "webhook", 5),
    ]
    assert await open_alerts(desk.database) == []


async def test_flapping_and_what_it_settles_to(desk: Desk) -> None:
    """One word about it, none while it goes on, and one when it has settled; what is known survives in between."""
    alpha = await desk.tenant("Alpha")
    for number in range(20):
        await desk.take_in(outcome(alpha, "warn" if number % 2 == 0 else None, number))
    kinds = [kind for kind, _ in await desk.messages()]
    assert kinds == ["opened", "resolved", "opened", "resolved", "flapping"]
    [(state, name)] = await open_alerts(desk.database)
    assert (state.is_flapping, state.severity, name) == (True, None, "Alpha")
    assert await desk.take_in(now=NOON + timedelta(hours=25)) == ["settled"]
    assert await open_alerts(desk.database) == []


async def test_a_replay_gives_none_more(desk: Desk) -> None:
    """Read twice, in parts, and with something new among it: only the new is told."""
    alpha, beta = await desk.tenant("Alpha"), await desk.tenant("Beta")
    known = [outcome(alpha, "warn", 1), outcome(beta, "error", 2), outcome(alpha, None, 3)]
    assert await desk.take_in(*known) == ["opened", "opened", "resolved"]
    assert await desk.take_in(*known) == []
    assert await desk.take_in(*known[1:], outcome(alpha, "error", 4)) == ["opened"]
    assert await desk.take_in(*known, outcome(alpha, "error", 4)) == []
    assert len(await desk.messages()) == 4


async def test_four_at_once_write_what_one_writes(desk: Desk) -> None:
    """Four that read the same history at once, five times over, in batches of their own: each change is told once."""
    tenants = [await desk.tenant(f"Tenant {number}") for number in range(8)]
    history = [
        outcome(tenant, ("warn", "error", None)[(number + place) % 3], number)
        for number in range(3)
        for place, tenant in enumerate(tenants)
    ]

    async def read(size: int) -> None:
        for start in range(0, len(history), size):
            await desk.take_in(*history[: start + size], now=NOON)

    await asyncio.gather(*(read(size) for size in (1, 3, 5, 24)))
    for _ in range(5):
        await asyncio.gather(*(read(24) for _ in range(4)))
    events = await desk.rows("SELECT partition_key, event, count(*) FROM alert_events GROUP BY 1, 2")
    # Of three outcomes that differ, those that begin with a failure are three changes, and those with none two.
    assert len(events) == sum(3 if (place % 3) != 2 else 2 for place in range(8))
    assert {count for *_, count in events} == {1}
    states = await desk.rows("SELECT severity, count(*) FROM alert_states GROUP BY 1 ORDER BY 2")
    assert sum(count for _, count in states) == 8
    deliveries = "SELECT count(*) FROM (SELECT message_seq, channel FROM alert_deliveries GROUP BY 1, 2) once"
    assert await desk.rows(deliveries) == await desk.rows("SELECT count(*) FROM alert_deliveries")


async def test_even_if_what_was_known_is_lost_nothing_is_told_twice(desk: Desk) -> None:
    """A key and what brought its change are there once, whatever the state says."""
    alpha = await desk.tenant("Alpha")
    await desk.take_in(outcome(alpha, "warn", 1))
    await desk.rows("DELETE FROM alert_states")
    await desk.take_in(outcome(alpha, "warn", 1))
    assert len(await desk.messages()) == 1


async def test_when_many_fail_at_once_one_message_tells(desk: Desk) -> None:
    """Two hundred tenants share a message; those that follow wait, and share the next one."""
    tenants = [await desk.tenant(f"Tenant {number:03}") for number in range(210)]
    await desk.take_in(*[outcome(tenant, "warn", 1) for tenant in tenants[:200]])
    [(kind, names)] = await desk.messages()
    assert (kind, len(names)) == ("opened", 200)
    await desk.take_in(*[outcome(tenant, "warn", 5) for tenant in tenants[200:]])
    assert len(await desk.messages()) == 1
    await desk.take_in(now=NOON + 11 * MINUTE)
    assert [len(names) for _, names in await desk.messages()] == [200, 10]
    await desk.take_in(*[outcome(tenant, None, 20) for tenant in tenants[:2]])
    assert [names for _, names in await desk.messages()][2:] == [["Tenant 000"], ["Tenant 001"]]


async def test_a_storm_in_small_gusts_is_one_too(desk: Desk) -> None:
    """Two tenants a tick: the first have a message each, then one tells of a gust, and what follows waits."""
    tenants = [await desk.tenant(f"Tenant {number}") for number in range(8)]
    for gust in range(4):
        await desk.take_in(*[outcome(tenant, "warn", gust) for tenant in tenants[2 * gust : 2 * gust + 2]])
    assert [len(names) for _, names in await desk.messages()] == [1, 1, 2]
    await desk.take_in(now=NOON + 12 * MINUTE)
    assert [names for _, names in await desk.messages()][2:] == [
        ["Tenant 2", "Tenant 3"],
        ["Tenant 4", "Tenant 5", "Tenant 6", "Tenant 7"],
    ]


async def test_tenants_who_leave_are_closed(desk: Desk) -> None:
    """One that is not active any more, and one that is gone, are told of once; others stay open."""
    names = ("Alpha", "Beta", "Gamma")
    alpha, beta, gamma = [await desk.tenant(name) for name in names]
    await desk.take_in(*[outcome(one, "warn", 1) for one in (alpha, beta, gamma)], outcome("", "error", 2))
    await desk.rows("UPDATE tenants SET active = false WHERE name = 'Alpha'")
    await desk.rows("DELETE FROM tenants WHERE name = 'Beta'")
    assert await desk.take_in() == ["resolved", "resolved"]
    assert await desk.take_in(outcome(alpha, "error", 3)) == []
    assert {(state.key.partition, name) for state, name in await open_alerts(desk.database)} == {
        (gamma, "Gamma"),
        ("", None),
    }
    assert (await desk.rows("SELECT DISTINCT message FROM alert_events WHERE kind = 'resolved'")) == [(GONE,)]


async def test_an_evaluation_without_a_tenant_is_told_by_its_partition(desk: Desk) -> None:
    """A check without partitions has no name to show; one of another partition shows its key."""
    await desk.take_in(outcome("", "warn", 1), outcome("2026-03-01", "warn", 2))
    reports: Sequence[Any] = await recent_messages(desk.database, limit=10)
    assert [report.message.told[0].whose for report in reports] == ["2026-03-01", ""]


async def test_without_a_channel_messages_stay_here(desk: Desk) -> None:
    """They are in the table and in the log, and none of them is sent once a channel is set."""
    silent = Desk(desk.database, PostgresAlerts(desk.database))
    with capture_logs() as logs:
        await silent.take_in(outcome("", "warn", 1))
    [report] = await recent_messages(desk.database, limit=10)
    assert report.deliveries == []
    assert [(line["event"], line["title"], line["channels"]) for line in logs] == [
        ("alert.opened", "🟠 Warning: quota_below_limit of tenant_storage_usage", "none")
    ]
    await desk.take_in(now=NOON)
    assert await desk.rows("SELECT count(*) FROM alert_deliveries") == [(0,)]


async def test_old_messages_go_and_what_is_open_stays(desk: Desk) -> None:
    """After ninety days the message is gone with its events and deliveries, and its alert is still known."""
    gone = str(uuid4())
    await desk.take_in(outcome("", "warn", 1), outcome(gone, None, 1), now=NOON)
    await desk.take_in(now=NOON + KEPT + MINUTE)
    kinds = [kind for kind, _ in await desk.messages()]
    assert kinds == ["reminder"]
    assert await desk.rows("SELECT count(*) FROM alert_events") == [(1,)]
    assert len(await open_alerts(desk.database)) == 1
