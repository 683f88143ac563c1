"""The step over a folder of hostile files: each is a dead letter with its reason, the good ones are stored."""

from pathlib import Path

import pytest
import zxingcpp
from PIL import Image

from tests import pictures
from tests.safety.encoding import encoded
from tests.safety.hostile import all_hostile
from tests.world import World

LARGEST = "largest", "longest"


@pytest.mark.slow
async def test_a_folder_of_hostile_files_is_one_of_dead_letters(world: World, tmp_path: Path) -> None:
    """Nothing is lost, nothing is left to do, nothing fails, and a second pass finds nothing to do."""
    # Those at the limits are taken, and have their own test: here they would only take time.
    hostile = [one for one in all_hostile() if not one.name.endswith(LARGEST)]
    for one in hostile:
        (tmp_path / f"{one.name}.jpg").write_bytes(one.build())
    (tmp_path / "good.jpg").write_bytes(pictures.encoded(pictures.photo(320, 240)))
    tenant = await world.tenant("Hostile")
    await world.load(tenant, tmp_path)

    report = await world.store_media(tenant)

    assert report.failures == []
    rows = await world.database.pool.fetch("SELECT source_uri, state, reason FROM post_media")
    found = {Path(row["source_uri"]).stem: (row["state"], row["reason"]) for row in rows}
    expected = {one.name: ("rejected", one.reason) if one.reason else ("stored", None) for one in hostile}
    assert found == expected | {"good": ("stored", None)}
    letters = await world.database.pool.fetch(
        "SELECT item, reason, message FROM dead_letters WHERE resolved_at IS NULL"
    )
    assert sorted(row["reason"] for row in letters) == sorted(one.reason for one in hostile if one.reason)
    assert len(await world.keys("media/")) == report.puts
    assert (await world.store_media(tenant)).states == {}


async def test_a_code_in_a_picture_may_hold_any_character(world: World, tmp_path: Path) -> None:
    """What Postgres cannot hold stands by name in a barcode's text; its page is stored."""
    code = zxingcpp.create_barcode("before\0after", zxingcpp.BarcodeFormat.QRCode)
    Image.fromarray(code.to_image(scale=8)).save(tmp_path / "code.png")
    (tmp_path / "good.jpg").write_bytes(encoded(pictures.photo(320, 240), "JPEG"))
    tenant = await world.tenant("Codes")
    await world.load(tenant, tmp_path)

    report = await world.store_media(tenant)

    assert (dict(report.states), report.failures) == ({"stored": 2}, [])
    measured = await world.database.pool.fetch("SELECT measured::text FROM media_objects")
    assert sum("before<NUL>after" in row["measured"] for row in measured) == 1
