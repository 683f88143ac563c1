"""The clean-up's job, schedule and sensor, on the real parts."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from tests.cleaning import Cleaning
from tests.world import World, open_world
from vision_assets.clients.postgres.cleanup import PostgresCleanup
from vision_assets.defs.storage_cleanup import (
    AFTER_A_FAILURE,
    OCCASION,
    CleanupConfig,
    daily_storage_cleanup,
    reason_to_wait,
    remove_old_objects,
    storage_cleanup,
    storage_emergency,
)
from vision_assets.resources import PostgresResource, S3Resource, StorageCleanupResource, StorageQuotaResource
from vision_assets.settings import Settings

THRESHOLD, TARGET = 300, 150


@pytest.fixture
def resources(parts: Settings, database: str, bucket: str) -> dict[str, Any]:
    """The job's resources on this test's own database and bucket."""
    assert parts.aws_access_key_id
    assert parts.aws_secret_access_key
    return {
        "postgres": PostgresResource(database_url=database),
        "s3": S3Resource(
            bucket=bucket,
            endpoint_url=parts.s3_endpoint_url,
            access_key_id=parts.aws_access_key_id.get_secret_value(),
            secret_access_key=parts.aws_secret_access_key.get_secret_value(),
        ),
        "storage_quota": StorageQuotaResource(
            bucket_bytes=2**40,
            tenant_bytes=2**40,
            media_bytes=2**40,
            vision_bytes=2**40,
            crawl_bytes=2**40,
            unchecked_bytes=0,
        ),
        "storage_cleanup_plans": StorageCleanupResource(
            emergency_bytes=THRESHOLD,
            emergency_target_bytes=TARGET,
            media_ttl_days=30,
            vision_ttl_days=14,
            crawl_ttl_days=7,
        ),
    }


@pytest.fixture
def in_world(parts: Settings, database: str, bucket: str) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    """Something done in the test's world."""

    def do(work: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            async with open_world(database, bucket, parts) as world:
                await work(world)

        asyncio.run(main())

    return do


InWorld = Callable[[Callable[[World], Awaitable[None]]], None]


async def fill(world: World) -> None:
    """Four crawled pages of 100 bytes: two are 8 days old, one 4, one is new."""
    cleaning, tenant = Cleaning(world), await world.tenant("Full")
    for number, days in enumerate((8, 8, 4, 0)):
        await cleaning.put_page(tenant, f"{number}.html", size_bytes=100, days=days)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of this test's own."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(
    instance: dg.DagsterInstance,
    resources: dict[str, Any],
    config: CleanupConfig,
    *,
    job: dg.JobDefinition = storage_cleanup,
) -> dg.ExecuteInProcessResult:
    """Run the job."""
    return job.execute_in_process(
        instance=instance,
        resources=resources,
        run_config=dg.RunConfig(ops={"remove_old_objects": config}),
        tags={OCCASION: "emergency" if config.emergency else "ttl"},
        raise_on_error=False,
    )


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What the run tells."""
    [output] = [event for event in result.all_events if event.is_successful_output]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> Any:
    """What the failed run tells."""
    [failure] = result.get_step_failure_events()
    return failure.step_failure_data.user_failure_data


def test_daily_run(instance: dg.DagsterInstance, resources: dict[str, Any], in_world: InWorld) -> None:
    """What has outlived its time goes, and the run tells it by class; a dry run tells the same and removes nothing."""
    in_world(fill)
    dry = metadata(run(instance, resources, CleanupConfig(dry_run=True)))
    told = metadata(run(instance, resources, CleanupConfig()))
    assert "| crawl | 1 | 2 | 200 |" in told["removed"]
    assert dry["removed"] == told["removed"].replace("| removed |", "| would be removed |")
    assert (told["occasion"], told["dry_run"], told["failures"]) == ("ttl", False, 0)
    assert told["stored_and_reserved_megabytes_before"] == dry["stored_and_reserved_megabytes_before"] == 0.0
    assert "| crawl | 0 | 0 | 0 |" in metadata(run(instance, resources, CleanupConfig()))["removed"]


def test_emergency_run(instance: dg.DagsterInstance, resources: dict[str, Any], in_world: InWorld) -> None:
    """An emergency comes down to the target; afterwards there is none."""
    in_world(fill)
    told = metadata(run(instance, resources, CleanupConfig(emergency=True)))
    assert "| crawl | 1 | 3 | 300 |" in told["removed"]
    again = metadata(run(instance, resources, CleanupConfig(emergency=True)))
    assert "| crawl | 0 | 0 | 0 |" in again["removed"]


def test_target_that_cannot_be_reached_fails_for_good(
    instance: dg.DagsterInstance, resources: dict[str, Any], in_world: InWorld
) -> None:
    """When nothing else may go, the run says so and what to do, and is not tried again; what may go is gone."""

    async def referenced(world: World) -> None:
        cleaning, tenant = Cleaning(world), await world.tenant("Referenced")
        await cleaning.put_picture(tenant, "a", size_bytes=THRESHOLD, days=40)
        await cleaning.refer(tenant, "a")
        await cleaning.put_page(tenant, "a.html", days=4)

    in_world(referenced)
    result = run(instance, resources, CleanupConfig(emergency=True))
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    failure = failure_of(result)
    assert "STORAGE_BUCKET_LIMIT_BYTES" in (failure.description or "")
    assert "| crawl | 1 | 1 | 10 |" in str(failure.metadata["removed"].value)


def test_wrong_settings_fail_for_good(instance: dg.DagsterInstance, resources: dict[str, Any]) -> None:
    """A target above the threshold fails with the settings' names, before anything is looked for."""
    plans = StorageCleanupResource(
        emergency_bytes=1, emergency_target_bytes=2, media_ttl_days=30, vision_ttl_days=14, crawl_ttl_days=7
    )
    result = run(instance, resources | {"storage_cleanup_plans": plans}, CleanupConfig(emergency=True))
    assert "STORAGE_EMERGENCY_TARGET_BYTES" in (failure_of(result).description or "")
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def evaluate(instance: dg.DagsterInstance, resources: dict[str, Any]) -> dg.RunRequest | dg.SkipReason:
    """Let the sensor look."""
    context = dg.build_sensor_context(
        instance=instance, resources={name: resources[name] for name in ("postgres", "storage_cleanup_plans")}
    )
    answer = storage_emergency(context)
    assert isinstance(answer, dg.RunRequest | dg.SkipReason)
    return answer


def test_sensor(instance: dg.DagsterInstance, resources: dict[str, Any], in_world: InWorld) -> None:
    """Below the threshold it does nothing; from there on it asks for one emergency; after it there is none."""
    idle = evaluate(instance, resources)
    assert isinstance(idle, dg.SkipReason)
    assert "0 bytes" in str(idle.skip_message)
    in_world(fill)
    request = evaluate(instance, resources)
    assert isinstance(request, dg.RunRequest)
    result = storage_cleanup.execute_in_process(
        instance=instance, resources=resources, run_config=request.run_config, tags=request.tags
    )
    assert metadata(result)["occasion"] == "emergency"
    assert isinstance(evaluate(instance, resources), dg.SkipReason)


def test_sensor_does_not_flood(instance: dg.DagsterInstance, resources: dict[str, Any], in_world: InWorld) -> None:
    """As long as an emergency is under way there is no second one; after a failed one, not for an hour."""
    in_world(fill)
    run_of = instance.create_run_for_job(
        storage_cleanup, tags={OCCASION: "emergency"}, status=dg.DagsterRunStatus.STARTED
    )
    waiting = evaluate(instance, resources)
    assert isinstance(waiting, dg.SkipReason)
    assert "under way" in str(waiting.skip_message)
    instance.report_run_failed(run_of)
    waiting = evaluate(instance, resources)
    assert isinstance(waiting, dg.SkipReason)
    assert "failed" in str(waiting.skip_message)
    assert reason_to_wait(instance, now=datetime.now(UTC) + AFTER_A_FAILURE + timedelta(seconds=1)) is None


def test_sensor_waits_for_the_daily_clean_up_alone(
    instance: dg.DagsterInstance, resources: dict[str, Any], in_world: InWorld
) -> None:
    """Beside the daily clean-up no emergency begins; as soon as it has ended one does, however it ended."""
    in_world(fill)
    run_of = instance.create_run_for_job(storage_cleanup, tags={OCCASION: "ttl"}, status=dg.DagsterRunStatus.STARTED)
    waiting = evaluate(instance, resources)
    assert isinstance(waiting, dg.SkipReason)
    assert "under way" in str(waiting.skip_message)
    instance.report_run_failed(run_of)
    assert isinstance(evaluate(instance, resources), dg.RunRequest)


def test_emergency_that_was_kept_out_comes_again(
    instance: dg.DagsterInstance, resources: dict[str, Any], in_world: InWorld
) -> None:
    """An emergency that failed because another clean-up ran, by the command perhaps, is not put off for an hour."""

    @dg.job(name=storage_cleanup.name, executor_def=dg.in_process_executor)
    def without_retries() -> None:
        remove_old_objects.with_retry_policy(dg.RetryPolicy(max_retries=0))()

    async def beside(world: World) -> None:
        await fill(world)
        emergency = CleanupConfig(emergency=True)
        async with PostgresCleanup(world.database).alone():
            result = await asyncio.to_thread(run, instance, resources, emergency, job=without_retries)
        assert not result.success

    in_world(beside)
    assert isinstance(evaluate(instance, resources), dg.RunRequest)


def test_sensor_without_a_database(instance: dg.DagsterInstance, resources: dict[str, Any]) -> None:
    """Totals that cannot be read are no emergency, and no crash of the sensor."""
    nowhere = {"postgres": PostgresResource(database_url="postgresql://nobody@127.0.0.1:9/none")}
    answer = evaluate(instance, resources | nowhere)
    assert isinstance(answer, dg.SkipReason)
    assert "could not be read" in str(answer.skip_message)


def test_schedule() -> None:
    """It runs every day and is on by default; so is the sensor."""
    assert daily_storage_cleanup.default_status is dg.DefaultScheduleStatus.RUNNING
    assert storage_emergency.default_status is dg.DefaultSensorStatus.RUNNING
    request = daily_storage_cleanup.evaluate_tick(
        dg.build_schedule_context(scheduled_execution_time=datetime(2026, 11, 1, 3, 10, tzinfo=UTC))
    ).run_requests
    assert request is not None
    assert request[0].tags[OCCASION] == "ttl"
