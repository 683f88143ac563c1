"""The sensors that start runs for tenants with something to do, and that keep the partitions."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, TypeVar
from uuid import UUID

import dagster as dg
import pytest

from tests.waiting_tenants import Waiters, open_waiters
from vision_assets.core.tenants import TenantId
from vision_assets.core.turns import LEASE, PATIENCE_SECONDS, Turn
from vision_assets.defs.new_posts import NEW_POSTS
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.sensors import PartitionChanges, new_posts, partition_changes, tenant_partitions
from vision_assets.resources import NewPostsResource, PostgresResource

NOWHERE = "postgresql://127.0.0.1:1/nowhere"


@dg.job(name=NEW_POSTS)
def job_def() -> None:
    """Stands for the job: a run of that name."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance without runs."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


Result = TypeVar("Result")


class Within(Protocol):
    """Does something to the line, in a loop of its own."""

    def __call__(self, what: Callable[[Waiters], Awaitable[Result]]) -> Result: ...


@pytest.fixture
def within(database: str) -> Within:
    """Do something to the line."""

    def act(what: Callable[[Waiters], Awaitable[Result]]) -> Result:
        async def done() -> Result:
            async with open_waiters(database) as waiters:
                return await what(waiters)

        return asyncio.run(done())

    return act


def tick(instance: dg.DagsterInstance, database_url: str, *, runs: int = 2) -> dg.RunRequest | dg.SkipReason:
    """Let `new_posts` look once."""
    resources = {
        "postgres": PostgresResource(database_url=database_url),
        "new_posts_limits": NewPostsResource(runs=runs),
    }
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        found = new_posts(context)
    assert isinstance(found, dg.RunRequest | dg.SkipReason)
    return found


async def one_waits(waiters: Waiters) -> TenantId:
    """A tenant with a new post."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    return tenant


def test_a_run_is_started_when_somebody_waits(instance: dg.DagsterInstance, database: str, within: Within) -> None:
    """And none before; the same one within a minute, unless the line has moved on."""
    assert isinstance(tick(instance, database), dg.SkipReason)
    within(one_waits)
    keys = set()
    for _ in range(2):
        found = tick(instance, database)
        assert isinstance(found, dg.RunRequest)
        assert found.run_key
        keys.add(found.run_key.partition("/")[0])
    assert len(keys) == 1

    async def move_on(waiters: Waiters) -> None:
        turn = await waiters.line.claim("run", lease=LEASE)
        assert turn is not None
        await waiters.line.end(turn, more_since=0)

    within(move_on)
    found = tick(instance, database)
    assert isinstance(found, dg.RunRequest)
    assert found.run_key
    assert found.run_key.partition("/")[0] not in keys


def test_a_further_run_is_started_only_for_somebody_who_waits_in_vain(
    instance: dg.DagsterInstance, database: str, within: Within
) -> None:
    """Up to the limit; runs that have ended do not count."""
    within(one_waits)
    run = instance.create_run_for_job(job_def, status=dg.DagsterRunStatus.NOT_STARTED)
    assert isinstance(tick(instance, database), dg.SkipReason)

    async def wait(waiters: Waiters) -> None:
        await waiters.run("UPDATE tenant_changes SET changed_at = changed_at - $1 * interval '1 s'", PATIENCE_SECONDS)

    within(wait)
    assert isinstance(tick(instance, database), dg.RunRequest)
    assert isinstance(tick(instance, database, runs=1), dg.SkipReason)
    instance.report_run_failed(run)
    assert isinstance(tick(instance, database, runs=1), dg.RunRequest)


async def begun(waiters: Waiters, run: dg.DagsterRun, fate: str) -> Turn:
    """A turn of the run, or of one that Dagster does not know."""
    await one_waits(waiters)
    turn = await waiters.line.claim("no such run" if fate == "unknown" else run.run_id, lease=LEASE)
    assert turn is not None
    return turn


@pytest.mark.parametrize("fate", ["failed", "unknown", "at work"])
def test_turns_of_runs_that_have_ended_are_taken_back(
    instance: dg.DagsterInstance, database: str, within: Within, fate: str
) -> None:
    """Those of a run that is at work stay, as does what they have seen."""
    run = instance.create_run_for_job(job_def, status=dg.DagsterRunStatus.STARTED)

    within(lambda waiters: begun(waiters, run, fate))
    if fate == "failed":
        instance.report_run_failed(run)
    tick(instance, database)

    async def left(waiters: Waiters) -> tuple[int, int]:
        return len(await waiters.line.taken()), sum((await waiters.changes()).values())

    assert within(left) == (1 if fate == "at work" else 0, 1)


@pytest.mark.parametrize("fate", ["failed", "unknown", "at work"])
def test_what_a_run_that_has_ended_did_not_tell_is_to_be_told(
    instance: dg.DagsterInstance, database: str, within: Within, fate: str
) -> None:
    """Its tenants come in line once more, although their turns have ended well; a run that is at work tells itself."""
    run = instance.create_run_for_job(job_def, status=dg.DagsterRunStatus.STARTED)

    async def work(waiters: Waiters) -> None:
        turn = await begun(waiters, run, fate)
        await waiters.line.end(turn, is_told=False)

    within(work)
    if fate == "failed":
        instance.report_run_failed(run)
    for _ in range(2):
        tick(instance, database)

    async def taken(waiters: Waiters) -> list[bool]:
        turns = [await waiters.line.claim("heir", lease=LEASE) for _ in range(2)]
        return [turn.is_untold for turn in turns if turn is not None]

    assert within(taken) == ([] if fate == "at work" else [True])


def test_a_read_that_fails_starts_nothing(instance: dg.DagsterInstance) -> None:
    """Without a database the sensor says so, and asks for no run."""
    found = tick(instance, NOWHERE)
    assert isinstance(found, dg.SkipReason)
    assert "could not be read" in str(found.skip_message)


# ---- Partitions ----


def test_only_a_tenant_that_says_so_itself_loses_its_partition() -> None:
    """One without a row keeps it, and one that has become active again gets it back."""
    active, inactive, gone, new = (TenantId(UUID(int=number)) for number in range(4))
    partitions = {str(active), str(inactive), str(gone)}
    changes = partition_changes({active: True, inactive: False, new: True}, partitions)
    assert changes == PartitionChanges(new=[str(new)], gone=[str(inactive)])
    assert partition_changes({}, partitions) == PartitionChanges([], [])
    assert partition_changes({inactive: False}, set()) == PartitionChanges([], [])


def partitions_tick(instance: dg.DagsterInstance, database_url: str) -> dg.SensorResult | dg.SkipReason:
    """Let `tenant_partitions` look once."""
    resources = {"postgres": PostgresResource(database_url=database_url)}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        found = tenant_partitions(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def test_partitions_follow_the_tenants(instance: dg.DagsterInstance, database: str, within: Within) -> None:
    """New ones come, those of inactive tenants go, and then nothing is asked for."""

    async def make(waiters: Waiters) -> list[TenantId]:
        tenants = await waiters.tenants(3)
        await waiters.run("UPDATE tenants SET active = false WHERE id = $1", tenants[1])
        return tenants

    kept, inactive, new = within(make)
    instance.add_dynamic_partitions(str(TENANTS.name), [str(kept), str(inactive)])
    found = partitions_tick(instance, database)
    assert isinstance(found, dg.SensorResult)
    asked = {type(request): request.partition_keys for request in found.dynamic_partitions_requests or []}
    assert asked == {
        dg.AddDynamicPartitionsRequest: [str(new)],
        dg.DeleteDynamicPartitionsRequest: [str(inactive)],
    }
    instance.add_dynamic_partitions(str(TENANTS.name), [str(new)])
    instance.delete_dynamic_partition(str(TENANTS.name), str(inactive))
    assert isinstance(partitions_tick(instance, database), dg.SkipReason)


def test_a_read_that_fails_changes_no_partition(instance: dg.DagsterInstance) -> None:
    """That the tenants cannot be read does not mean that there are none."""
    instance.add_dynamic_partitions(str(TENANTS.name), [str(UUID(int=1))])
    found = partitions_tick(instance, NOWHERE)
    assert isinstance(found, dg.SkipReason)
    assert "nothing was changed" in str(found.skip_message)
