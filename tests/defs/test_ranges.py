"""Runs that take a range of tenants: each fails alone, and says so; and the limits that hold over all runs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._core.utils import make_new_run_id
from dagster._utils.tags import TagConcurrencyLimitsCounter

from tests.emulated_gigachat import emulated_gigachat
from tests.pictures import photo
from tests.world import World, open_world
from vision_assets.clients.postgres.posts import replace_policy
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.errors import StorageUnavailable
from vision_assets.core.tenants import Tenant
from vision_assets.definitions import build_defs
from vision_assets.defs.jobs import TENANT_PIPELINE, UPKEEP
from vision_assets.defs.media import MEDIA_OBJECTS, PHASH_INDEX
from vision_assets.defs.new_posts import NEW_POSTS
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.qdrant_collection import QDRANT_COLLECTION
from vision_assets.defs.schedules import RANGE_END, RANGE_START
from vision_assets.defs.steps import GIVE_UP_AFTER
from vision_assets.defs.vision_results import REUSE_AGREEMENT, VISION_RESULTS
from vision_assets.devstack.gigachat import BUSINESS
from vision_assets.resources import PostgresResource, QdrantResource, S3Resource, VisionProviderResource
from vision_assets.settings import PROJECT_ROOT, Settings

NAMES = ("One", "Two", "Three", "Four", "Five")
PICTURES = 2


@dataclass(frozen=True)
class FailingBucket(S3Bucket):
    """A bucket that does not give some objects; each of them as often as it is listed."""

    failing: list[str] = field(default_factory=list)

    async def get(self, key: str) -> bytes | None:
        """Fail for these, read others."""
        if key in self.failing:
            self.failing.remove(key)
            raise StorageUnavailable(f"{key} cannot be read")
        return await S3Bucket.get(self, key)


FAILING: list[str] = []
"""Keys of objects that cannot be read, each as often as it is listed."""


class FailingS3(S3Resource):
    """The bucket, as above."""

    def connect(self) -> S3Bucket:
        """Give the failing bucket."""
        return FailingBucket(super().connect().store, FAILING)


InWorld = Callable[[Callable[[World], Awaitable[Any]]], Any]


@pytest.fixture
def in_world(parts: Settings, database: str, bucket: str) -> InWorld:
    """Something done in the test's world."""

    def do(work: Callable[[World], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with open_world(database, bucket, parts) as world:
                return await work(world)

        return asyncio.run(main())

    return do


@pytest.fixture
def tenants(in_world: InWorld, tmp_path: Path) -> list[Tenant]:
    """Five tenants with two pictures each in S3, in the order of their partitions."""
    for seed in range(PICTURES):
        photo(160, 120, seed=seed).save(tmp_path / f"{seed}.jpg")

    async def store(world: World) -> list[Tenant]:
        made = [await world.tenant(name) for name in NAMES]
        for tenant in made:
            await world.load(tenant, tmp_path)
            await world.store_media(tenant)
        return made

    stored: list[Tenant] = in_world(store)
    return stored


@pytest.fixture
def instance(tenants: list[Tenant]) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, with the tenants' partitions."""
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id) for tenant in tenants])
        yield instance


Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(
    *, parts: Settings, database: str, bucket: str, qdrant: str, tenants: list[Tenant], instance: dg.DagsterInstance
) -> Iterator[Run]:
    """Runs one asset, or assets made together, for all tenants or the first ones; with other resources if given."""
    assert parts.aws_access_key_id
    assert parts.aws_secret_access_key
    keys = parts.aws_access_key_id.get_secret_value(), parts.aws_secret_access_key.get_secret_value()
    resources = {
        "postgres": PostgresResource(database_url=database),
        "qdrant": QdrantResource(url=qdrant),
        "s3": FailingS3(
            bucket=bucket, endpoint_url=parts.s3_endpoint_url, access_key_id=keys[0], secret_access_key=keys[1]
        ),
    }

    def do(*assets: dg.AssetKey, last: int = -1, **others: Any) -> dg.ExecuteInProcessResult:
        job = build_defs(resources=resources | others).resolve_job_def(TENANT_PIPELINE)
        return job.execute_in_process(
            instance=instance,
            tags={RANGE_START: str(tenants[0].id), RANGE_END: str(tenants[last].id)},
            asset_selection=list(assets),
            raise_on_error=False,
        )

    yield do
    FAILING.clear()


def told(result: dg.ExecuteInProcessResult) -> tuple[str, dict[str, Any]]:
    """What the failed step says: its text, and each failed partition's."""
    [failure] = result.get_step_failure_events()
    data = failure.step_failure_data.user_failure_data
    assert data is not None
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    failures: Any = data.metadata["failures"].value
    return data.description or "", failures


def a_picture(in_world: InWorld, tenant: Tenant) -> str:
    """The S3 key of a picture of a tenant."""
    keys: dict[str, int] = in_world(lambda world: world.keys(f"media/{tenant.id}/"))
    return min(keys)


def test_in_a_range_a_wrong_policy_fails_its_tenant_alone(
    tenants: list[Tenant], instance: dg.DagsterInstance, run: Run, in_world: InWorld
) -> None:
    """The others' results and checks are stored under their own partitions; when it is mended, all are there."""
    wrong = tenants[1]

    policy = {"provider": "claude"}
    assert in_world(lambda world: replace_policy(world.database, wrong.id, before=None, after=policy))
    result = run(VISION_RESULTS)
    text, failures = told(result)
    assert "1 of 5 tenants failed; the others are done" in text
    assert list(failures) == [str(wrong.id)]
    assert "vision.provider: 'claude' is not allowed" in failures[str(wrong.id)]
    good = [tenant for tenant in tenants if tenant is not wrong]
    assert instance.get_materialized_partitions(VISION_RESULTS) == {str(tenant.id) for tenant in good}
    evaluated = {one.partition: one.check_name for one in result.get_asset_check_evaluations()}
    assert evaluated == {str(tenant.id): REUSE_AGREEMENT for tenant in good}
    for event in result.asset_materializations_for_node("vision_results"):
        assert event.metadata["analyses"].value == PICTURES
        assert event.metadata["tenant"].value == NAMES[[str(one.id) for one in tenants].index(str(event.partition))]

    assert in_world(lambda world: replace_policy(world.database, wrong.id, before=policy, after=None))
    result = run(VISION_RESULTS)
    assert result.success
    assert instance.get_materialized_partitions(VISION_RESULTS) == {str(tenant.id) for tenant in tenants}
    analyses = {
        e.partition: e.metadata["analyses"].value for e in result.asset_materializations_for_node("vision_results")
    }
    assert analyses == {str(tenant.id): PICTURES if tenant is wrong else 0 for tenant in tenants}


def test_a_tenant_that_is_done_in_parts_fails_and_says_how_far(
    tenants: list[Tenant], instance: dg.DagsterInstance, run: Run, in_world: InWorld
) -> None:
    """One of its two pictures cannot be read at either try; the other one is done."""
    parted = tenants[2]
    FAILING.extend([a_picture(in_world, parted)] * 2)
    text, failures = told(run(VISION_RESULTS))
    assert "1 of 5 tenants failed" in text
    assert failures[str(parted.id)].startswith("1 items failed and stay to do; 0 are done. First: ")
    assert str(parted.id) not in instance.get_materialized_partitions(VISION_RESULTS)
    assert run(VISION_RESULTS).success
    assert str(parted.id) in instance.get_materialized_partitions(VISION_RESULTS)


def test_what_passes_is_tried_once_more_in_the_same_run(
    tenants: list[Tenant], instance: dg.DagsterInstance, run: Run, in_world: InWorld
) -> None:
    """A picture that cannot be read once costs its tenant no failure; it comes last."""
    FAILING.append(a_picture(in_world, tenants[0]))
    result = run(VISION_RESULTS)
    assert result.success
    partitions = [event.partition for event in result.asset_materializations_for_node("vision_results")]
    assert partitions == [str(tenant.id) for tenant in [*tenants[1:], tenants[0]]]
    assert not FAILING


def test_a_range_of_one_tenant_names_its_partition(
    tenants: list[Tenant], instance: dg.DagsterInstance, run: Run
) -> None:
    """As backfills have it: what is told is stored under the tenant, checks included."""
    result = run(VISION_RESULTS, last=0)
    assert result.success
    assert instance.get_materialized_partitions(VISION_RESULTS) == {str(tenants[0].id)}
    assert [one.partition for one in result.get_asset_check_evaluations()] == [str(tenants[0].id)]


def test_tenants_that_are_done_in_parts_are_no_reason_to_give_up(
    tenants: list[Tenant], run: Run, in_world: InWorld
) -> None:
    """One picture each of three in succession cannot be read once: all the others are tried, and so are they again."""
    FAILING.extend(a_picture(in_world, tenant) for tenant in tenants[:GIVE_UP_AFTER])
    assert run(VISION_RESULTS).success
    assert not FAILING


def test_when_nothing_of_one_after_the_other_can_be_done_the_rest_is_not_tried(
    tenants: list[Tenant], run: Run, in_world: InWorld
) -> None:
    """Something is down for all of them."""
    keys: dict[str, int] = in_world(lambda world: world.keys("media/"))
    down = {str(tenant.id) for tenant in tenants[:GIVE_UP_AFTER]}
    FAILING.extend(key for key in keys if key.split("/")[1] in down)
    _, failures = told(run(VISION_RESULTS))
    assert list(failures) == [str(tenant.id) for tenant in tenants]
    assert {failures[str(tenant.id)] for tenant in tenants[GIVE_UP_AFTER:]} == {"not tried"}


def test_assets_that_are_made_together_take_a_range(
    tenants: list[Tenant], instance: dg.DagsterInstance, run: Run
) -> None:
    """Both are materialized for every tenant, or the selected one alone."""
    assert run(PHASH_INDEX).success
    assert instance.get_materialized_partitions(MEDIA_OBJECTS) == set()
    assert run(MEDIA_OBJECTS, PHASH_INDEX).success
    for asset in (MEDIA_OBJECTS, PHASH_INDEX):
        assert instance.get_materialized_partitions(asset) == {str(tenant.id) for tenant in tenants}


def test_the_end_of_the_chain_takes_a_range(tenants: list[Tenant], instance: dg.DagsterInstance, run: Run) -> None:
    """Results, enrichment and collections, one asset after the other."""
    for asset in (VISION_RESULTS, dg.AssetKey("post_enrichment"), QDRANT_COLLECTION):
        assert run(asset).success
        assert instance.get_materialized_partitions(asset) == {str(tenant.id) for tenant in tenants}


def test_the_tenants_of_a_range_share_one_client(tenants: list[Tenant], run: Run, tmp_path: Path) -> None:
    """All are looked at by GigaChat, which is asked for a token once."""
    with emulated_gigachat(tmp_path) as server:
        provider = VisionProviderResource(
            provider="gigachat",
            gigachat_credentials=BUSINESS.credentials,
            gigachat_scope="GIGACHAT_API_B2B",
            gigachat_base_url=server.base_url,
            gigachat_auth_url=server.auth_url,
            gigachat_ca_file=str(server.ca_file),
        )
        assert run(VISION_RESULTS, vision_provider=provider).success
        counts = server.counts()
    for tenant in tenants:
        assert counts["calls"][str(tenant.id)]["chat"] == {"200": PICTURES}
    assert counts["oauth_calls"] == 1


def test_no_asset_goes_into_the_runs_of_what_it_is_made_of() -> None:
    """In a range nothing goes on after an asset, so a backfill must take the next one by itself."""
    graph = build_defs().resolve_asset_graph()
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.backfill_policy is not None
        for parent in node.parent_keys & graph.materializable_asset_keys:
            if parent not in node.execution_set_asset_keys and {key, parent} != {MEDIA_OBJECTS, PHASH_INDEX}:
                assert graph.get(parent).backfill_policy != node.backfill_policy, (parent, key)


def settings_of_runs() -> dict[str, Any]:
    """The part of `dagster.yaml` that says how many runs there are at once."""
    runs: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())["concurrency"]["runs"]
    return runs


def test_backfills_leave_runs_to_others() -> None:
    """Three at most belong to ranges of tenants, two to single tenants, each its own, and one to the upkeep."""

    def fits(under_way: list[dict[str, str]], tags: dict[str, str]) -> bool:
        runs = [dg.DagsterRun("job", run_id=make_new_run_id(), tags=one) for one in under_way]
        limits = RunQueueConfig(7, settings_of_runs()["tag_concurrency_limits"]).tag_concurrency_limits
        return not TagConcurrencyLimitsCounter(limits, runs).is_blocked(
            dg.DagsterRun("job", run_id=make_new_run_id(), tags=tags)
        )

    backfill = [
        {"dagster/backfill": "b", RANGE_START: f"{first}", RANGE_END: f"{last}"} for first, last in pairwise("abcd")
    ]
    schedule = [{RANGE_START: first, RANGE_END: last} for first, last in pairwise("efgh")]
    for under_way in (backfill, schedule, [*backfill[:1], *schedule[:2]]):
        assert fits(under_way[:2], backfill[2])
        assert not fits(under_way, {RANGE_START: "v", RANGE_END: "w"})
        assert fits(under_way, {"dagster/partition": "x"})
        assert fits(under_way, UPKEEP)
        assert fits(under_way, {})
    assert not fits([UPKEEP], UPKEEP)
    assert not fits([{"dagster/partition": "x"}], {"dagster/partition": "x"})
    assert fits([{"dagster/partition": "x"}], {"dagster/partition": "y"})
    assert not fits([{"dagster/partition": "x"}, {"dagster/partition": "y"}], {"dagster/partition": "z"})


def test_a_run_is_always_left_to_new_posts() -> None:
    """Every other job has a tag with a limit, and all limits together are fewer than there are runs at once."""
    limits = {limit["key"]: limit["limit"] for limit in settings_of_runs()["tag_concurrency_limits"]}
    assert sum(limits.values()) < settings_of_runs()["max_concurrent_runs"]
    for job in build_defs().resolve_all_job_defs():
        if job.name != NEW_POSTS and not job.partitions_def:
            assert job.run_tags.keys() & limits.keys(), job.name
