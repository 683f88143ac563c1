"""`vision-assets policy`, as it is typed."""

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vision_assets.cli import app
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import ensure_tenant


def run(*arguments: str) -> Result:
    """Type a command, in a wide terminal."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["policy", *arguments])


def cells(result: Result, rule: str) -> list[str]:
    """Read the table's line of a rule."""
    [line] = [line for line in result.stdout.splitlines() if line.startswith(f"│ {rule} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a policy file that the settings name."""
    path = tmp_path / "policy.yaml"
    path.write_text("max_pictures_per_post: 3\nocr_only:\n  when: never\n")
    monkeypatch.setenv("VISION_POLICY_FILE", str(path))
    return path


@pytest.fixture
def tenants(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make three tenants: with settings of its own, without, and with wrong ones."""
    monkeypatch.setenv("DATABASE_URL", database)

    async def make() -> None:
        async with Database.open(database, max_size=1) as opened:
            for name, vision in {
                "[b]Бета": {"max_pictures_per_post": 5, "skipped_channels": ["@News", "ads_"]},
                "Plain": None,
                "Wrong": {"max_pictures_per_post": "many", "cap": 1},
            }.items():
                tenant = await ensure_tenant(opened, name)
                if vision is not None:
                    update = "UPDATE tenants SET settings = $1 WHERE id = $2"
                    await opened.pool.execute(update, {"vision": vision, "other": 1}, tenant.id)

    asyncio.run(make())


def test_a_good_file(file: Path, tmp_path: Path) -> None:
    """The settings' file is checked, or the one that is named; how much it sets is told."""
    result = run("check")
    assert result.exit_code == 0, result.output
    assert f"{file} is a valid policy: it sets 2 of 17 values" in result.stdout
    empty = tmp_path / "[b]empty.yaml"
    empty.touch()
    assert f"{empty} is a valid policy: it sets 0 of" in run("check", str(empty)).stdout


def test_a_wrong_file(file: Path) -> None:
    """Every error is told with file, line and key, by `check` and by `show`."""
    file.write_text("over_budget: skip\n\nprompts: {defautl: meme}\n")
    for result in (run("check"), run("check", str(file)), run("show")):
        assert result.exit_code == 1
        assert "ConfigurationError" in result.stderr
        assert f"{file}:1: over_budget: 'skip' is not allowed; allowed: 'defer' or 'ocr'" in result.stderr
        assert f"{file}:3: prompts.defautl: there is no such key; did you mean 'default'?" in result.stderr


def test_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file the error says how to name one."""
    monkeypatch.delenv("VISION_POLICY_FILE", raising=False)
    result = run("check")
    assert result.exit_code == 1
    assert "VISION_POLICY_FILE" in result.stderr


def test_what_holds_for_all(file: Path) -> None:
    """Without a tenant no database is asked."""
    result = run("show")
    assert result.exit_code == 0, result.output
    assert cells(result, "max_pictures_per_post") == ["max_pictures_per_post", "3", "file"]
    assert cells(result, "ocr_only.when") == ["ocr_only.when", "never", "file"]
    assert cells(result, "max_image_bytes") == ["max_image_bytes", "15,728,640 (15.0 MiB)", "default"]
    assert cells(result, "skipped_channels") == ["skipped_channels", "none", "default"]


@pytest.mark.usefixtures("file", "tenants")
def test_what_holds_for_a_tenant() -> None:
    """Its own values, the file's and the defaults, each with where it comes from."""
    result = run("show", "--tenant", "[b]Бета")
    assert result.exit_code == 0, result.output
    assert "Vision policy of [b]Бета" in result.stdout
    assert cells(result, "max_pictures_per_post")[1:] == ["5", "tenant"]
    assert cells(result, "skipped_channels")[1:] == ["ads_, news", "tenant"]
    assert cells(result, "ocr_only.when")[1:] == ["never", "file"]
    assert cells(result, "over_budget")[1:] == ["defer", "default"]
    assert cells(run("show", "--tenant", "Plain"), "max_pictures_per_post")[1:] == ["3", "file"]


@pytest.mark.usefixtures("file", "tenants")
def test_a_tenants_wrong_settings() -> None:
    """They are told with the tenant and the keys; so is a tenant that is not there."""
    result = run("show", "--tenant", "Wrong")
    assert result.exit_code == 1
    for words in (
        "'Wrong'",
        "vision.max_pictures_per_post: must be a whole number, not 'many'",
        "vision.cap: there is no",
    ):
        assert words in result.stderr
    unknown = run("show", "--tenant", "Gamma")
    assert unknown.exit_code == 1
    assert "Gamma" in unknown.stderr
