"""`vision-assets line` on the real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from typer.testing import CliRunner, Result

from tests.waiting_tenants import Waiters, open_waiters
from vision_assets.cli import app
from vision_assets.core.turns import LEASE

RUN = "0a1b2c3d-run"


@pytest.fixture
async def waiters(database: str) -> AsyncIterator[Waiters]:
    """An empty line."""
    async with open_waiters(database) as opened:
        yield opened


@pytest.fixture
def typed(database: str) -> Callable[..., Result]:
    """Types commands in a wide terminal."""

    def run(*arguments: str) -> Result:
        return CliRunner(env={"COLUMNS": "250", "DATABASE_URL": database}).invoke(app, ["line", *arguments])

    return run


def states(result: Result) -> dict[str, list[str]]:
    """Read state, failures and error by tenant."""
    assert result.exit_code == 0, result.output
    lines = [line.strip("│").split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    return {cells[0].strip(): [cell.strip() for cell in cells[2:]] for cells in lines}


async def test_it_tells_who_waits_works_and_rests(waiters: Waiters, typed: Callable[..., Result]) -> None:
    """A retry ends the rest, of one tenant or of all, and takes nothing from a run."""

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(typed, *arguments)

    assert "Nobody is in line" in (await run("show")).stdout
    for tenant_id in await waiters.tenants(4):
        await waiters.post(tenant_id)
    await waiters.run("UPDATE tenants SET active = false WHERE name = 'Tenant 3'")
    for _ in range(2):
        turn = await waiters.line.claim(RUN, lease=LEASE)
        assert turn is not None
        await waiters.line.end_failed(turn, "SettingWrong: [it]", rest=timedelta(hours=1))
    assert await waiters.line.claim(RUN, lease=LEASE) is not None

    shown = states(await run("show"))
    assert list(shown) == ["Tenant 0", "Tenant 1", "Tenant 2", "Tenant 3"]
    assert shown["Tenant 0"][0].startswith("rests until ")
    assert shown["Tenant 0"][1:] == ["1×", "SettingWrong: [it]"]
    assert shown["Tenant 2"] == ["run 0a1b2c3d works on it", "", ""]
    assert shown["Tenant 3"] == ["not active", "", ""]
    assert list(states(await run("show", "--tenant", "Tenant 1"))) == ["Tenant 1"]
    assert states(await run("show", "--tenant", "Tenant 3"))["Tenant 3"][0] == "not active"

    assert (await run("retry", "--tenant", "Tenant 1")).stdout.splitlines() == [
        "Tenant 1",
        "May be taken at once: 1 tenants.",
    ]
    assert states(await run("show", "--tenant", "Tenant 1"))["Tenant 1"] == ["waits", "1×", "SettingWrong: [it]"]
    assert "Tenant 0\nMay be taken at once: 1 tenants." in (await run("retry")).stdout
    assert states(await run("show", "--tenant", "Tenant 2"))["Tenant 2"][0] == "run 0a1b2c3d works on it"


async def test_an_unknown_tenant_is_an_error(waiters: Waiters, typed: Callable[..., Result]) -> None:
    """Not an empty line."""
    for command in ("show", "retry"):
        refused = await asyncio.to_thread(typed, command, "--tenant", "Nobody")
        assert refused.exit_code == 1
        assert "Nobody" in refused.output
