"""The passes after a clean-up: what was removed on purpose is not made again, what is needed is."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cleaning import Cleaning, down_to
from tests.world import World
from vision_assets.clients.telegram_export import TelegramExport
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision import Look, Measured, VisionProvider

CITY = Path(__file__).parents[2] / "examples" / "city_walks"


@pytest.fixture
def cleaning(world: World) -> Cleaning:
    """Clean-ups of this test's world, by a clock that is 20 days ahead: every result has outlived its time."""
    return Cleaning(world, ahead=timedelta(days=20))


async def everything_again(world: World, tenant: Tenant) -> tuple[int, int, int]:
    """Run all passes, and tell puts, analyses and enriched posts."""
    media = await world.store_media(tenant)
    vision = await world.analyse(tenant)
    posts = await world.enrich(tenant)
    assert not [*media.failures, *vision.failures, *posts.failures]
    return media.puts + vision.puts + posts.puts, vision.analyses, posts.statuses.total()


def walk(value: Any) -> Iterator[str]:
    """All strings of a document."""
    if isinstance(value, dict):
        for part in value.values():
            yield from walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from walk(part)
    elif isinstance(value, str):
        yield value


async def test_no_churn(cleaning: Cleaning) -> None:
    """Results and summaries that were cleaned away stay away, stay known, and no row tells a key that leads nowhere."""
    world = cleaning.world
    tenant = await world.tenant("City Walks")
    await world.load(tenant, TelegramExport(CITY))
    assert (await everything_again(world, tenant))[0] > 0
    results = "SELECT sha256, result, fingerprint FROM vision_results ORDER BY sha256"
    before = await world.database.pool.fetch(results)
    searchable = (
        "SELECT post_id, params_hash, data - ARRAY['s3_keys', 's3_keys_list', 'album_summary_s3_key'] AS data"
        " FROM post_enrichment ORDER BY 1"
    )
    enriched = await world.database.pool.fetch(searchable)
    assert {row.split("/")[0] for row in await world.keys()} == {"media", "vision", "album"}

    report = await cleaning.run()

    assert not report.failures
    assert {key.split("/")[0] for key in await world.keys()} == {"media"}
    assert await world.database.pool.fetch(results) == before
    evicted = "SELECT bool_and(num_nulls(s3_key, s3_bytes) = 2 AND s3_evicted_at IS NOT NULL) FROM vision_results"
    assert await world.database.pool.fetchval(evicted)
    assert await world.database.pool.fetch(searchable) == enriched
    for row in await world.database.pool.fetch("SELECT data FROM post_enrichment"):
        assert not [text for text in walk(row["data"]) if text.startswith(("vision/", "album/"))]
        assert (row["data"]["s3_keys"], row["data"]["s3_keys_list"]) == ({}, [])
    assert await everything_again(world, tenant) == (0, 0, 0)
    assert not (await cleaning.run()).removed
    await cleaning.assert_books_are_true()


async def test_album_keeps_the_keys_that_are_left(cleaning: Cleaning) -> None:
    """Of an album whose results are removed one by one, the row tells those that are left; its image is the first."""
    world = cleaning.world
    tenant = await world.tenant("City Walks")
    await world.load(tenant, TelegramExport(CITY))
    await everything_again(world, tenant)
    album = (
        "SELECT data FROM post_enrichment WHERE jsonb_array_length(data -> 's3_keys_list') > 1"
        " ORDER BY jsonb_array_length(data -> 's3_keys_list') DESC LIMIT 1"
    )
    [row] = await world.database.pool.fetch(album)
    first, *rest = [item["s3_key"] for item in row["data"]["s3_keys_list"]]
    await world.database.pool.execute(
        "UPDATE storage_objects SET recorded_at = recorded_at - interval '1 day' WHERE s3_key = $1", first
    )
    await cleaning.run(down_to(await cleaning.taken_bytes() - 1))
    assert first not in await world.keys()
    data = await world.database.pool.fetchval(
        "SELECT data FROM post_enrichment"
        " WHERE data -> 's3_keys_list' @> jsonb_build_array(jsonb_build_object('s3_key', $1::text))",
        rest[0],
    )
    assert [item["s3_key"] for item in data["s3_keys_list"]] == rest
    assert data["s3_keys"] == {"image": rest[0]}
    assert await everything_again(world, tenant) == (0, 0, 0)


@dataclass
class Changed:
    """A provider that answers anew: another fingerprint."""

    provider: VisionProvider
    fingerprint: str = "another"

    @property
    def name(self) -> str:
        """As before."""
        return self.provider.name

    @property
    def model(self) -> str:
        """As before."""
        return self.provider.model

    @property
    def estimated_tokens(self) -> int | None:
        """As before."""
        return self.provider.estimated_tokens

    def ready(
        self, content: bytes, *, mime: str, measured: Measured | None = None
    ) -> AbstractAsyncContextManager[Look]:
        """As before."""
        return self.provider.ready(content, mime=mime, measured=measured)


async def test_new_results_are_put_after_a_clean_up(cleaning: Cleaning, tmp_path: Path) -> None:
    """A removed result is no excuse: at another fingerprint the picture is analysed, and the result put, as ever."""
    world = cleaning.world
    tenant = await world.tenant("Changed")
    shutil.copy(min((CITY / "photos").glob("*.jpg")), tmp_path)
    await world.load(tenant, tmp_path)
    await everything_again(world, tenant)
    await cleaning.run()
    world.provider = Changed(world.provider)
    assert await everything_again(world, tenant) == (1, 1, 1)
    [row] = await world.database.pool.fetch("SELECT s3_key, s3_evicted_at FROM vision_results")
    assert row["s3_key"] in await world.keys()
    assert row["s3_evicted_at"] is None
    assert await everything_again(world, tenant) == (0, 0, 0)


async def test_removed_picture_comes_back_with_a_new_post(cleaning: Cleaning, tmp_path: Path) -> None:
    """Unused pictures go with hash and results; a post that brings one again stores and analyses it again."""
    world = cleaning.world
    tenant = await world.tenant("Back")
    photo = min((CITY / "photos").glob("*.jpg"))
    shutil.copy(photo, tmp_path)
    await world.load(tenant, tmp_path)
    await everything_again(world, tenant)
    await world.database.pool.execute("DELETE FROM posts")
    assert not (await cleaning.run()).failures
    assert {key.split("/")[0] for key in await world.keys()} == {"media"}
    assert not (await replace(cleaning, ahead=timedelta(days=31)).run()).failures
    assert await world.keys() == {}
    for table in ("media_objects", "phash_index", "vision_results"):
        assert await world.database.pool.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608
    await world.load(tenant, tmp_path)
    assert await everything_again(world, tenant) == (2, 1, 1)
    await cleaning.assert_books_are_true()


async def test_use_is_noted(cleaning: Cleaning, tmp_path: Path) -> None:
    """A picture counts as used when a post brings it again and when it is analysed."""
    world = cleaning.world
    tenant = await world.tenant("Used")
    shutil.copy(min((CITY / "photos").glob("*.jpg")), tmp_path)
    await world.load(tenant, tmp_path)
    await world.store_media(tenant)
    forget = "UPDATE media_objects SET last_used_at = '2020-01-01'"
    used = "SELECT last_used_at > '2020-01-01' FROM media_objects"
    await world.database.pool.execute(forget)
    await world.analyse(tenant)
    assert await world.database.pool.fetchval(used)
    await world.database.pool.execute(forget)
    await world.database.pool.execute("UPDATE post_media SET state = 'pending', sha256 = NULL")
    assert (await world.store_media(tenant)).puts == 0
    assert await world.database.pool.fetchval(used)
