"""`vision-assets quota` and `vision-assets budget`, as they are typed, on the real Postgres and S3."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from tests.world import World, open_world
from vision_assets.cli import app
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.core.budget import HoldRequest
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import BudgetExceeded, QuotaExceeded
from vision_assets.core.tenants import Tenant
from vision_assets.settings import Settings

Found = TypeVar("Found")


class Shell:
    """Types commands for a database and a bucket with two tenants, and looks behind them."""

    def __init__(self, database: str, bucket: str, settings: Settings) -> None:
        self._at = database, bucket, settings
        self.tenants: dict[str, Tenant] = self.look(self._tenants)

    async def _tenants(self, world: World) -> dict[str, Tenant]:
        return {name: await world.tenant(name) for name in ("Alpha", "[b]Бета")}

    def look(self, ask: Callable[[World], Awaitable[Found]]) -> Found:
        """Ask the world behind the commands."""

        async def main() -> Found:
            async with open_world(*self._at) as world:
                return await ask(world)

        return asyncio.run(main())

    def run(self, *arguments: str) -> Result:
        """Type a command, in a wide terminal."""
        return CliRunner(env={"COLUMNS": "250"}).invoke(app, arguments)

    def line(self, result: Result, name: str) -> str:
        """Find the table's line of a tenant."""
        [line] = [line for line in result.stdout.splitlines() if f" {name} " in line]
        return line


@pytest.fixture
def shell(database: str, bucket: str, parts: Settings, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Give a shell whose commands use this test's database and bucket."""
    for name, value in (parts.environment() | {"DATABASE_URL": database, "S3_BUCKET": bucket}).items():
        monkeypatch.setenv(name, value)
    return Shell(database, bucket, parts)


def put(shell: Shell, tenant: str, key: str, size: int) -> None:
    """Put an object of a size through the quota, with the settings' limits."""

    async def through(world: World) -> None:
        owner = shell.tenants[tenant].id
        world.limits = Settings().storage_limits()
        await world.quota().put(owner, f"media/{owner}/{key}", bytes(size), content_type="media", mime="image/png")

    shell.look(through)


def test_a_quota_of_its_own_holds_from_the_next_put(shell: Shell) -> None:
    """Set, shown, held against puts of that tenant alone, and taken back."""
    put(shell, "Alpha", "aa/a.png", 900)
    changed = shell.run("quota", "set", "--tenant", "Alpha", "--limit", "1000", "--media", "950B")
    assert changed.exit_code == 0, changed.output
    assert "900 B of 950 B*" in shell.line(changed, "Alpha")
    assert "of 1000 B*, 90%" in shell.line(changed, "Alpha")
    with pytest.raises(QuotaExceeded, match="type_limit"):
        put(shell, "Alpha", "bb/b.png", 51)
    put(shell, "[b]Бета", "bb/b.png", 51)
    shown = shell.run("quota", "show")
    assert "51 B" in shell.line(shown, "[b]Бета")
    assert "951 B of" in shell.line(shown, "the bucket")
    assert shell.run("quota", "set", "--tenant", "Alpha", "--default").exit_code == 0
    put(shell, "Alpha", "bb/b.png", 2000)


def test_a_budget_of_its_own_holds_from_the_next_call(shell: Shell) -> None:
    """Set for a tenant and for all together, shown, held against the next call, and taken back."""

    async def reserve(world: World) -> None:
        gate = BudgetGate(PostgresBudget(world.database), Settings().budget_limits())
        wish = {"provider": "p", "model": "m", "prompt": "f", "estimated_tokens": 600}
        await gate.settle(await gate.reserve(shell.tenants["Alpha"].id, **wish), 500)  # type: ignore[arg-type]
        await gate.aclose()

    changed = shell.run("budget", "set", "--tenant", "Alpha", "--day-tokens", "1000", "--calls", "1")
    assert changed.exit_code == 0, changed.output
    shell.look(reserve)
    with pytest.raises(BudgetExceeded, match="daily_limit"):
        shell.look(reserve)
    shown = shell.run("budget", "show", "--tenant", "Alpha")
    assert "500 of 1,000*, 50%" in shell.line(shown, "Alpha")
    assert "500, no limit" in shell.line(shown, "all together")
    assert "Бета" not in shown.stdout
    assert "1,792 (or the provider's bound: too few calls yet)" in shown.stdout
    assert shell.run("budget", "set", "--tenant", "Alpha", "--default").exit_code == 0
    assert shell.run("budget", "set", "--everyone", "--month-tokens", "1000").exit_code == 0
    with pytest.raises(BudgetExceeded, match="global_limit"):
        shell.look(reserve)


def test_a_live_hold_is_shown(shell: Shell) -> None:
    """What is held counts as taken, and as a call under way."""

    async def hold(database: Database) -> None:
        now = datetime.now(UTC)
        request = HoldRequest(uuid4(), shell.tenants["Alpha"].id, "p", "m", "f", 100_000)
        limits = Settings().budget_limits()
        await PostgresBudget(database).reserve([request], limits=limits, now=now, until=now + timedelta(minutes=5))

    shell.look(lambda world: hold(world.database))
    line = shell.line(shell.run("budget", "show"), "Alpha")
    assert "100,000 of 250,000, 40%" in line
    assert "1 of 3, 33%" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("quota", "set", "--tenant", "Alpha"), "--default"),
        (("quota", "set", "--tenant", "Alpha", "--limit", "1GB", "--default"), "--default"),
        (("quota", "set", "--tenant", "Alpha", "--limit", "much"), "'much' is no size"),
        (("quota", "set", "--tenant", "Gamma", "--limit", "1GB"), "Gamma"),
        (("quota", "orphans", "--remove"), "--tenant"),
        (("budget", "set", "--day-tokens", "1"), "--everyone"),
        (("budget", "set", "--everyone", "--tenant", "Alpha", "--day-tokens", "1"), "--everyone"),
        (("budget", "set", "--everyone"), "--default"),
        (("budget", "show", "--tenant", "Gamma"), "Gamma"),
    ],
)
def test_what_cannot_be_meant_says_what_to_write(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    """An error names what is wrong, and nothing is set."""
    result = shell.run(*arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    limits = "SELECT count(*) FROM storage_limits, budget_limits"
    assert shell.look(lambda world: world.database.pool.fetchval(limits)) == 0


def test_orphans_are_shown_and_removed_on_demand(shell: Shell) -> None:
    """An old object without a row is shown, and goes with --remove; so does the folder of no tenant."""
    put(shell, "Alpha", "aa/orphan.png", 10)
    stray = str(uuid4())

    async def age(world: World) -> None:
        await world.database.pool.execute("UPDATE storage_objects SET recorded_at = now() - interval '2 days'")
        await world.bucket.put(f"media/{stray}/aa/a.png", b"12", mime="image/png")

    shell.look(age)
    shown = shell.run("quota", "orphans")
    assert "aa/orphan.png" in shown.stdout
    assert stray in shown.stdout
    removed = shell.run("quota", "orphans", "--tenant", "Alpha", "--remove")
    assert removed.exit_code == 0, removed.output
    assert "Removed 1 objects, 10 B" in removed.stdout
    young = shell.run("quota", "orphans", "--tenant", stray, "--remove")
    assert "0 objects" in young.stdout  # nothing of it is a day old
    left = shell.look(lambda world: world.keys())
    assert list(left) == [f"media/{stray}/aa/a.png"]
