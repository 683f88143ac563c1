"""Dead letters on the real Postgres and S3: what is tried again by itself, how often, and what only by command."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.bench import Bench, NewBench
from tests.pictures import encoded, photo
from tests.world import World
from vision_assets.cli import app
from vision_assets.clients.postgres.dead_letters import OpenItem, PostgresDeadLetters, open_items
from vision_assets.clients.postgres.turns import PostgresLine
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.analysis import MAX_CHARGED_ATTEMPTS
from vision_assets.core.dead_letters import REST, Reopened, Selection, close_gone, reopen, reopen_passing
from vision_assets.core.errors import AnswerRefused, InputRejected, ProviderUnavailable
from vision_assets.core.tenants import Tenant

JUST_AFTER = timedelta(seconds=1)


async def retry(world: World, *, after: timedelta = REST + JUST_AFTER, max_retries: int = 3) -> list[Reopened]:
    """Do what the daily job does, this long from now."""
    letters = PostgresDeadLetters(world.database)
    return await reopen_passing(letters, max_retries=max_retries, now=datetime.now(UTC) + after)


async def by_command(world: World, selection: Selection) -> int:
    """Re-open letters whatever their reason, and count them."""
    return sum(one.items for one in await reopen(PostgresDeadLetters(world.database), selection))


async def letters(world: World) -> list[OpenItem]:
    """The open letters."""
    return await open_items(world.database, Selection(), limit=100)


@dataclass
class Broken:
    """A tenant with one picture that was cut off when it was read, and one file that is no picture."""

    tenant: Tenant
    cut: Path
    whole: bytes


@pytest.fixture
async def broken(world: World, tmp_path: Path) -> Broken:
    """The tenant, after a pass that rejected both."""
    whole, cut = encoded(photo()), tmp_path / "cut.jpg"
    cut.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.jpg").write_bytes(b"<html>gone</html>")
    tenant = await world.tenant("Alpha")
    await world.load(tenant, tmp_path)
    assert (await world.store_media(tenant)).reasons == {"truncated": 1, "not_a_picture": 1}
    return Broken(tenant, cut, whole)


async def test_what_may_pass_is_tried_again(world: World, broken: Broken) -> None:
    """A download that was under way is read again after a rest, and its letter closed; what is no picture is not."""
    assert await retry(world, after=REST - JUST_AFTER) == []
    assert await retry(world) == [Reopened(broken.tenant.id, "media_objects", "truncated", 1)]
    assert await retry(world) == [], "it is to do already"
    broken.cut.write_bytes(broken.whole)
    assert (await world.store_media(broken.tenant)).states == {"stored": 1}
    assert [letter.reason for letter in await letters(world)] == ["not_a_picture"]


async def test_a_retry_is_not_for_ever(world: World, broken: Broken) -> None:
    """What fails again and again is left alone in the end; a command may ask all the same."""
    for number in (1, 2):
        assert len(await retry(world, max_retries=2)) == 1
        assert (await world.store_media(broken.tenant)).reasons == {"truncated": 1}
        [letter] = [letter for letter in await letters(world) if letter.reason == "truncated"]
        assert (letter.attempts, letter.retries, letter.reopened_at) == (number + 1, number, None)
    assert await retry(world, max_retries=2) == []
    assert await retry(world, max_retries=0) == []
    assert await by_command(world, Selection(broken.tenant.id, reason="truncated")) == 1
    assert (await world.store_media(broken.tenant)).reasons == {"truncated": 1}


async def test_retries_are_counted_anew_after_a_success(world: World, broken: Broken) -> None:
    """An item that went through and is given up later has all its retries again."""
    await retry(world, max_retries=1)
    broken.cut.write_bytes(broken.whole)
    await world.store_media(broken.tenant)
    await world.database.pool.execute("UPDATE post_media SET state = 'pending', sha256 = NULL WHERE state = 'stored'")
    broken.cut.write_bytes(b"")
    assert (await world.store_media(broken.tenant)).reasons == {"empty": 1}
    assert len(await retry(world, max_retries=1)) == 1


async def test_a_command_chooses(world: World, broken: Broken) -> None:
    """By tenant, stage, reason and item; whatever the reason, but never of a tenant that is not active."""
    other = await world.tenant("Beta")
    [page] = [letter.item for letter in await letters(world) if letter.reason == "not_a_picture"]
    assert await by_command(world, Selection(other.id)) == 0
    assert await by_command(world, Selection(stage="phash_index")) == 0
    assert await by_command(world, Selection(broken.tenant.id, "media_objects", "not_a_picture", page)) == 1
    assert (await world.store_media(broken.tenant)).reasons == {"not_a_picture": 1}
    await world.database.pool.execute("UPDATE tenants SET active = false WHERE id = $1", broken.tenant.id)
    assert await by_command(world, Selection(broken.tenant.id)) == 0
    assert await retry(world) == []


@dataclass(frozen=True)
class CountedReads(S3Bucket):
    """A bucket that notes what is read from it."""

    read: list[str] = field(default_factory=list)

    async def get(self, key: str) -> bytes | None:
        """Note the key, and read."""
        self.read.append(key)
        return await super().get(key)


async def test_a_stored_picture_that_cannot_be_hashed_is_read_once(world: World, tmp_path: Path) -> None:
    """Later passes leave its object alone, until somebody re-opens it; then once more."""
    (tmp_path / "a.jpg").write_bytes(encoded(photo()))
    tenant = await world.tenant("Alpha")
    await world.load(tenant, tmp_path)
    await world.store_media(tenant)
    [key] = await world.keys("media/")
    await world.bucket.put(key, b"<html>gone</html>", mime="image/jpeg")
    await world.database.pool.execute("DELETE FROM phash_index")
    bucket = CountedReads(world.bucket.store)

    async def hashing() -> tuple[int, int]:
        """Tell how often it was read, and what was hashed."""
        bucket.read.clear()
        report = await replace(world.media_pass(tenant), store=bucket).hash_stored_media()
        return len(bucket.read), report.hashed

    assert await hashing() == (1, 0)
    assert await hashing() == (0, 0)
    assert await retry(world) == [], "its bytes are what they were"
    assert await by_command(world, Selection(stage="phash_index")) == 1
    assert await hashing() == (1, 0)
    assert await hashing() == (0, 0)
    await world.bucket.put(key, encoded(photo()), mime="image/jpeg")
    await by_command(world, Selection(tenant.id))
    assert await hashing() == (1, 1)
    assert await letters(world) == []


async def test_a_picture_that_was_lost_and_stored_again_has_no_letter(world: World, tmp_path: Path) -> None:
    """Its object was gone when it was to be hashed; once it is stored and hashed again, nothing is open."""
    (tmp_path / "a.jpg").write_bytes(encoded(photo()))
    tenant = await world.tenant("Alpha")
    await world.load(tenant, tmp_path)
    await world.store_media(tenant)
    await world.bucket.delete(list(await world.keys("media/")))
    await world.database.pool.execute("DELETE FROM phash_index")
    assert (await world.media_pass(tenant).hash_stored_media()).reasons == {"object_lost": 1}
    assert [letter.reason for letter in await letters(world)] == ["missing"]
    assert (await world.store_media(tenant)).states == {"stored": 1}
    assert await letters(world) == []


async def test_letters_of_what_is_gone_are_closed(world: World, broken: Broken, tmp_path: Path) -> None:
    """Of a deleted post, and of a picture that was lost or cleaned up; after a rest, and none of what is there."""
    folder = tmp_path / "stored"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encoded(photo()))
    tenant = await world.tenant("Beta")
    await world.load(tenant, folder)
    await world.store_media(tenant)
    [key] = await world.keys("media/")
    await world.bucket.put(key, b"<html>gone</html>", mime="image/jpeg")
    await world.database.pool.execute("DELETE FROM phash_index")
    await world.media_pass(tenant).hash_stored_media()
    ledger = PostgresDeadLetters(world.database)
    later = datetime.now(UTC) + REST + JUST_AFTER
    assert len(await letters(world)) == 3
    assert await close_gone(ledger, now=later) == 0
    await world.database.pool.execute("DELETE FROM media_objects WHERE tenant_id = $1", tenant.id)
    await world.database.pool.execute("DELETE FROM posts WHERE tenant_id = $1", broken.tenant.id)
    assert await close_gone(ledger, now=datetime.now(UTC)) == 0
    assert await close_gone(ledger, now=later) == 3
    assert await letters(world) == []
    assert await close_gone(ledger, now=later) == 0


async def test_a_retry_closes_letters_of_what_is_gone(world: World, broken: Broken) -> None:
    """At once, and only those that it is told of: nothing is to do again for ever."""
    await world.database.pool.execute("DELETE FROM posts WHERE tenant_id = $1", broken.tenant.id)
    assert await by_command(world, Selection(reason="truncated")) == 0
    assert [letter.reason for letter in await letters(world)] == ["not_a_picture"]


def refusing(error: Callable[[], Exception]) -> Callable[[], object]:
    """Have every call fail, each with an error of its own."""

    async def fail() -> None:
        raise error()

    return fail


@pytest.fixture
async def bench(new_bench: NewBench, tmp_path: Path) -> Bench:
    """A tenant with one picture."""
    photo().save(tmp_path / "a.jpg")
    bench = await new_bench("Alpha")
    await bench.show(tmp_path)
    return bench


async def test_an_answer_that_could_not_be_read_is_asked_for_again(bench: Bench) -> None:
    """After a rest its tenant is due, the next pass calls once, and the letter is closed by the answer."""
    good = bench.provider.thinking
    bench.provider.thinking = refusing(lambda: AnswerRefused("parse_failed", "prose", tokens_used=5))  # type: ignore[assignment]
    assert (await bench.analyse()).reasons == {"parse_failed": 1}
    assert (await bench.analyse()).analyses == 0
    assert await bench.count() == 0
    assert await retry(bench.world) == [Reopened(bench.tenant.id, "vision_results", "parse_failed", 1)]
    await bench.world.database.pool.execute("DELETE FROM tenant_changes")
    await PostgresLine(bench.world.database).add_due(datetime.now(UTC))
    assert await bench.rows("SELECT tenant_id FROM tenant_changes") == [(bench.tenant.id,)]
    bench.provider.thinking = good
    assert (await bench.analyse()).analyses == 1
    assert len(bench.provider.calls) == 2
    assert await letters(bench.world) == []


async def test_calls_that_were_charged_in_vain_are_made_once_more(bench: Bench) -> None:
    """Not eight times more: each retry is one call, which may be charged in vain again."""
    bench.provider.thinking = refusing(lambda: ProviderUnavailable("dropped"))  # type: ignore[assignment]
    await bench.analyse()
    await bench.world.database.pool.execute(
        "UPDATE vision_decisions SET due_at = now(), attempts = $1", MAX_CHARGED_ATTEMPTS - 1
    )
    await bench.analyse()
    given_up_after = len(bench.provider.calls)
    assert [letter.reason for letter in await letters(bench.world)] == ["provider_failed"]
    for retries in (1, 2):
        assert len(await retry(bench.world, max_retries=2)) == 1
        await bench.analyse()
        await bench.analyse()
        assert len(bench.provider.calls) == given_up_after + retries
    assert await retry(bench.world, max_retries=2) == []


async def test_calls_without_a_trace_are_made_again_by_command_only(bench: Bench) -> None:
    """They may bring workers down; who asks for another one has looked."""
    [sha256] = bench.sha256s
    for number in range(3):
        await bench.leave_a_hold(sha256, ago=timedelta(days=3 - number))
    assert (await bench.analyse()).reasons == {"too_many_attempts": 1}
    assert await retry(bench.world) == []
    assert await by_command(bench.world, Selection(bench.tenant.id, item=sha256)) == 1
    assert (await bench.analyse()).analyses == 1
    assert await letters(bench.world) == []


async def test_what_the_provider_refuses_is_asked_again_by_command_only(bench: Bench) -> None:
    """It said what it thinks of the picture."""
    bench.provider.thinking = refusing(lambda: InputRejected("refused_by_provider", "no"))  # type: ignore[assignment]
    assert (await bench.analyse()).reasons == {"refused_by_provider": 1}
    assert await retry(bench.world) == []
    assert await by_command(bench.world, Selection(reason="refused_by_provider")) == 1
    await bench.analyse()
    assert len(bench.provider.calls) == 2


@pytest.fixture
def typed(database: str, bucket: str) -> Callable[..., Result]:
    """Types commands in a wide terminal."""

    def run(*arguments: str) -> Result:
        environment = {"COLUMNS": "300", "DATABASE_URL": database, "S3_BUCKET": bucket}
        return CliRunner(env=environment).invoke(app, ["dead-letters", *arguments])

    return run


def cells(result: Result, name: str) -> list[list[str]]:
    """Read the rows of tables that begin with this."""
    lines = [line for line in result.stdout.splitlines() if line.startswith(f"│ {name}")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


async def test_the_commands(world: World, broken: Broken, typed: Callable[..., Result]) -> None:
    """Sums by stage and reason, single items, and what a retry has to be told."""

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(typed, *arguments)

    listed = await run("list")
    assert listed.exit_code == 0, listed.output
    assert [row[:7] for row in cells(listed, "Alpha")] == [
        ["Alpha", "media_objects", "not_a_picture", "1", "", "", ""],
        ["Alpha", "media_objects", "truncated", "1", "", "", "yes"],
    ]
    [item] = cells(await run("list", "--items", "--reason", "truncated"), "Alpha")
    assert item[4] == "1×"
    assert "cut.jpg" in item[6]
    for wrong in (["retry"], ["retry", "--stage", "import"]):
        refused = await run(*wrong)
        assert refused.exit_code == 1
    assert "next import" in refused.output
    done = await run("retry", "--tenant", "Alpha", "--item", item[3])
    assert done.exit_code == 0, done.output
    assert "To do again: 1 items." in done.stdout
    assert [row[4:6] for row in cells(await run("list", "--reason", "truncated"), "Alpha")] == [["1", "1×"]]
    assert "To do again: 0 items." in (await run("retry", "--reason", "truncated")).stdout
    broken.cut.write_bytes(broken.whole)
    await world.store_media(broken.tenant)
    assert "Nothing was given up." in (await run("list", "--stage", "media_objects", "--reason", "truncated")).stdout
