"""The job `new_posts` through Dagster, on the real parts: many tenants in one run, each in its own partition."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import pytest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from tests.pictures import photo
from tests.world import World, open_world
from vision_assets.clients.postgres.turns import PostgresLine
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.errors import ConfigurationError, StorageUnavailable
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.tenants import Tenant
from vision_assets.core.turns import STUCK_AFTER
from vision_assets.definitions import build_defs
from vision_assets.defs.new_posts import NEW_POSTS
from vision_assets.defs.partitions import TENANTS
from vision_assets.resources import (
    MediaSourceResource,
    NewPostsResource,
    PostgresResource,
    QdrantResource,
    S3Resource,
    VisionPolicyResource,
)
from vision_assets.settings import Settings

ASSETS = {"media_objects", "phash_index", "vision_results", "post_enrichment", "qdrant_collection"}
CHECKED = dg.DagsterEventType.ASSET_CHECK_EVALUATION
POSTS = """
INSERT INTO posts (id, tenant_id, channel_id, message_id, posted_at, text)
SELECT gen_random_uuid(), tenant_id, id, 1000 + number, now(), 'words'
FROM channels, generate_series(1, $2) number WHERE tenant_id = $1
"""
CHANGE = "INSERT INTO tenant_changes (tenant_id) VALUES ($1)"
CHANGE_OF_NONE = "INSERT INTO tenant_changes (tenant_id, since) VALUES ($1, 2 ^ 62)"
OF_BEFORE = "SELECT count(*) FROM post_enrichment WHERE params_hash = 'of before'"
TO_DO = "SELECT tenant_id FROM tenant_changes"
RESULTS = "SELECT tenant_id, count(*) FROM vision_results GROUP BY 1"
INDEXED = "SELECT tenant_id, count(*) FROM search_index GROUP BY 1"


class Unreadable(S3Bucket):
    """A bucket that gives no picture."""

    async def get(self, key: str) -> bytes | None:
        """Read, or fail for now."""
        if key.startswith("media/"):
            raise StorageUnavailable(f"{key} cannot be read")
        return await S3Bucket.get(self, key)


class UnreadableS3(S3Resource):
    """The bucket, as above."""

    def connect(self) -> S3Bucket:
        """Give it."""
        return Unreadable(super().connect().store)


@dataclass(frozen=True, slots=True)
class Closed(S3Bucket):
    """A bucket that takes no result."""

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Put, or fail for now."""
        if key.startswith("vision/"):
            raise StorageUnavailable(f"{key} cannot be written")
        await S3Bucket.put(self, key, body, mime=mime, encoding=encoding)


class ClosedS3(S3Resource):
    """The bucket, as above."""

    def connect(self) -> S3Bucket:
        """Give it."""
        return Closed(super().connect().store)


@dataclass(frozen=True, slots=True)
class Breaking(S3Bucket):
    """A bucket that takes two results, and then none."""

    _results: "count[int]" = field(default_factory=count)

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Put, or fail for good."""
        if key.startswith("vision/") and next(self._results) >= 2:
            raise ConfigurationError(f"{key} is denied")
        await S3Bucket.put(self, key, body, mime=mime, encoding=encoding)


class BreakingS3(S3Resource):
    """The bucket, as above."""

    def connect(self) -> S3Bucket:
        """Give it."""
        return Breaking(super().connect().store)


class FaultyPolicy(VisionPolicyResource):
    """Has a fault in its code."""

    def policy(self, tenant: Tenant) -> VisionPolicy:
        """Fail."""
        raise ZeroDivisionError("a fault")


class Stage:
    """Tenants with pictures, and runs of the job over them."""

    def __init__(self, parts: Settings, database: str, bucket: str, folder: Path) -> None:
        self.parts, self.database, self.bucket, self.folder = parts, database, bucket, folder
        self.seeds = count(1)

    def within(self, act: Callable[[World], Any]) -> Any:
        """Do something in the world, in a loop of its own."""

        async def done() -> Any:
            async with open_world(self.database, self.bucket, self.parts) as world:
                return await act(world)

        return asyncio.run(done())

    def tenant(self, name: str, *, pictures: int) -> Tenant:
        """A tenant with so many new pictures, a post each."""
        source = self.folder / name
        source.mkdir()
        for number in range(pictures):
            photo(96, 64, seed=next(self.seeds)).save(source / f"{number}.jpg")

        async def load(world: World) -> Tenant:
            tenant = await world.tenant(name)
            await world.load(tenant, source)
            return tenant

        made: Tenant = self.within(load)
        return made

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement and give its rows."""

        async def run(world: World) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await world.database.pool.fetch(statement, *values)]

        rows: list[tuple[Any, ...]] = self.within(run)
        return rows

    def run(
        self,
        instance: dg.DagsterInstance,
        *,
        s3: type[S3Resource] = S3Resource,
        others: Mapping[str, Any] | None = None,
        **limits: Any,
    ) -> dg.ExecuteInProcessResult:
        """Run the job until nobody waits.

        Args:
            others: Resources in the place of its own.
        """
        assert self.parts.aws_access_key_id is not None
        assert self.parts.aws_secret_access_key is not None
        assert self.parts.qdrant_url is not None
        defs = build_defs(
            resources={
                "postgres": PostgresResource(database_url=self.database),
                "qdrant": QdrantResource(url=self.parts.qdrant_url),
                "s3": s3(
                    bucket=self.bucket,
                    endpoint_url=self.parts.s3_endpoint_url,
                    access_key_id=self.parts.aws_access_key_id.get_secret_value(),
                    secret_access_key=self.parts.aws_secret_access_key.get_secret_value(),
                ),
                "media_source": MediaSourceResource(),
                "new_posts_limits": NewPostsResource(idle_seconds=0, **limits),
                **(others or {}),
            }
        )
        return defs.resolve_job_def(NEW_POSTS).execute_in_process(instance=instance, raise_on_error=False)


@pytest.fixture
def stage(parts: Settings, database: str, bucket: str, tmp_path: Path) -> Stage:
    """Nobody yet."""
    return Stage(parts, database, bucket, tmp_path)


def made(result: dg.ExecuteInProcessResult) -> Counter[tuple[str, str | None]]:
    """Which assets were materialized for which partitions."""
    return Counter(
        (event.asset_key.to_user_string(), event.partition)
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key
    )


def test_a_run_that_is_cancelled_ends(stage: Stage) -> None:
    """Dagster interrupts a step by an exception out of a signal handler, which must reach the run through its loop."""
    began = time.monotonic()
    signalling = threading.Timer(5, os.kill, (os.getpid(), signal.SIGINT))
    with dg.DagsterInstance.ephemeral() as instance:
        signalling.start()
        try:
            result = stage.run(instance, others={"new_posts_limits": NewPostsResource(idle_seconds=60)})
        finally:
            signalling.cancel()
    assert not result.success
    assert 5 <= time.monotonic() - began < 30


def test_one_run_takes_many_tenants_through_the_chain(stage: Stage) -> None:
    """Each asset of each tenant is materialized in its partition, with its check; then nothing is left to do."""
    tenants = [stage.tenant(name, pictures=2) for name in ("one", "two", "three")]
    with dg.DagsterInstance.ephemeral() as instance:
        result = stage.run(instance)
        assert result.success
        assert made(result) == {(asset, str(tenant.id)): 1 for asset in ASSETS for tenant in tenants}
        checks = [event.asset_check_evaluation_data for event in result.all_events if event.event_type == CHECKED]
        assert {(check.check_name, check.partition) for check in checks} == {
            ("reuse_agreement", str(tenant.id)) for tenant in tenants
        }
        counts = {tenant.id: 2 for tenant in tenants}
        assert dict(stage.execute(RESULTS)) == dict(stage.execute(INDEXED)) == counts
        assert stage.execute(TO_DO) == []
        assert made(stage.run(instance)) == {}


def test_only_what_changed_is_told(stage: Stage) -> None:
    """A post without a picture is found in the search, and its tenant's pictures are no news; nor are other tenants."""
    tenant, _ = stage.tenant("one", pictures=1), stage.tenant("two", pictures=1)
    with dg.DagsterInstance.ephemeral() as instance:
        stage.run(instance)
        stage.execute(POSTS, tenant.id, 1)
        assert made(stage.run(instance)) == {("qdrant_collection", str(tenant.id)): 1}
    assert dict(stage.execute(INDEXED))[tenant.id] == 2


def test_posts_of_before_are_not_looked_at_again(stage: Stage) -> None:
    """A turn takes what has changed, and what shows the pictures that it did; after one that broke off, everything."""
    tenant = stage.tenant("one", pictures=2)
    with dg.DagsterInstance.ephemeral() as instance:
        stage.run(instance)
        stage.execute("UPDATE post_enrichment SET params_hash = 'of before'")
        stage.execute(POSTS, tenant.id, 1)
        assert set(made(stage.run(instance))) == {("qdrant_collection", str(tenant.id))}
        assert stage.execute(OF_BEFORE) == [(2,)]
        # As after a reuse that was denied: one of the pictures has no result any more.
        stage.execute("DELETE FROM vision_results WHERE sha256 = (SELECT max(sha256) FROM vision_results)")
        first_seq = "SELECT p.seq FROM posts p JOIN post_media m ON m.post_id = p.id ORDER BY m.sha256 DESC LIMIT 1"
        [(lost,)], [(first,)] = stage.execute(first_seq), stage.execute("SELECT min(seq) FROM posts")
        stage.execute("UPDATE posts SET text = 'other words' WHERE seq = (SELECT max(seq) FROM posts)")
        assert {"vision_results", "post_enrichment"} < {asset for asset, _ in made(stage.run(instance))}
        assert stage.execute(OF_BEFORE) == [(0 if lost == first else 1,)]
        stage.execute("UPDATE post_enrichment SET params_hash = 'of before'")
        stage.execute(CHANGE_OF_NONE, tenant.id)
        stage.within(lambda world: PostgresLine(world.database).claim("killed", lease=timedelta()))
        stage.run(instance)
        assert stage.execute(OF_BEFORE) == [(0,)]


def test_a_broken_tenant_fails_alone(stage: Stage) -> None:
    """Its pictures wait, their partition is red, and its words are found; the others go well, and so does it later."""
    broken, well = stage.tenant("broken", pictures=1), stage.tenant("well", pictures=1)
    stage.execute(POSTS, broken.id, 1)
    stage.execute('UPDATE tenants SET settings = \'{"vision": {"no_such_key": 1}}\' WHERE id = $1', broken.id)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(TENANTS.name), [str(broken.id), str(well.id)])
        result = stage.run(instance)
        assert not result.success
        [failure] = result.get_step_failure_events()
        told = failure.step_failure_data.user_failure_data
        assert told is not None
        assert "1 of 2 tenants failed for good" in str(told.description)
        assert told.metadata["failed_partitions"].value == [str(broken.id)]
        assert str(broken.id) in str(told.description)
        assert "no_such_key" in str(told.description)
        assert {asset for asset, partition in made(result) if partition == str(well.id)} == ASSETS
        assert {asset for asset, partition in made(result) if partition == str(broken.id)} == {
            "media_objects",
            "phash_index",
            "qdrant_collection",
        }
        assert failed(instance) == {"vision_results": {str(broken.id)}, "post_enrichment": {str(broken.id)}}
        assert stage.execute(TO_DO) == [(broken.id,)]
        stage.execute("UPDATE tenants SET settings = '{}' WHERE id = $1", broken.id)
        assert ("vision_results", str(broken.id)) in made(stage.run(instance))
        assert failed(instance) == {}
    assert stage.execute(TO_DO) == []


def test_a_tenant_that_is_mended_is_green_though_nothing_is_left_to_do(stage: Stage) -> None:
    """What was red is told by the first turn that goes well; later ones tell again of what has changed alone."""
    tenant = stage.tenant("one", pictures=1)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id)])
        stage.run(instance)
        stage.execute(POSTS, tenant.id, 1)
        stage.execute('UPDATE tenants SET settings = \'{"vision": {"no_such_key": 1}}\'')
        stage.run(instance)
        assert set(failed(instance)) == {"vision_results", "post_enrichment"}
        stage.execute("UPDATE tenants SET settings = '{}'")
        assert made(stage.run(instance)) == {(asset, str(tenant.id)): 1 for asset in ASSETS}
        assert failed(instance) == {}
        stage.execute(CHANGE, tenant.id)
        assert made(stage.run(instance)) == {}


def test_what_a_killed_run_may_not_have_told_is_told_by_the_next(stage: Stage) -> None:
    """It may have done everything, and ended before anybody heard of it."""
    tenant = stage.tenant("one", pictures=1)
    with dg.DagsterInstance.ephemeral() as instance:
        stage.run(instance)
        stage.execute(CHANGE, tenant.id)
        stage.within(lambda world: PostgresLine(world.database).claim("killed", lease=timedelta()))
        assert made(stage.run(instance)) == {(asset, str(tenant.id)): 1 for asset in ASSETS}


def test_what_went_well_is_told_before_what_is_red(stage: Stage) -> None:
    """A later turn of the same run fails for good: what is told last of the asset is that."""
    tenant = stage.tenant("one", pictures=3)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id)])
        result = stage.run(instance, s3=BreakingS3, pictures_a_turn=1)
        assert not result.success
        assert set(failed(instance)) == {"vision_results"}
    assert told(result, "vision_results", "analyses") == [(tenant.id, 1), (tenant.id, 1)]


def test_a_fault_of_the_code_stops_no_later_stage(stage: Stage) -> None:
    """It is told like a wrong setting: the partition is red, and the run fails."""
    tenant = stage.tenant("one", pictures=1)
    stage.execute(POSTS, tenant.id, 1)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id)])
        result = stage.run(instance, others={"vision_policy": FaultyPolicy()})
        assert not result.success
        assert set(failed(instance)) == {"vision_results", "post_enrichment"}
        assert ("qdrant_collection", str(tenant.id)) in made(result)


def test_people_hear_of_a_tenant_of_which_nothing_is_done_for_many_turns(stage: Stage) -> None:
    """Each failure alone may pass; when it does not, what fails is red."""
    tenant = stage.tenant("one", pictures=1)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id)])
        assert stage.run(instance, s3=ClosedS3).success
        assert failed(instance) == {}
        stage.execute("UPDATE tenant_turns SET free_at = now(), attempts = $1", STUCK_AFTER - 1)
        assert not stage.run(instance, s3=ClosedS3).success
        assert failed(instance) == {"vision_results": {str(tenant.id)}}
        stage.execute("UPDATE tenant_turns SET free_at = now()")
        assert stage.run(instance).success
        assert failed(instance) == {}


def failed(instance: dg.DagsterInstance) -> dict[str, set[str]]:
    """The partitions that the UI shows in red, by asset."""
    found = {}
    for asset in ASSETS:
        status = get_and_update_asset_status_cache_value(instance, dg.AssetKey(asset), TENANTS)
        if status is None:  # nothing was ever told of it
            continue
        found[asset] = set(status.deserialize_failed_partition_subsets(TENANTS).get_partition_keys())
    return {asset: partitions for asset, partitions in found.items() if partitions}


def test_what_a_turn_has_stored_it_does_not_fetch(stage: Stage) -> None:
    """The stages share the bytes, so a bucket that cannot be read is no hindrance."""
    tenant = stage.tenant("one", pictures=3)
    with dg.DagsterInstance.ephemeral() as instance:
        assert stage.run(instance, s3=UnreadableS3).success
    assert dict(stage.execute(RESULTS)) == {tenant.id: 3}


def test_a_large_tenant_takes_several_turns(stage: Stage) -> None:
    """With a share of two pictures a turn, five take three; nothing is left behind."""
    large, small = stage.tenant("large", pictures=5), stage.tenant("small", pictures=1)
    with dg.DagsterInstance.ephemeral() as instance:
        result = stage.run(instance, pictures_a_turn=2, tenants_at_once=1)
    assert turns(result) == 4
    assert told(result, "vision_results", "analyses") == [(large.id, 2), (small.id, 1), (large.id, 3)]
    assert dict(stage.execute(RESULTS)) == {large.id: 5, small.id: 1}
    assert stage.execute(TO_DO) == []


def test_a_large_import_of_texts_takes_several_turns(stage: Stage) -> None:
    """With a share of two posts a turn, five take three; whoever comes meanwhile is before the rest."""
    large, small = stage.tenant("large", pictures=1), stage.tenant("small", pictures=1)
    with dg.DagsterInstance.ephemeral() as instance:
        stage.run(instance)
        stage.execute(POSTS, large.id, 5)
        stage.execute(POSTS, small.id, 1)
        result = stage.run(instance, posts_a_turn=2, tenants_at_once=1)
    assert turns(result) == 4
    assert told(result, "qdrant_collection", "upserted") == [(large.id, 2), (small.id, 1), (large.id, 3)]
    assert dict(stage.execute(INDEXED)) == {large.id: 6, small.id: 2}
    assert stage.execute(TO_DO) == []


def turns(result: dg.ExecuteInProcessResult) -> int:
    """How many turns a run took."""
    [output] = [event for event in result.all_events if event.is_successful_output]
    number = output.step_output_data.metadata["turns"].value
    assert isinstance(number, int)
    return number


def told(result: dg.ExecuteInProcessResult, asset: str, figure: str) -> list[tuple[UUID, object]]:
    """A figure of an asset's materializations, in their order: a tenant's first turn is told at once, others later."""
    return [
        (UUID(event.partition), event.materialization.metadata[figure].value)
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION
        and event.asset_key == dg.AssetKey(asset)
        and event.partition
    ]


def test_files_that_are_missing_are_not_looked_for_in_each_turn(stage: Stage) -> None:
    """Although they come first, they keep no new picture of a small share waiting."""
    tenant = stage.tenant("one", pictures=3)
    for path in (stage.folder / "one").glob("*.jpg"):
        path.rename(path.with_suffix(".away"))
    with dg.DagsterInstance.ephemeral() as instance:
        stage.run(instance, pictures_a_turn=2)
        assert stage.execute("SELECT DISTINCT state FROM post_media") == [("missing",)]
        photo(96, 64, seed=next(stage.seeds)).save(stage.folder / "one" / "9.jpg")

        async def load(world: World) -> None:
            await world.load(tenant, stage.folder / "one")

        stage.within(load)
        stage.run(instance, pictures_a_turn=2)
    assert dict(stage.execute(RESULTS)) == {tenant.id: 1}


@pytest.mark.slow
def test_without_a_database_the_run_fails(stage: Stage) -> None:
    """Its step is not tried again: that would forget what it had told, and the sensor starts the next run."""
    stage.database = "postgresql://127.0.0.1:1/nowhere"
    with dg.DagsterInstance.ephemeral() as instance:
        result = stage.run(instance)
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
