"""Every bad and odd input: a clear state and reason, nothing lost, the batch goes on."""

from pathlib import Path

import pytest

from tests.bad_inputs import LIMIT_BYTES, all_bad_inputs, write_bad_inputs
from tests.world import World
from vision_assets.core.media import MAX_IMAGE_BYTES

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "bad-inputs.md"


async def test_each_has_its_outcome(world: World, tmp_path: Path) -> None:
    """In one batch, each input ends in the state and for the reason that the documentation's table gives."""
    assert LIMIT_BYTES == MAX_IMAGE_BYTES
    folder = tmp_path / "bad"
    folder.mkdir()
    inputs = write_bad_inputs(folder)
    for bad in inputs:  # what is "missing" is there at the import and gone at the pass; an odd suffix is taken too
        path = folder / bad.filename
        if bad.expected_state == "missing":
            path.write_bytes(b"soon gone")
        if path.suffix not in {".jpg", ".png", ".gif", ".webp", ".avif", ".heic"}:
            path.rename(path.with_name(path.name + ".jpg"))
    tenant = await world.tenant("Bad inputs")
    loaded = await world.load(tenant, folder)
    assert loaded.posts_new == len(inputs)
    (folder / "missing.jpg").unlink()

    report = await world.store_media(tenant)

    rows = await world.database.pool.fetch("SELECT source_uri, state, reason, error, sha256 FROM post_media")
    found = {Path(row["source_uri"]).name: row for row in rows}
    for bad in inputs:
        row = found.get(bad.filename) or found[bad.filename + ".jpg"]
        assert (row["state"], row["reason"]) == (bad.expected_state, bad.expected_reason), bad.name
        if bad.expected_state != "stored":
            assert bad.filename in row["error"], "the error names the input"
    letters = await world.database.pool.fetch("SELECT reason, message FROM dead_letters WHERE resolved_at IS NULL")
    refused = [bad for bad in inputs if bad.expected_state != "stored"]
    assert len(letters) == len(refused)
    assert report.states["stored"] == len(inputs) - len(refused)
    assert len(await world.keys("media/")) == report.puts


async def test_missing_file_is_taken_when_it_comes(world: World, tmp_path: Path) -> None:
    """A file that was missing is stored by a later pass, and its dead letter is closed."""
    picture = next(bad for bad in all_bad_inputs() if bad.expected_state == "stored")
    path = tmp_path / picture.filename
    path.write_bytes(picture.content)
    tenant = await world.tenant("Late")
    await world.load(tenant, tmp_path)
    path.unlink()
    assert (await world.store_media(tenant)).states == {"missing": 1}
    path.write_bytes(picture.content)
    assert (await world.store_media(tenant)).states == {"stored": 1}
    assert await world.database.pool.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 0


@pytest.mark.parametrize("bad", all_bad_inputs(), ids=lambda bad: bad.name)
def test_the_documentation_tells_it(bad: object) -> None:
    """The table of the documentation has a row for each input, with its state and reason."""
    row = next(line for line in DOCS.read_text().splitlines() if f"| `{bad.name}` |" in line)  # type: ignore[attr-defined]
    assert bad.expected_state in row  # type: ignore[attr-defined]
    assert (bad.expected_reason or "") in row  # type: ignore[attr-defined]
