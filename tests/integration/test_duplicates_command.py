"""`vision-assets duplicates`, as it is typed, on real pictures in S3."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.pictures import encoded, photo
from tests.world import World, open_world
from vision_assets.cli import app
from vision_assets.settings import Settings

NAME = "<b>Копии</b>"
PHOTOS = {1: 4, 2: 2, 3: 1}
"""Of each seed, so many copies of other qualities and sizes."""


def write_photos(folder: Path) -> Path:
    """Photos, some of them several times."""
    folder.mkdir()
    for seed, copies in PHOTOS.items():
        for copy in range(copies):
            picture = photo(seed=seed)
            smaller = picture.resize((picture.width * (10 - copy) // 10, picture.height * (10 - copy) // 10))
            (folder / f"{seed} {copy}.jpg").write_bytes(encoded(smaller, quality=90 - 5 * copy))
    return folder


@pytest.fixture
def runner(parts: Settings, database: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Give a runner whose commands use the test's database and bucket, with copies of two tenants."""

    async def fill(world: World) -> None:
        folder = write_photos(tmp_path / "photos")
        for name in (NAME, "Other"):
            tenant = await world.tenant(name)
            await world.load(tenant, folder)
            await world.store_media(tenant)
        await world.database.pool.execute("UPDATE channels SET username = 'a&b'")
        await world.tenant("Empty")

    async def main() -> None:
        async with open_world(database, bucket, parts) as world:
            await fill(world)

    asyncio.run(main())
    for name, value in (parts.environment() | {"DATABASE_URL": database, "S3_BUCKET": bucket}).items():
        monkeypatch.setenv(name, value)
    return CliRunner(env={"COLUMNS": "200"})


def duplicates(runner: CliRunner, *arguments: str) -> Result:
    """Type the command; it must succeed."""
    result = runner.invoke(app, ["duplicates", *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_clusters_are_told_as_a_table_as_json_and_as_a_contact_sheet(runner: CliRunner, tmp_path: Path) -> None:
    """All three tell the same; the sheet needs no other file, and no text of a tenant is taken for markup."""
    file = tmp_path / "sheet.html"
    shown = duplicates(runner, "--tenant", NAME, "--html", str(file)).stdout
    found = json.loads(duplicates(runner, "--tenant", NAME, "--json").stdout)
    assert [cluster["pictures"] for cluster in found["largest"]] == [4, 2]
    assert (found["hashes"], found["clusters"], found["pictures"]) == (7, 2, 6)
    assert "2 clusters with 6 of 7 pictures" in shown
    for cluster in found["largest"]:
        first, *others = cluster["shown"]
        assert first["width"] == 960
        assert cluster["duplicate_bytes"] == sum(picture["bytes"] for picture in others)
        assert first["sha256"][:16] in shown
    sheet = file.read_text(encoding="utf-8")
    assert "&lt;b&gt;Копии&lt;/b&gt;" in sheet
    assert "<b>" not in sheet
    assert re.findall(r"<code>([0-9a-f]{64})", sheet) == [
        picture["sha256"] for cluster in found["largest"] for picture in cluster["shown"]
    ]
    assert len(re.findall(r'<img src="data:image/webp;base64,[A-Za-z0-9+/=]+"', sheet)) == 6
    assert set(re.findall(r'(?:src|href)="([^"]{1,9})', sheet)) <= {"data:imag", "#cluster-", "https://t"}
    assert 'href="https://t.me/a&amp;b/' in sheet


def test_a_picture_gone_from_s3_stands_as_its_thumbnail(
    runner: CliRunner, parts: Settings, database: str, bucket: str, tmp_path: Path
) -> None:
    """The sheet is complete without the objects."""
    found = json.loads(duplicates(runner, "--tenant", "Other", "--limit", "1", "--json").stdout)
    assert len(found["largest"]) == 1

    async def remove() -> None:
        async with open_world(database, bucket, parts) as world:
            await world.bucket.delete([picture["s3_key"] for picture in found["largest"][0]["shown"][1:]])

    asyncio.run(remove())
    file = tmp_path / "sheet.html"
    duplicates(runner, "--tenant", "Other", "--limit", "1", "--html", str(file))
    assert file.read_text(encoding="utf-8").count('<img src="data:image/webp;base64,') == 4


def test_what_cannot_be_done_is_said(runner: CliRunner, tmp_path: Path) -> None:
    """A tenant without copies, no such tenant, no such folder."""
    assert "No near-duplicates among 0 hashes" in duplicates(runner, "--tenant", "Empty").stdout
    for arguments, said in (
        (("--tenant", "Nobody"), "Nobody"),
        (("--tenant", "Other", "--html", str(tmp_path / "none" / "sheet.html")), "There is no folder"),
    ):
        result = runner.invoke(app, ["duplicates", *arguments])
        assert result.exit_code == 1
        assert said in result.stderr
