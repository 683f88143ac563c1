"""`vision-assets cleanup`, as it is typed."""

import asyncio

import pytest
import typer
from typer.testing import CliRunner

from tests.cleaning import Cleaning
from tests.world import World, open_world
from vision_assets.cli.cleanup import cleanup
from vision_assets.settings import Settings

app = typer.Typer()
app.command("cleanup")(cleanup)


@pytest.fixture
def runner(parts: Settings, database: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Give a runner whose commands use the test's database and bucket, with some old pages and one unused picture."""

    async def fill(world: World) -> None:
        cleaning, one, two = Cleaning(world), await world.tenant("One"), await world.tenant("Two")
        for number in range(3):
            await cleaning.put_page(one, f"{number}.html", size_bytes=1_024, days=8)
        await cleaning.put_page(two, "a.html", size_bytes=512, days=4)
        await cleaning.put_picture(two, "a", size_bytes=512, days=31)

    async def main() -> None:
        async with open_world(database, bucket, parts) as world:
            await fill(world)

    asyncio.run(main())
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("S3_BUCKET", bucket)
    return CliRunner()


def rows(output: str) -> set[tuple[str, ...]]:
    """Read the rows of the printed table."""
    return {tuple(cell.strip() for cell in line.split("│")[1:-1]) for line in output.splitlines() if "│" in line}


def test_dry_run_then_real(runner: CliRunner) -> None:
    """The dry run tells by class what the real one removes; then nothing is left to do."""
    removed = {
        ("crawled pages", "1", "3", "3.0 KiB"),
        ("results and albums' summaries", "0", "0", "0 B"),
        ("media that no post refers to", "1", "1", "512 B"),
        ("uploads never completed", "0", "0", "0 B"),
        ("together", "2", "4", "3.5 KiB"),
    }
    for options in (["--dry-run"], []):
        result = runner.invoke(app, options)
        assert result.exit_code == 0, result.output
        assert removed <= rows(result.stdout)
        assert "4.0 KiB before, 512 B" in result.stdout
    again = runner.invoke(app, [])
    assert ("together", "0", "0", "0 B") in rows(again.stdout)


def test_emergency(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the threshold it says so; else it comes down to the target; where that cannot be, it fails."""
    calm = runner.invoke(app, ["--emergency"])
    assert calm.exit_code == 0, calm.output
    assert "No emergency: 4.0 KiB" in calm.stdout
    monkeypatch.setenv("STORAGE_EMERGENCY_BYTES", "4096")
    monkeypatch.setenv("STORAGE_EMERGENCY_TARGET_BYTES", "2048")
    result = runner.invoke(app, ["--emergency"])
    assert result.exit_code == 0, result.output
    assert ("crawled pages", "1", "2", "2.0 KiB") in rows(result.stdout)
    assert "the target is 2.0 KiB" in result.stdout
    for name in ("STORAGE_EMERGENCY_BYTES", "STORAGE_EMERGENCY_TARGET_BYTES"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("STORAGE_EMERGENCY_TARGET_BYTES", "0")
    assert runner.invoke(app, ["--emergency"]).exit_code == 0
    monkeypatch.setenv("STORAGE_EMERGENCY_TARGET_BYTES", "2")
    wrong = runner.invoke(app, ["--emergency"])
    assert wrong.exit_code == 1
    assert "STORAGE_EMERGENCY_TARGET_BYTES" in wrong.output


def test_target_that_cannot_be_reached(
    runner: CliRunner, parts: Settings, database: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What posts refer to stays; the command says that it was not enough, and fails."""

    async def refer() -> None:
        async with open_world(database, bucket, parts) as world:
            await Cleaning(world).refer(await world.tenant("Two"), "a")

    asyncio.run(refer())
    monkeypatch.setenv("STORAGE_EMERGENCY_BYTES", "1")
    monkeypatch.setenv("STORAGE_EMERGENCY_TARGET_BYTES", "0")
    result = runner.invoke(app, ["--emergency"])
    assert result.exit_code == 1
    assert "The target is not reached" in result.stdout
    assert ("together", "2", "4", "3.5 KiB") in rows(result.stdout)
