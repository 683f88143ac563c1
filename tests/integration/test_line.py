"""The line of tenants on the real Postgres: who comes in, who is taken, and what stays when a turn ends badly.

What is not here: crews that work on tenants (`test_crew.py`).
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.pictures import photo
from tests.waiting_tenants import POST, Waiters, open_waiters
from vision_assets.clients.picture_folder import PictureFolder
from vision_assets.clients.postgres.posts import PostgresPosts
from vision_assets.core.importing import import_posts
from vision_assets.core.tenants import TenantId
from vision_assets.core.turns import LEASE, NO_POST, Taken, Turn

RUN, OTHER = "run-1", "run-2"
REST = timedelta(minutes=5)


@pytest.fixture
async def waiters(database: str) -> AsyncIterator[Waiters]:
    """An empty line."""
    async with open_waiters(database) as opened:
        yield opened


async def claimed(waiters: Waiters, run_id: str = RUN) -> Turn:
    """Take the next tenant, who must be there."""
    turn = await waiters.line.claim(run_id, lease=LEASE)
    assert turn is not None
    return turn


async def nobody(waiters: Waiters) -> bool:
    """Whether there is nobody to be taken."""
    return await waiters.line.claim(OTHER, lease=LEASE) is None


# ---- Who comes in line ----


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE posts SET text = 'another' WHERE tenant_id = $1",
        "UPDATE posts SET grouped_id = 7 WHERE tenant_id = $1",
        "DELETE FROM posts WHERE tenant_id = $1",
        "DELETE FROM post_media WHERE tenant_id = $1",
        "DELETE FROM channels WHERE tenant_id = $1",
        "UPDATE channels SET title = 'Other news' WHERE tenant_id = $1",
        "UPDATE channels SET username = 'news' WHERE tenant_id = $1",
        "UPDATE post_media SET source_uri = 'file:///2.jpg' WHERE tenant_id = $1",
        """INSERT INTO post_media (post_id, position, tenant_id, message_id, role, source_uri, state)
           SELECT id, 1, tenant_id, 2, 'photo', 'file:///2.jpg', 'missing' FROM posts WHERE tenant_id = $1""",
        """UPDATE posts SET text = text || (SELECT count(*) FROM tenants)::text WHERE tenant_id = $1""",
    ],
)
async def test_a_change_by_anybody_brings_its_tenant_in_line(waiters: Waiters, statement: str) -> None:
    """One change a statement, of the tenant that it concerns alone."""
    tenant, other = await waiters.tenants(2)
    await waiters.show(tenant)
    await waiters.show(other)
    await waiters.forget()
    await waiters.run(statement, tenant)
    assert await waiters.changes() == {tenant: 1}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE posts SET engagement = '{\"views\": 7}' WHERE tenant_id = $1",
        "UPDATE posts SET text = text WHERE tenant_id = $1",
        "UPDATE posts SET text = 'another' WHERE tenant_id = $1 AND message_id < 0",
        "UPDATE post_media SET state = 'stored', sha256 = repeat('0', 64) WHERE tenant_id = $1",
        "UPDATE post_media SET state = 'missing', reason = 'missing' WHERE tenant_id = $1",
        "UPDATE channels SET title = title WHERE tenant_id = $1",
        "UPDATE tenants SET settings = '{\"vision\": {}}' WHERE id = $1",
    ],
)
async def test_what_changes_nothing_to_do_brings_nobody_in_line(waiters: Waiters, statement: str) -> None:
    """Neither figures of a post, nor what becomes of its pictures."""
    [tenant] = await waiters.tenants(1)
    await waiters.show(tenant)
    await waiters.forget()
    await waiters.run(statement, tenant)
    assert await waiters.changes() == {}


@pytest.mark.parametrize(
    ("statement", "since"),
    [
        ("UPDATE posts SET text = 'another' WHERE id = $1", "second"),
        ("UPDATE posts SET text = id::text WHERE id = $1 OR message_id > 0", "first"),
        ("UPDATE post_media SET source_uri = 'file:///2.jpg' WHERE post_id = $1", "second"),
        ("DELETE FROM post_media WHERE post_id = $1", "second"),
        (
            """INSERT INTO post_media (post_id, position, tenant_id, message_id, role, source_uri, state)
               SELECT id, 1, tenant_id, 2, 'photo', 'file:///2.jpg', 'pending' FROM posts WHERE id = $1""",
            "second",
        ),
        ("DELETE FROM posts WHERE id = $1", "none"),
        ("UPDATE channels SET title = 'Other news' FROM posts WHERE posts.id = $1", "any"),
    ],
)
async def test_a_change_says_which_post_is_the_first_that_is_concerned(
    waiters: Waiters, statement: str, since: str
) -> None:
    """So that no turn has to look at all that a tenant ever had."""
    [tenant] = await waiters.tenants(1)
    first, second, _ = [await waiters.seq(await waiters.show(tenant)) for _ in range(3)]
    await waiters.line.end(await claimed(waiters))
    await waiters.run(statement, await waiters.database.pool.fetchval("SELECT id FROM posts WHERE seq = $1", second))
    expected = {"first": first, "second": second, "none": NO_POST, "any": 0}[since]
    assert (await claimed(waiters)).since == expected


async def test_a_turn_begins_with_the_first_post_of_all_its_changes(waiters: Waiters) -> None:
    """With any, when a turn before it broke off or failed; what is left of one that went well begins where it says."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    await waiters.line.end(await claimed(waiters))
    first, _ = [await waiters.seq(await waiters.post(tenant)) for _ in range(2)]
    turn = await claimed(waiters)
    assert turn.since == first
    await waiters.line.end(turn, more_since=first + 1)
    turn = await claimed(waiters)
    assert turn.since == first + 1
    await waiters.line.give_back(turn)
    turn = await claimed(waiters)
    assert turn.since == 0
    await waiters.line.end_failed(turn, "down", rest=timedelta(), progressed=True)
    turn = await claimed(waiters)
    assert turn.since == 0
    await waiters.line.end(turn)
    last = await waiters.seq(await waiters.post(tenant))
    assert (await claimed(waiters)).since == last


async def test_once_a_day_a_turn_begins_with_the_first_post_of_all(waiters: Waiters) -> None:
    """And the next ones, until one of them has come to the end."""
    [tenant] = await waiters.tenants(1)

    async def since(*, more_since: int | None) -> int:
        await waiters.post(tenant)
        turn = await claimed(waiters)
        await waiters.line.end(turn, more_since=more_since)
        return turn.since

    assert await since(more_since=7) == 0
    assert await since(more_since=None) == 0
    assert await since(more_since=None) > 0
    await waiters.run("UPDATE tenant_turns SET swept_at = swept_at - interval '1 day'")
    assert await since(more_since=None) == 0


async def test_a_reference_that_is_to_do_again_brings_its_tenant_in_line(waiters: Waiters) -> None:
    """As when the object of a picture is lost."""
    [tenant] = await waiters.tenants(1)
    await waiters.show(tenant)
    await waiters.run("UPDATE post_media SET state = 'stored', sha256 = repeat('0', 64)")
    await waiters.forget()
    await waiters.run("UPDATE post_media SET state = 'pending', sha256 = NULL")
    assert await waiters.changes() == {tenant: 1}


async def test_one_statement_for_many_tenants(waiters: Waiters) -> None:
    """A bulk load of posts of several tenants is one change of each."""
    tenants = await waiters.tenants(3)
    async with waiters.database.pool.acquire() as connection:
        channels = {row["tenant_id"]: row["id"] for row in await connection.fetch("SELECT id, tenant_id FROM channels")}
        await connection.copy_records_to_table(
            "posts",
            columns=("id", "tenant_id", "channel_id", "message_id", "posted_at"),
            records=[
                (uuid4(), tenant, channels[tenant], number, datetime.now(UTC))
                for number in range(50)
                for tenant in tenants
            ],
        )
    assert await waiters.changes() == dict.fromkeys(tenants, 1)


async def test_a_large_update_is_told_from_one_that_changes_nothing(waiters: Waiters) -> None:
    """After statements of one row, one of many rows takes no longer than its rows need, and is seen as what it is."""
    [tenant] = await waiters.tenants(1)
    await waiters.run(
        """INSERT INTO posts (id, tenant_id, channel_id, message_id, posted_at)
           SELECT gen_random_uuid(), tenant_id, id, n, now() FROM channels, generate_series(1, 30000) n"""
    )
    async with waiters.database.pool.acquire() as connection:
        for message in range(1, 8):
            await connection.execute("UPDATE posts SET text = 'a' WHERE message_id = $1", message)
        await waiters.forget()
        await connection.execute("UPDATE posts SET engagement = '{\"views\": 7}'")
        assert await waiters.changes() == {}
        await connection.execute("UPDATE posts SET text = 'b'")
    assert await waiters.changes() == {tenant: 1}


async def test_an_import_brings_its_tenant_in_line_and_a_repeated_one_does_not(
    waiters: Waiters, tmp_path: Path
) -> None:
    """What is already there is no change."""
    photo(64, 48).save(tmp_path / "1.jpg")
    [tenant] = await waiters.tenants(1)
    source = PictureFolder(tmp_path)
    await import_posts(tenant, source, store=PostgresPosts(waiters.database))
    assert set(await waiters.changes()) == {tenant}
    await waiters.forget()
    await import_posts(tenant, source, store=PostgresPosts(waiters.database))
    assert await waiters.changes() == {}


async def test_a_tenant_that_is_deleted_leaves_nothing(waiters: Waiters) -> None:
    """Its posts go with it, and are no change of anybody."""
    tenant, other = await waiters.tenants(2)
    await waiters.show(tenant)
    await waiters.show(other)
    assert (await claimed(waiters)).tenant.id == tenant
    await waiters.run("DELETE FROM tenants WHERE id = $1", tenant)
    assert set(await waiters.changes()) == {other}
    assert await waiters.line.taken() == []


# ---- Who is taken ----


async def test_who_waits_longest_is_taken_first(waiters: Waiters) -> None:
    """In the order of their oldest changes, however many others a tenant has had since."""
    first, second, third = await waiters.tenants(3)
    for tenant in (first, second, third, first, first):
        await waiters.post(tenant)
    assert [(await claimed(waiters)).tenant.id for _ in range(3)] == [first, second, third]
    assert await nobody(waiters)


async def test_two_runs_never_have_the_same_tenant(waiters: Waiters) -> None:
    """Of thirty tenants that eight runs ask for at once, each is taken once."""
    tenants = await waiters.tenants(30)
    for tenant in tenants:
        await waiters.post(tenant)

    async def take(run_id: str) -> list[TenantId]:
        taken = []
        while turn := await waiters.line.claim(run_id, lease=LEASE):
            taken.append(turn.tenant.id)
        return taken

    taken = await asyncio.gather(*(take(f"run-{number}") for number in range(8)))
    assert sorted(tenant for one in taken for tenant in one) == sorted(tenants)


async def test_a_turn_ends_what_it_has_seen(waiters: Waiters) -> None:
    """What changed in its course stays to do; the tenant is taken again, and then is done."""
    [tenant] = await waiters.tenants(1)
    await waiters.show(tenant)
    turn = await claimed(waiters)
    assert len(turn.change_ids) == 2
    await waiters.post(tenant)
    assert await nobody(waiters)
    assert await waiters.line.end(turn)
    assert await waiters.changes() == {tenant: 1}
    assert await waiters.line.end(await claimed(waiters))
    assert await waiters.changes() == {}
    assert await nobody(waiters)


async def test_a_change_that_is_committed_late_is_not_lost(waiters: Waiters) -> None:
    """One whose transaction began before the turn, and ended after it, brings the tenant in line again."""
    [tenant] = await waiters.tenants(1)
    async with waiters.database.pool.acquire() as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(POST, uuid4(), tenant, 1_000)
        await waiters.post(tenant)
        turn = await claimed(waiters)
        await waiters.line.end(turn)
        assert await nobody(waiters)
        await transaction.commit()
    late = await claimed(waiters)
    assert late.change_ids[0] < turn.change_ids[0]


async def test_who_has_more_to_do_goes_to_the_end_of_the_line(waiters: Waiters) -> None:
    """One change stands for all that it has seen, as old as they are."""
    large, small = await waiters.tenants(2)
    await waiters.show(large)
    turn = await claimed(waiters)
    before = await waiters.database.pool.fetchval("SELECT min(changed_at) FROM tenant_changes")
    await waiters.post(small)
    await waiters.line.end(turn, more_since=0)
    assert await waiters.changes() == {large: 1, small: 1}
    assert await waiters.database.pool.fetchval("SELECT min(changed_at) FROM tenant_changes") == before
    assert [(await claimed(waiters)).tenant.id for _ in range(2)] == [small, large]


async def test_a_tenant_that_is_not_active_waits_until_it_is(waiters: Waiters) -> None:
    """Its changes are kept."""
    [tenant] = await waiters.tenants(1)
    await waiters.run("UPDATE tenants SET active = false")
    await waiters.post(tenant)
    assert await nobody(waiters)
    assert await waiters.line.first_waiting() is None
    await waiters.run("UPDATE tenants SET active = true")
    assert (await claimed(waiters)).tenant.id == tenant


async def test_the_first_in_line_is_told_with_its_wait(waiters: Waiters) -> None:
    """By its oldest change; those who are taken are not meant."""
    assert await waiters.line.first_waiting() is None
    first, second = await waiters.tenants(2)
    await waiters.post(first)
    await waiters.run("UPDATE tenant_changes SET changed_at = changed_at - interval '1 minute'")
    await waiters.post(second)
    waiting = await waiters.line.first_waiting()
    assert waiting is not None
    assert 60 <= waiting.seconds < 120
    turn = await claimed(waiters)
    assert waiting.change_id == turn.change_ids[0]
    second_waiting = await waiters.line.first_waiting()
    assert second_waiting is not None
    assert second_waiting.change_id > waiting.change_id


async def test_who_goes_to_the_end_of_the_line_waits_from_then_on(waiters: Waiters) -> None:
    """However old its changes are: it has just had its turn, or its rest, and a further run would be for nobody."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    await waiters.run("UPDATE tenant_changes SET changed_at = changed_at - interval '1 hour'")
    await waiters.line.end(await claimed(waiters), more_since=0)
    waiting = await waiters.line.first_waiting()
    assert waiting is not None
    assert waiting.seconds < 60


# ---- Turns that end badly ----


async def test_a_tenant_that_fails_rests_and_keeps_nobody_waiting(waiters: Waiters) -> None:
    """Its changes stay as one; after the rest it is taken again, and is told how often it has failed."""
    broken, other = await waiters.tenants(2)
    await waiters.show(broken)
    await waiters.post(other)
    turn = await claimed(waiters)
    assert (turn.tenant.id, turn.attempts) == (broken, 1)
    assert await waiters.line.end_failed(turn, "S3 is \x00down", rest=REST)
    assert await waiters.changes() == {broken: 1, other: 1}
    next_one = await claimed(waiters)
    assert next_one.tenant.id == other
    await waiters.line.end(next_one)
    await waiters.post(broken)
    assert await nobody(waiters)
    assert await waiters.line.first_waiting() is None
    await waiters.let_pass(REST.total_seconds())
    again = await claimed(waiters)
    assert (again.tenant.id, again.attempts, len(again.change_ids)) == (broken, 2, 2)
    await waiters.line.end(again)
    await waiters.post(broken)
    assert (await claimed(waiters)).attempts == 1


async def test_attempts_count_anew_when_something_was_done(waiters: Waiters) -> None:
    """A turn that failed in parts is the first of those in which nothing was done, however many were before."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    attempts = []
    for progressed in (False, False, True, False):
        turn = await claimed(waiters)
        attempts.append(turn.attempts)
        await waiters.line.end_failed(turn, "down", rest=timedelta(), progressed=progressed)
    assert attempts == [1, 2, 3, 2]


async def test_new_settings_end_the_rest(waiters: Waiters) -> None:
    """A tenant whose policy was wrong is taken as soon as it is put right; any other write lets it rest."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    await waiters.line.end_failed(await claimed(waiters), "no such key", rest=REST)
    await waiters.run("UPDATE tenants SET name = 'Renamed', settings = settings")
    assert await nobody(waiters)
    await waiters.run("UPDATE tenants SET settings = '{\"vision\": {}}'")
    assert (await claimed(waiters)).tenant.id == tenant


async def test_new_settings_end_no_turn(waiters: Waiters) -> None:
    """While a run has the tenant, no other gets it."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    await claimed(waiters)
    await waiters.run("UPDATE tenants SET settings = '{\"vision\": {}}'")
    assert await nobody(waiters)


async def test_what_a_dead_run_had_is_taken_by_another_after_the_lease(waiters: Waiters) -> None:
    """With all that it had seen; should the first one live after all, it ends nothing."""
    [tenant] = await waiters.tenants(1)
    await waiters.show(tenant)
    dead = await claimed(waiters)
    await waiters.let_pass(LEASE.total_seconds() - 1)
    assert await nobody(waiters)
    await waiters.let_pass(1)
    heir = await claimed(waiters, OTHER)
    assert (heir.tenant.id, heir.attempts, heir.change_ids) == (tenant, 2, dead.change_ids)
    assert not await waiters.line.end(dead)
    assert not await waiters.line.end_failed(dead, "late", rest=REST)
    await waiters.line.give_back(dead)
    assert [turn.run_id for turn in await waiters.line.taken()] == [OTHER]
    assert await waiters.line.end(heir)
    assert await waiters.changes() == {}


async def test_a_later_turn_of_the_same_run_is_another_one(waiters: Waiters) -> None:
    """A run that was held up beyond its lease and takes the tenant again ends the new turn alone."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    first = await claimed(waiters)
    await waiters.let_pass(LEASE.total_seconds())
    second = await claimed(waiters)
    assert not await waiters.line.end(first)
    assert await waiters.line.end(second)


async def test_a_sign_of_life_prolongs_the_lease(waiters: Waiters) -> None:
    """Of the turns that the run still has, and of no others."""
    first, second = await waiters.tenants(2)
    await waiters.post(first)
    await waiters.post(second)
    turns = [await claimed(waiters) for _ in range(2)]
    await waiters.line.end_failed(turns[1], "down", rest=REST)
    await waiters.let_pass(LEASE.total_seconds() - 1)
    await waiters.line.prolong(RUN, turns, lease=LEASE)
    await waiters.let_pass(LEASE.total_seconds() - 1)
    assert await nobody(waiters)
    await waiters.let_pass(REST.total_seconds())
    assert {(await claimed(waiters, OTHER)).tenant.id for _ in range(2)} == {first, second}


async def test_a_turn_that_was_broken_off_keeps_what_it_has_seen(waiters: Waiters) -> None:
    """The tenant is taken at once; what the turn did before was told to nobody, so it counts as an attempt."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    turn = await claimed(waiters)
    await waiters.line.give_back(turn)
    again = await claimed(waiters, OTHER)
    assert (again.change_ids, again.attempts) == (turn.change_ids, 2)


async def test_turns_of_ended_runs_are_taken_back(waiters: Waiters) -> None:
    """Their tenants rest, as they may have been what the run died of; those of other runs stay."""
    first, second = await waiters.tenants(2)
    await waiters.post(first)
    await waiters.post(second)
    await claimed(waiters)
    await claimed(waiters, OTHER)
    assert set(await waiters.line.taken()) == {Taken(first, RUN, 1), Taken(second, OTHER, 1)}
    await waiters.line.take_back({Taken(first, RUN, 1): timedelta(seconds=10), Taken(second, RUN, 1): timedelta()})
    assert await waiters.line.taken() == [Taken(second, OTHER, 1)]
    assert await nobody(waiters)
    await waiters.let_pass(10)
    again = await claimed(waiters)
    assert (again.tenant.id, again.attempts) == (first, 2)


# ---- Pictures that waited ----

OBJECT = """
INSERT INTO media_objects (tenant_id, sha256, mime, bytes, width, height, s3_key, first_post_seq, first_position)
VALUES ($1, repeat('0', 64), 'image/png', 9, 1, 1, $1::uuid::text, 1, 0)
"""
DEFER = """
INSERT INTO vision_decisions (tenant_id, sha256, provider, model, verdict, reason, message, rules, due_at)
VALUES ($1, repeat('0', 64), 'gigachat', 'Max', 'defer', 'daily_limit', 'over budget', 'rules', $2)
"""


async def deferred(waiters: Waiters, name: str, due_at: datetime) -> TenantId:
    """A tenant with a picture that waits until then."""
    tenant = await waiters.tenant(name)
    await waiters.run(OBJECT, tenant)
    await waiters.run(DEFER, tenant, due_at)
    return tenant


async def test_who_has_pictures_that_are_due_comes_in_line_once(waiters: Waiters) -> None:
    """Not before, not if it is not active, and not twice."""
    now = datetime.now(UTC)
    due = await deferred(waiters, "due", now)
    await deferred(waiters, "later", now + timedelta(seconds=1))
    inactive = await deferred(waiters, "inactive", now)
    await waiters.run("UPDATE tenants SET active = false WHERE id = $1", inactive)
    for _ in range(2):
        await waiters.line.add_due(now)
        assert await waiters.changes() == {due: 1}
    turn = await claimed(waiters)
    await waiters.line.end_failed(turn, "down", rest=REST)
    await waiters.forget()
    await waiters.line.add_due(now)
    assert await waiters.changes() == {}


async def test_a_due_picture_that_a_turn_has_left_comes_again_after_an_hour(waiters: Waiters) -> None:
    """Lest a picture that no turn can settle starts one after the other."""
    now = datetime.now(UTC)
    due = await deferred(waiters, "due", now)
    await waiters.line.add_due(now)
    await waiters.line.end(await claimed(waiters))
    later = datetime.now(UTC)
    await waiters.line.add_due(later + timedelta(minutes=59))
    assert await waiters.changes() == {}
    await waiters.line.add_due(later + timedelta(minutes=61))
    assert await waiters.changes() == {due: 1}
