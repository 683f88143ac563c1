"""The import commands, as they are typed."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
import typer
from typer.testing import CliRunner

from tests.exports import chat, message, photo, write_export
from vision_assets.cli.imports import import_export, import_folder

app = typer.Typer()
app.command("import")(import_export)
app.command("import-folder")(import_folder)


@pytest.fixture
def runner(database: str, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Give a runner whose commands use the test's database."""
    monkeypatch.setenv("DATABASE_URL", database)
    return CliRunner()


def counts(output: str) -> set[tuple[str, ...]]:
    """Read the rows of the printed table."""
    return {tuple(cell.strip() for cell in line.split("│")[1:-1]) for line in output.splitlines() if "│" in line}


def test_import_prints_the_counts(runner: CliRunner, tmp_path: Path) -> None:
    """The file or its folder may be named; the table tells what came in and what did not."""
    file = write_export(tmp_path, chat([message(1, "раз"), photo(2, at=0), photo(3, at=0), {"type": "service"}]))
    first = runner.invoke(app, ["import", str(file), "--tenant", "[b]Ромашка"])
    assert first.exit_code == 0, first.output
    assert "[b]Ромашка" in first.stdout
    assert {("posts new", "2"), ("albums inferred", "1"), ("messages skipped: service", "1")} <= counts(first.stdout)
    again = runner.invoke(app, ["import", str(tmp_path), "--tenant", "[b]Ромашка"])
    assert again.exit_code == 0, again.output
    assert {("posts new", "0"), ("posts already there", "2")} <= counts(again.stdout)


def test_a_broken_export_fails_after_what_was_read_is_committed(
    runner: CliRunner, tmp_path: Path, database: str
) -> None:
    """The exit code tells scripts, the text tells people; the posts before the fault are there."""
    file = write_export(tmp_path, chat([message(1, "раз"), message(2, "два")]))
    file.write_text(file.read_text("utf-8")[:-3], "utf-8")
    result = runner.invoke(app, ["import", str(file), "--tenant", "Ромашка"])
    assert result.exit_code == 1
    assert "ExportInvalid" in result.stderr
    assert str(file) in result.stderr

    async def count() -> object:
        connection = await asyncpg.connect(database)
        try:
            return await connection.fetchval("SELECT count(*) FROM posts")
        finally:
            await connection.close()

    assert asyncio.run(count()) == 2


def test_import_folder(runner: CliRunner, tmp_path: Path) -> None:
    """A folder of pictures is imported by its own command."""
    (tmp_path / "a.jpg").write_bytes(b"x")
    result = runner.invoke(app, ["import-folder", str(tmp_path), "--tenant", "Ромашка"])
    assert result.exit_code == 0, result.output


def test_without_a_database_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody is left with a traceback."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("VISION_ASSETS_DATA_DIR", str(tmp_path / "data"))
    file = write_export(tmp_path, chat([]))
    result = CliRunner().invoke(app, ["import", str(file), "--tenant", "Ромашка"])
    assert result.exit_code == 1
    assert "vision-assets up --parts" in result.stderr
