"""`vision-assets policy`, as it is typed."""

import asyncio
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vision_assets.cli import app, policy
from vision_assets.cli.connections import open_database
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import ensure_tenant, find_tenant
from vision_assets.core.policy_settings import with_values


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


def stored(name: str) -> object:
    """Read a tenant's settings."""

    async def read() -> object:
        async with open_database(max_size=1) as database:
            return (await find_tenant(database, name)).settings

    return asyncio.run(read())


def test_a_good_file(file: Path, tmp_path: Path) -> None:
    """The settings' file is checked, or the one that is named; how much it sets is told."""
    result = run("check")
    assert result.exit_code == 0, result.output
    assert f"{file} is a valid policy: it sets 2 of 21 values" in result.stdout
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


@pytest.mark.usefixtures("file", "tenants")
def test_a_tenants_rules_are_set_and_unset() -> None:
    """Values are YAML, sections are merged, other settings stay, and what is unset holds as for all."""
    name = "[b]Бета"
    result = run(
        "set", "-t", name, "ocr_only.when=always", "skipped_channels=[durov]", "model=vl:7b", "provider=openai"
    )
    assert result.exit_code == 0, result.output
    assert cells(result, "ocr_only.when")[1:] == ["always", "tenant"]
    assert cells(result, "skipped_channels")[1:] == ["durov", "tenant"]
    assert cells(result, "provider")[1:] == ["openai", "tenant"]
    assert cells(result, "model")[1:] == ["vl:7b", "tenant"]
    assert cells(result, "max_pictures_per_post")[1:] == ["5", "tenant"]
    result = run("unset", "-t", name, "ocr_only.when", "provider", "model", "max_pictures_per_post")
    assert cells(result, "ocr_only.when")[1:] == ["never", "file"]
    assert cells(result, "provider")[1:] == ["as the settings say", "default"]
    assert cells(result, "max_pictures_per_post")[1:] == ["3", "file"]
    assert cells(result, "skipped_channels")[1:] == ["durov", "tenant"]
    assert stored(name) == {"vision": {"skipped_channels": ["durov"]}, "other": 1}
    assert run("unset", "-t", name, "skipped_channels").exit_code == 0
    assert stored(name) == {"other": 1}


@pytest.mark.usefixtures("file", "tenants")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set", "over_budget=ocr", "ocr_only.when=sometimes"], "vision.ocr_only.when: 'sometimes' is not allowed"),
        (["set", "over_budget"], "'over_budget' sets nothing: write KEY=VALUE"),
        (["set", "skipped_channels=[a"], "no valid YAML"),
        (["set", "max_image_bytes=2024-13-45"], "no valid YAML: month must be in 1..12"),
        (["set", "provider=local", "model=x"], "vision.model: the provider local has no model to choose"),
        (["set", "prompts.by_mime.image/x.y=meme"], "vision.prompts.by_mime.image/x.y: no picture is ever image/x.y"),
        (["unset", "over_budget"], "over_budget is not set"),
    ],
)
def test_what_is_wrong_is_not_written(arguments: list[str], said: str) -> None:
    """All is checked before any of it is written."""
    before = stored("[b]Бета")
    command, *others = arguments
    result = run(command, "--tenant", "[b]Бета", *others)
    assert result.exit_code == 1
    assert said in result.stderr
    assert stored("[b]Бета") == before


@pytest.mark.usefixtures("tenants")
def test_wrong_settings_can_be_mended() -> None:
    """One command takes out what is wrong; what stays wrong is told."""
    assert "vision.cap" in run("set", "-t", "Wrong", "max_pictures_per_post=4").stderr
    assert run("unset", "-t", "Wrong", "cap", "max_pictures_per_post").exit_code == 0
    assert stored("Wrong") == {"other": 1}


@pytest.mark.usefixtures("tenants")
def test_changes_at_once_are_all_kept() -> None:
    """However many set a rule of one tenant at the same time, none is lost."""
    rules = ["max_pictures_per_post=7", "over_budget=ocr", "small_below_bytes=1", "ocr_only.when=never"]
    rules += ["ocr_only.mime_types=[image/gif]", "description_language=en"]

    async def all_at_once() -> None:
        changes = [dict([policy._assignment(rule)]) for rule in rules]
        await asyncio.gather(*(policy._change("Plain", partial(with_values, values=change)) for change in changes))

    asyncio.run(all_at_once())
    assert stored("Plain") == {
        "vision": {
            "max_pictures_per_post": 7,
            "over_budget": "ocr",
            "small_below_bytes": 1,
            "ocr_only": {"when": "never", "mime_types": ["image/gif"]},
            "description_language": "en",
        }
    }
