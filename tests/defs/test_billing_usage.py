"""`billing_usage` and the retry of dead letters through Dagster: one tenant, a range in which one fails, schedule."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from tests.billed import Account, days_ago
from tests.integration.test_reconcile import put
from tests.pictures import encoded, photo
from tests.world import World, open_world
from vision_assets.cli import app
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.errors import StorageUnavailable
from vision_assets.core.tenants import Tenant
from vision_assets.definitions import build_defs
from vision_assets.defs.billing_usage import BILLING_USAGE
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.schedules import RANGE_END, RANGE_START, daily_billing
from vision_assets.resources import DeadLetterResource, PostgresResource, S3Resource, TokenBudgetResource
from vision_assets.settings import Settings

YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)


@dataclass(frozen=True)
class FailingBucket(S3Bucket):
    """A bucket that does not take some tenants' bills."""

    failing: frozenset[str] = frozenset()

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Fail for these, put for others."""
        if key.split("/")[1] in self.failing:
            raise StorageUnavailable(f"{key} cannot be written")
        await super().put(key, body, mime=mime, encoding=encoding)


class FailingS3(S3Resource):
    """The bucket, as above."""

    failing: list[str] = []  # noqa: RUF012 - pydantic copies it

    def connect(self) -> S3Bucket:
        """Give the failing bucket."""
        return FailingBucket(super().connect().store, failing=frozenset(self.failing))


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
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of this test's own, on disk."""
    with dg.instance_for_test() as instance:
        yield instance


Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(parts: Settings, database: str, bucket: str, instance: dg.DagsterInstance) -> Run:
    """Runs a job on this test's database and bucket: for one tenant, from one to another, or for none."""
    assert parts.aws_access_key_id
    assert parts.aws_secret_access_key
    keys = parts.aws_access_key_id.get_secret_value(), parts.aws_secret_access_key.get_secret_value()

    def do(
        *tenants: Tenant, job: str = "billing", failing: tuple[Tenant, ...] = (), retries: int = 3
    ) -> dg.ExecuteInProcessResult:
        defs = build_defs(
            resources={
                "postgres": PostgresResource(database_url=database),
                "token_budget": TokenBudgetResource(prices_per_million_tokens={"gigachat": "650"}),
                "dead_letter_retry": DeadLetterResource(max_retries=retries),
                "s3": FailingS3(
                    bucket=bucket,
                    endpoint_url=parts.s3_endpoint_url,
                    access_key_id=keys[0],
                    secret_access_key=keys[1],
                    failing=[str(tenant.id) for tenant in failing],
                ),
            }
        )
        part: dict[str, Any] = {}
        if len(tenants) == 1:
            part = {"partition_key": str(tenants[0].id)}
        elif tenants:
            part = {"tags": {RANGE_START: str(tenants[0].id), RANGE_END: str(tenants[-1].id)}}
        return defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **part)

    return do


def tenants(in_world: InWorld, instance: dg.DagsterInstance, count: int) -> list[Tenant]:
    """Tenants with a page of 1 MiB since yesterday's beginning, and calls yesterday; their partitions."""

    async def make(world: World) -> list[Tenant]:
        made = [await world.tenant(f"Tenant {number}") for number in range(count)]
        for tenant in made:
            await put(world, tenant, "page", 2**20)
            await Account(world, tenant).stood_since(days_ago(1))
            await world.database.pool.execute(
                "INSERT INTO token_days (tenant_id, day, provider, model, tokens, calls)"
                " VALUES ($1, $2, 'gigachat', 'GigaChat-2-Max', 1500, 2)",
                *(tenant.id, YESTERDAY),
            )
        return made

    made: list[Tenant] = in_world(make)
    instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id) for tenant in made])
    return made


def metadata(instance: dg.DagsterInstance, tenant: Tenant) -> dict[str, Any]:
    """What the latest materialization of a partition tells."""
    event = instance.fetch_materializations(
        dg.AssetRecordsFilter(BILLING_USAGE, asset_partitions=[str(tenant.id)]), limit=1
    ).records[0]
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_one_tenant(
    in_world: InWorld, instance: dg.DagsterInstance, run: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The materialization shows what was billed and where the files are; a second one is empty; a command sums up."""
    [tenant] = tenants(in_world, instance, 1)
    assert run(tenant).success
    told = metadata(instance, tenant)
    assert (told["tenant"], told["billed_through"], told["lines_billed"]) == ("Tenant 0", str(YESTERDAY), 2)
    assert f"| {YESTERDAY} | crawl | 0.023437500 |  |  | 1 |" in told["billed"]
    assert f"| {YESTERDAY} | gigachat GigaChat-2-Max |  | 1,500 | 2 | 1 |" in told["billed"]
    assert f"billing/{tenant.id}/{YESTERDAY:%Y-%m}/usage.parquet" in told["files"]
    assert (told["gb_hours_of_last_day"], told["tokens_of_last_day"]) == (0.0234375, 1500)
    assert len(in_world(lambda world: world.keys(f"billing/{tenant.id}/"))) == 3
    assert run(tenant).success
    assert (metadata(instance, tenant)["lines_billed"], metadata(instance, tenant)["files"]) == (0, "none written")

    monkeypatch.setenv("DATABASE_URL", database)
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["billing", "--month", f"{YESTERDAY:%Y-%m}"])
    assert shown.exit_code == 0, shown.output
    lines = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in shown.stdout.splitlines()
        if "│ Tenant 0" in line
    ]
    assert lines == [
        ["Tenant 0", "crawl", "0.023", "", "", "", "1", ""],
        ["Tenant 0", "gigachat GigaChat-2-Max", "", "1,500", "2", "0.98 RUB", "1", ""],
    ]
    empty = CliRunner().invoke(app, ["billing", "--month", "2001-01", "--tenant", "Tenant 0"])
    assert "Nothing was billed for 2001-01" in empty.stdout
    assert CliRunner().invoke(app, ["billing", "--month", "yesterday"]).exit_code == 1


def test_in_a_range_each_tenant_fails_alone(in_world: InWorld, instance: dg.DagsterInstance, run: Run) -> None:
    """The others are billed and materialized; the run says who failed, and the next one makes up for it."""
    made = tenants(in_world, instance, 3)
    result = run(*made, failing=(made[1],))
    assert not result.success
    assert instance.get_materialized_partitions(BILLING_USAGE) == {str(made[0].id), str(made[2].id)}
    [failure] = result.get_step_failure_events()
    data = failure.step_failure_data.user_failure_data
    assert data is not None
    assert data.metadata["failed_partitions"].value == [str(made[1].id)]
    assert run(*made).success
    assert instance.get_materialized_partitions(BILLING_USAGE) == {str(tenant.id) for tenant in made}
    told = metadata(instance, made[1])
    assert (told["lines_billed"], told["gb_hours_of_last_day"], told["tokens_of_last_day"]) == (0, 0.0234375, 1500)
    billed = in_world(lambda world: world.database.pool.fetch("SELECT tenant_id, gb_hours FROM billing_usage_latest"))
    figures = [(row["tenant_id"], row["gb_hours"]) for row in billed if row["gb_hours"] is not None]
    assert sorted(figures) == sorted((tenant.id, Decimal("0.023437500")) for tenant in made)
    assert len(in_world(lambda world: world.keys("billing/"))) == 9


def test_bills_are_nobodys_storage(in_world: InWorld, instance: dg.DagsterInstance, run: Run) -> None:
    """A reconciliation finds neither drift nor stray folders in them, and they count against no quota."""
    [tenant] = tenants(in_world, instance, 1)
    assert run(tenant).success
    assert run(tenant, job="storage_reconciliation").success
    event = instance.get_latest_materialization_event(dg.AssetKey("tenant_storage_usage"))
    assert event is not None
    assert event.asset_materialization is not None
    told = event.asset_materialization.metadata
    assert (told["objects"].value, told["stray_folders"].value, told["orphaned_objects"].value) == (1, 0, 0)
    assert "| in S3, not in the books | 0 | 0 |" in str(told["drift"].value)


def test_the_schedule_bills_all_tenants(in_world: InWorld, instance: dg.DagsterInstance) -> None:
    """Daily, in ranges; none without tenants."""
    context = dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime(2026, 3, 1, 0, 40, tzinfo=UTC),
        repository_def=build_defs().get_repository_def(),
    )
    assert daily_billing.evaluate_tick(context).run_requests == []
    made = tenants(in_world, instance, 2)
    [request] = daily_billing.evaluate_tick(context).run_requests or []
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == (str(made[0].id), str(made[1].id))
    assert "2026-03-01T00:40" in (request.run_key or "")


def test_dead_letters_are_tried_again(in_world: InWorld, run: Run, tmp_path: Path) -> None:
    """The job re-opens what may pass, tells how much, and keeps to the setting."""
    (tmp_path / "cut.jpg").write_bytes(encoded(photo())[:5_000])

    async def give_up(world: World) -> None:
        tenant = await world.tenant("Tenant")
        await world.load(tenant, tmp_path)
        await world.store_media(tenant)
        await world.database.pool.execute("UPDATE dead_letters SET last_at = now() - interval '1 day'")

    in_world(give_up)
    assert reopened(run(job="dead_letter_retries", retries=0)) == 0
    assert reopened(run(job="dead_letter_retries")) == 1
    assert reopened(run(job="dead_letter_retries")) == 0


def reopened(result: dg.ExecuteInProcessResult) -> Any:
    """What the job's output tells."""
    assert result.success
    (output,) = [event for event in result.all_node_events if event.is_successful_output]
    return output.step_output_data.metadata["reopened_items"].value
