"""`tenant_storage_usage` through Dagster: one tenant, a range in which tenants fail, its checks, and its schedule."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from tests.defs.test_definitions import GRAPH
from tests.integration.test_reconcile import begin_put, behind_the_back, put
from tests.world import World, open_world
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.errors import StorageUnavailable
from vision_assets.core.listing import Sizes
from vision_assets.core.tenants import Tenant
from vision_assets.definitions import build_defs
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.schedules import (
    MAX_TENANTS_PER_RUN,
    RANGE_END,
    RANGE_START,
    ranges,
    six_hourly_storage_reconciliation,
)
from vision_assets.defs.steps import GIVE_UP_AFTER
from vision_assets.defs.tenant_storage_usage import CHECKS, TENANT_STORAGE_USAGE
from vision_assets.resources import PostgresResource, S3Resource, StorageQuotaResource
from vision_assets.settings import Settings

JOB = "storage_reconciliation"


@dataclass(frozen=True)
class FailingBucket(S3Bucket):
    """A bucket that does not list the folders of some tenants."""

    failing: frozenset[str] = frozenset()
    error: Exception | None = None

    async def list_sizes(self, prefix: str, *, after: str | None = None) -> AsyncGenerator[Sizes, None]:
        """Fail for these, list for others."""
        if prefix.split("/")[1] in self.failing:
            raise self.error or StorageUnavailable(f"{prefix} cannot be listed")
        async for page in S3Bucket.list_sizes(self, prefix, after=after):
            yield page


class FailingS3(S3Resource):
    """The bucket, as above."""

    failing: list[str] = []  # noqa: RUF012 - pydantic copies it
    bug: bool = False

    def connect(self) -> S3Bucket:
        """Give the failing bucket."""
        error = ZeroDivisionError("nobody thought of it") if self.bug else None
        return FailingBucket(super().connect().store, frozenset(self.failing), error)


@pytest.fixture
def in_world(parts: Settings, database: str, bucket: str) -> Callable[[Callable[[World], Awaitable[Any]]], Any]:
    """Something done in the test's world."""

    def do(work: Callable[[World], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with open_world(database, bucket, parts) as world:
                return await work(world)

        return asyncio.run(main())

    return do


InWorld = Callable[[Callable[[World], Awaitable[Any]]], Any]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of this test's own, on disk."""
    with dg.instance_for_test() as instance:
        yield instance


Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(parts: Settings, database: str, bucket: str, instance: dg.DagsterInstance) -> Run:
    """Runs the job for one tenant, or from one to another, on this test's database and bucket."""
    assert parts.aws_access_key_id
    assert parts.aws_secret_access_key
    keys = parts.aws_access_key_id.get_secret_value(), parts.aws_secret_access_key.get_secret_value()

    def do(
        first: Tenant,
        last: Tenant | None = None,
        *,
        failing: tuple[Tenant, ...] = (),
        bug: bool = False,
        tenant_bytes: int = 2**40,
    ) -> dg.ExecuteInProcessResult:
        defs = build_defs(
            resources={
                "postgres": PostgresResource(database_url=database),
                "s3": FailingS3(
                    bucket=bucket,
                    endpoint_url=parts.s3_endpoint_url,
                    access_key_id=keys[0],
                    secret_access_key=keys[1],
                    failing=[str(tenant.id) for tenant in failing],
                    bug=bug,
                ),
                "storage_quota": StorageQuotaResource(
                    bucket_bytes=2**40,
                    tenant_bytes=tenant_bytes,
                    media_bytes=2**40,
                    vision_bytes=2**40,
                    crawl_bytes=2**40,
                    unchecked_bytes=0,
                ),
            }
        )
        part: dict[str, Any] = {"partition_key": str(first.id)}
        if last is not None:
            part = {"tags": {RANGE_START: str(first.id), RANGE_END: str(last.id)}}
        return defs.resolve_job_def(JOB).execute_in_process(instance=instance, raise_on_error=False, **part)

    return do


def tenants(in_world: InWorld, instance: dg.DagsterInstance, count: int) -> list[Tenant]:
    """Tenants with one crawled page of 100 bytes each, and their partitions."""

    async def make(world: World) -> list[Tenant]:
        made = [await world.tenant(f"Tenant {number}") for number in range(count)]
        for tenant in made:
            await put(world, tenant, "page", 100)
        return made

    made: list[Tenant] = in_world(make)
    instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id) for tenant in made])
    return made


def materialized(instance: dg.DagsterInstance) -> set[str]:
    """The partitions with a materialization."""
    return instance.get_materialized_partitions(TENANT_STORAGE_USAGE)


def checks(instance: dg.DagsterInstance, tenant: Tenant) -> dict[str, tuple[bool, str, str]]:
    """The latest stored outcome of each check of a partition: passed, severity, message."""
    outcomes = {}
    for name in CHECKS:
        history = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(TENANT_STORAGE_USAGE, name), limit=1000
        )
        for record in history:
            if record.partition == str(tenant.id) and record.event is not None:
                event = record.event.dagster_event
                if record.status == AssetCheckExecutionRecordStatus.PLANNED or event is None:
                    continue
                found = event.asset_check_evaluation_data
                assert found.partition == str(tenant.id)
                outcomes[name] = found.passed, found.severity.value, found.description or ""
                break
    return outcomes


def metadata(instance: dg.DagsterInstance, tenant: Tenant) -> dict[str, Any]:
    """What the latest materialization of a partition tells."""
    event = instance.fetch_materializations(
        dg.AssetRecordsFilter(TENANT_STORAGE_USAGE, asset_partitions=[str(tenant.id)]), limit=1
    ).records[0]
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_one_tenant(in_world: InWorld, instance: dg.DagsterInstance, run: Run) -> None:
    """A run of one partition stores its materialization, with readable tables, and four checks that pass."""
    [tenant] = tenants(in_world, instance, 1)
    assert run(tenant, tenant_bytes=1000).success
    assert materialized(instance) == {str(tenant.id)}
    assert {name: passed for name, (passed, _, _) in checks(instance, tenant).items()} == dict.fromkeys(CHECKS, True)
    told = metadata(instance, tenant)
    assert told["tenant"] == "Tenant 0"
    assert "| crawl | 100 | 1 | 0 |" in told["stored"]
    assert "| the tenant, bytes | 100 | 1,000 | 10.0% |" in told["limits"]
    assert "| in S3, not in the books | 0 | 0 |" in told["drift"]
    assert "the tenant today, tokens" in told["budget"]
    assert (told["objects"], told["crawl_objects"], told["percent_of_limit"]) == (1, 1, 10.0)
    assert told["duration_seconds"] > 0


def test_what_is_wrong_is_told_by_the_checks(
    in_world: InWorld, instance: dg.DagsterInstance, run: Run, database: str
) -> None:
    """Each check fails by itself, with its severity, figures and what to do; the run succeeds all the same."""
    [tenant] = tenants(in_world, instance, 1)

    async def spoil(world: World) -> None:
        await behind_the_back(world, await put(world, tenant, "gone", 10), None)
        await behind_the_back(world, f"media/{tenant.id}/aa/orphan.jpg", 5)
        await behind_the_back(world, f"media/{uuid4()}/aa/stray.jpg", 5)
        await begin_put(world, f"crawl/{tenant.id}/dead", 70, until=datetime.now(UTC) - timedelta(seconds=1))
        await world.database.pool.execute(
            "INSERT INTO budget_windows (scope, period, provider, starts_on, used_tokens, used_requests)"
            " VALUES ($1, 'day', '', (now() AT TIME ZONE 'UTC')::date, 225000, 9)",
            tenant.id,
        )

    in_world(spoil)
    assert run(tenant, tenant_bytes=110).success
    outcomes = checks(instance, tenant)
    assert {name: (passed, severity) for name, (passed, severity, _) in outcomes.items()} == {
        "quota_below_limit": (False, "ERROR"),
        "budget_below_limit": (False, "WARN"),
        "usage_matches_storage": (False, "ERROR"),
        "no_stale_holds": (False, "WARN"),
    }
    assert "the tenant has taken 95.5% of 110 bytes" in outcomes["quota_below_limit"][2]
    assert "vision-assets quota set" in outcomes["quota_below_limit"][2]
    assert "90.0% of 250,000 tokens" in outcomes["budget_below_limit"][2]
    assert "1 objects (-10 bytes) gone from S3" in outcomes["usage_matches_storage"][2]
    assert "70 bytes were held" in outcomes["no_stale_holds"][2]
    told = metadata(instance, tenant)
    assert f"| in the books, not in S3 | 1 | -10 | `crawl/{tenant.id}/gone` |" in told["drift"]
    assert (told["orphaned_objects"], told["stray_folders"]) == (0, 1)  # the orphan is too young

    in_world(
        lambda world: world.database.pool.execute("UPDATE storage_objects SET recorded_at = now() - interval '2d'")
    )
    assert run(tenant, tenant_bytes=120).success
    outcomes = checks(instance, tenant)
    assert outcomes["quota_below_limit"][:2] == (False, "WARN")
    assert outcomes["usage_matches_storage"][0]
    assert outcomes["no_stale_holds"][0]
    told = metadata(instance, tenant)
    assert f"| media/ | 1 | 5 | `media/{tenant.id}/aa/orphan.jpg` |" in told["orphans"]


def test_in_a_range_each_tenant_fails_alone(in_world: InWorld, instance: dg.DagsterInstance, run: Run) -> None:
    """The others' materializations and checks are stored under their own partitions; the run fails and says whose."""
    made = tenants(in_world, instance, 4)
    bad = made[1]
    result = run(made[0], made[-1], failing=(bad,))
    assert not result.success
    good = [tenant for tenant in made if tenant is not bad]
    assert materialized(instance) == {str(tenant.id) for tenant in good}
    for tenant in good:
        assert set(checks(instance, tenant)) == set(CHECKS)
        assert metadata(instance, tenant)["tenant"] == tenant.name
    assert checks(instance, bad) == {}
    [failure] = result.get_step_failure_events()
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert "1 of 4 tenants failed" in (told.description or "")
    assert str(bad.id) in (told.description or "")
    assert told.metadata["failed_partitions"].value == [str(bad.id)]
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert run(made[0], made[-1]).success
    assert materialized(instance) == {str(tenant.id) for tenant in made}


def test_a_bug_for_one_tenant_is_no_fault_of_the_others(
    in_world: InWorld, instance: dg.DagsterInstance, run: Run
) -> None:
    """What nobody thought of fails alone too, and is named."""
    made = tenants(in_world, instance, 3)
    result = run(made[0], made[-1], failing=(made[0],), bug=True)
    assert not result.success
    assert materialized(instance) == {str(tenant.id) for tenant in made[1:]}
    [failure] = result.get_step_failure_events()
    assert "ZeroDivisionError" in str(failure.step_failure_data.user_failure_data)


def test_when_all_fail_the_run_gives_up(in_world: InWorld, instance: dg.DagsterInstance, run: Run) -> None:
    """When S3 answers for none, the range is not tried to its end; those that were not tried are named as failed."""
    made = tenants(in_world, instance, GIVE_UP_AFTER + 2)
    result = run(made[0], made[-1], failing=tuple(made[:-1]))
    [failure] = result.get_step_failure_events()
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert told.metadata["failed_partitions"].value == [str(tenant.id) for tenant in made]
    assert materialized(instance) == set()


def test_tenants_that_are_not_active_are_left_out(in_world: InWorld, instance: dg.DagsterInstance, run: Run) -> None:
    """The partition of a tenant who left does not make every later run fail."""
    made = tenants(in_world, instance, 3)
    in_world(lambda world: world.database.pool.execute("UPDATE tenants SET active = false WHERE id = $1", made[1].id))
    assert run(made[0], made[-1]).success
    assert materialized(instance) == {str(made[0].id), str(made[2].id)}


def test_a_transient_fault_of_one_tenant_is_tried_again(
    in_world: InWorld, instance: dg.DagsterInstance, run: Run
) -> None:
    """A run of one partition is retried as every other asset's is."""
    [tenant] = tenants(in_world, instance, 1)
    result = run(tenant, failing=(tenant,))
    assert not result.success
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 3


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [(0, 0)]), (100, [(0, 99)]), (101, [(0, 99), (100, 100)]), (250, [(0, 99), (100, 199), (200, 249)])],
)
def test_ranges(count: int, expected: list[tuple[int, int]]) -> None:
    """Neighbours, at most a hundred, all of them and none twice."""
    keys = [f"key {number}" for number in range(count)]
    assert ranges(keys, MAX_TENANTS_PER_RUN) == [(keys[first], keys[last]) for first, last in expected]


def tick(instance: dg.DagsterInstance) -> Any:
    """Evaluate the schedule as the daemon does."""
    defs = build_defs()
    context = dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime(2026, 3, 1, 6, tzinfo=UTC),
        repository_def=defs.get_repository_def(),
    )
    return six_hourly_storage_reconciliation.evaluate_tick(context)


def test_the_schedule_takes_all_tenants(in_world: InWorld, instance: dg.DagsterInstance, run: Run) -> None:
    """Every six hours by itself; what it asks for runs, and covers every tenant."""
    assert six_hourly_storage_reconciliation.cron_schedule == "0 */6 * * *"
    assert six_hourly_storage_reconciliation.default_status == dg.DefaultScheduleStatus.RUNNING
    made = tenants(in_world, instance, 3)
    [request] = tick(instance).run_requests
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == (str(made[0].id), str(made[2].id))
    assert "2026-03-01T06:00" in request.run_key
    assert run(made[0], made[2]).success
    assert materialized(instance) == {str(tenant.id) for tenant in made}


def test_the_schedule_without_tenants_skips(instance: dg.DagsterInstance) -> None:
    """Nothing is started when there is nobody."""
    data = tick(instance)
    assert not data.run_requests
    assert "No tenant" in data.skip_message


def test_the_schedule_for_many_tenants(in_world: InWorld, instance: dg.DagsterInstance, run: Run) -> None:
    """101 tenants are two runs with keys of their own; the last one, a range of one, runs as well."""
    [tenant] = tenants(in_world, instance, 1)
    others = [str(uuid4()) for _ in range(MAX_TENANTS_PER_RUN)]
    instance.delete_dynamic_partition(str(TENANTS.name), str(tenant.id))
    instance.add_dynamic_partitions(str(TENANTS.name), [*others, str(tenant.id)])
    first, second = tick(instance).run_requests
    assert (first.tags[RANGE_START], first.tags[RANGE_END]) == (others[0], others[-1])
    assert (second.tags[RANGE_START], second.tags[RANGE_END]) == (str(tenant.id), str(tenant.id))
    assert first.run_key != second.run_key
    assert run(tenant, tenant).success
    assert materialized(instance) == {str(tenant.id)}


def test_the_asset_has_its_checks() -> None:
    """The four checks stand on the asset, with a text each, and are partitioned as it is."""
    graph = build_defs().resolve_asset_graph()
    assert TENANT_STORAGE_USAGE.to_user_string() in GRAPH
    found = graph.get_check_keys_for_assets({TENANT_STORAGE_USAGE})
    assert {key.name for key in found} == set(CHECKS)
    for key in found:
        spec = graph.get_check_spec(key)
        assert spec.description
        assert spec.partitions_def == TENANTS
