"""`vision-assets explain` and `vision-assets reuse`, as they are typed."""

import asyncio
import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.bench import Bench, NewBench
from tests.lookalikes import Posts, copies, spotted
from tests.pictures import photo
from vision_assets.cli import app
from vision_assets.core.policy import VisionPolicy

TENANT = "[b]Бета <i>"

Typed = Callable[..., Result]


@pytest.fixture
async def bench(new_bench: NewBench) -> Bench:
    """A tenant with a name that is to be escaped everywhere, all of whose pictures the policy lets through."""
    bench = await new_bench(TENANT)
    bench.policy = VisionPolicy(max_pictures_per_post=100)
    return bench


@pytest.fixture
def typed(bench: Bench, database: str, bucket: str) -> Typed:
    """Types commands about the bench's tenant, in a wide terminal."""
    environment = {"COLUMNS": "300", "DATABASE_URL": database, "S3_BUCKET": bucket}

    def run(*arguments: str, tenant: str = TENANT) -> Result:
        return CliRunner(env=environment).invoke(app, [*arguments, "--tenant", tenant])

    return run


@pytest.fixture
async def pictures(bench: Bench, tmp_path: Path) -> tuple[str, str, str]:
    """A photograph, another that looks alike, and a copy that took the first one's result."""
    posts = Posts(bench, tmp_path)
    first, other = await posts.show(photo(320, 240), spotted(3))
    await bench.analyse()
    [copy] = await posts.show(*copies())
    await bench.analyse()
    return first, other, copy


def cells(result: Result, name: str) -> list[list[str]]:
    """Read the rows of tables that begin with this."""
    lines = [line for line in result.stdout.splitlines() if line.startswith(f"│ {name}")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


async def test_a_reuse_is_explained(pictures: tuple[str, str, str], typed: Typed) -> None:
    """What the picture is, whose result it has, and by which distances; the beginning of its hash will do."""
    first, _, copy = pictures
    result = await asyncio.to_thread(typed, "explain", copy[:10])
    assert result.exit_code == 0, result.output
    assert copy in result.stdout
    assert cells(result, "file")[0][1].startswith("image/png, 300×225, ")
    assert cells(result, "matched") == [["matched", "within 6 bits of 64"]]
    assert cells(result, "denied") == [["denied", "no"]]
    assert cells(result, "paid")[0][:4] == ["paid test-1", "ok", f"near_duplicate of {first[:12]}", "photo"]
    [row] = cells(result, first[:12])
    assert row[:2] == [first[:12], "reused: same_picture"]
    assert re.fullmatch(r"\d of 64 bits, \d of 256, cells \d\.\d of 255, aspect 0\.\d%", row[2])
    assert 0 < float(row[3]) <= 1
    assert row[4].startswith("normal, paid test-1, ")
    assert cells(await asyncio.to_thread(typed, "explain", first), "its result went to")[0][1] == "1"


async def test_a_refusal_is_explained(pictures: tuple[str, str, str], typed: Typed) -> None:
    """Why a picture that looks alike did not give its result, and that the picture has one of its own."""
    first, other, _ = pictures
    result = await asyncio.to_thread(typed, "explain", other)
    assert cells(result, "paid")[0][1:3] == ["ok", "new"]
    [row] = cells(result, first[:12])
    assert row[1] == "refused: cells"
    [difference] = re.findall(r"cells (\S+) of 255", row[2])
    assert float(difference) > 12
    assert "No other picture's result was at hand" in (await asyncio.to_thread(typed, "explain", first)).stdout


async def test_both_pictures_side_by_side(
    pictures: tuple[str, str, str], typed: Typed, bench: Bench, tmp_path: Path
) -> None:
    """The page holds them itself, with the reason; what is gone is said to be; nothing is left unescaped."""
    first, other, copy = pictures
    file = tmp_path / "[b]page.html"
    result = await asyncio.to_thread(typed, "explain", copy, "--html", str(file))
    assert result.exit_code == 0, result.output
    assert f"Written: {file}" in result.stdout
    page = file.read_text()
    assert f"<h1>{copy[:12]} of [b]Бета &lt;i&gt;</h1>" in page
    assert "reused</span>: same_picture" in page
    assert {first, copy} <= set(re.findall(r"[0-9a-f]{64}", page))
    shown = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", page)]
    assert [image.size for image in shown] == [(300, 225), (320, 240)]
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    [key] = [row[0] for row in await bench.rows("SELECT s3_key FROM media_objects WHERE sha256 = $1", first)]
    await bench.world.bucket.delete(str(key))
    await asyncio.to_thread(typed, "explain", other, "--html", str(file))
    assert "This picture is gone, or cannot be decoded." in file.read_text()
    assert "refused</span>: cells" in file.read_text()
    unwritable = await asyncio.to_thread(typed, "explain", other, "--html", str(tmp_path))
    assert unwritable.exit_code == 1
    assert f"{tmp_path} cannot be written" in unwritable.stderr


async def test_which_picture_is_meant(pictures: tuple[str, str, str], typed: Typed, bench: Bench) -> None:
    """No such picture, several, and what is no hash are told apart; another tenant's picture is none."""
    for written, message in (
        ("f" * 64, "No picture of this tenant has a sha256 that begins with"),
        ("", "'' is no sha256"),
        ("xyz", "'xyz' is no sha256: write its 64 hex digits"),
    ):
        result = await asyncio.to_thread(typed, "explain", written)
        assert result.exit_code == 1
        assert message in result.stderr
    await bench.world.database.pool.executemany(
        "INSERT INTO reuse_denials (tenant_id, sha256, origin, reason) VALUES ($1, $2, 'operator', 'gone')",
        [(bench.tenant.id, f"{digit}".rjust(64, "0")) for digit in range(1, 5)],
    )
    several = await asyncio.to_thread(typed, "explain", "0000")
    assert "Several pictures begin with 0000: 000000000000…, 000000000000…, 000000000000… and more." in several.stderr
    gone = await asyncio.to_thread(typed, "explain", "1".rjust(64, "0"))
    assert "is not stored any more" in gone.stderr
    await bench.world.tenant("Other")
    elsewhere = await asyncio.to_thread(typed, "explain", pictures[0], tenant="Other")
    assert "No picture of this tenant" in elsewhere.stderr


async def test_denied_listed_and_allowed(pictures: tuple[str, str, str], typed: Typed, bench: Bench) -> None:
    """It is told how many results are to be made again; the picture says that it is denied, and by whom."""
    first, _, copy = pictures
    assert "No picture is denied." in (await asyncio.to_thread(typed, "reuse", "list")).stdout
    denied = await asyncio.to_thread(typed, "reuse", "deny", first[:8], "--reason", "[b]a price")
    assert denied.exit_code == 0, denied.output
    assert f"{first} is denied. Results to be made again, within policy and budget: 1." in denied.stdout
    listed = await asyncio.to_thread(typed, "reuse", "list")
    assert cells(listed, TENANT)[0][1:4] == [first, "operator", "[b]a price"]
    result = await asyncio.to_thread(typed, "explain", copy)
    assert cells(result, "paid")[0][1:4] == ["skipped: reuse_denied", "skipped", ""]
    assert cells(result, first[:12])[0][1] == "refused: denied"
    assert cells(await asyncio.to_thread(typed, "explain", first), "denied") == [["denied", "by an operator"]]
    assert await bench.count() == 1
    allowed = await asyncio.to_thread(typed, "reuse", "allow", first)
    assert f"{first} may be reused again." in allowed.stdout
    assert (await bench.analyse()).methods == {"near_duplicate": 1}
    again = await asyncio.to_thread(typed, "reuse", "allow", first)
    assert again.exit_code == 1
    assert "is not denied" in again.stderr
