"""The sensor that starts the runs of tenants whose deferred pictures are due."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from tests.pictures import photo
from tests.world import World, open_world
from vision_assets.core.tenants import Tenant
from vision_assets.defs.jobs import TENANT_PIPELINE
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.sensors import deferred_pictures
from vision_assets.resources import PostgresResource
from vision_assets.settings import Settings

DEFER = """
INSERT INTO vision_decisions (tenant_id, sha256, provider, model, verdict, reason, message, rules, due_at)
SELECT tenant_id, sha256, 'gigachat', 'Max', 'defer', 'daily_limit', 'over budget', 'rules', now() + $2
FROM media_objects WHERE tenant_id = $1
"""
NAMES = ("due", "waiting", "without a partition", "inactive")


@pytest.fixture
def tenants(database: str, bucket: str, parts: Settings, tmp_path: Path) -> dict[str, Tenant]:
    """Tenants with a deferred picture each, that of one not due yet, and one of them not active any more."""
    photo(160, 120, seed=1).save(tmp_path / "1.jpg")

    async def defer(world: World, name: str) -> Tenant:
        tenant = await world.tenant(name)
        await world.load(tenant, tmp_path)
        await world.store_media(tenant)
        wait = timedelta(hours=1 if name == "waiting" else -1)
        await world.database.pool.execute(DEFER, tenant.id, wait)
        return tenant

    async def defer_all() -> dict[str, Tenant]:
        async with open_world(database, bucket, parts) as world:
            made = {name: await defer(world, name) for name in NAMES}
            await world.database.pool.execute("UPDATE tenants SET active = false WHERE name = 'inactive'")
            return made

    return asyncio.run(defer_all())


@pytest.fixture
def instance(tenants: dict[str, Tenant]) -> Iterator[dg.DagsterInstance]:
    """An instance with partitions."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        partitions = [str(tenant.id) for name, tenant in tenants.items() if name != "without a partition"]
        ephemeral.add_dynamic_partitions(TENANTS.name or "", partitions)
        yield ephemeral


@dg.job(name=TENANT_PIPELINE)
def job_def() -> None:
    """Stands for the pipeline: a run of that name."""


def tick(instance: dg.DagsterInstance, database_url: str) -> list[dg.RunRequest] | dg.SkipReason:
    """Let the sensor look once."""
    with dg.build_sensor_context(
        instance=instance, resources={"postgres": PostgresResource(database_url=database_url)}
    ) as context:
        found = deferred_pictures(context)
    assert isinstance(found, list | dg.SkipReason)
    return found


def test_runs_for_tenants_whose_pictures_are_due(
    instance: dg.DagsterInstance, tenants: dict[str, Tenant], database: str
) -> None:
    """One run for each active tenant with a partition, and the same one at the next tick."""
    found = tick(instance, database)
    assert isinstance(found, list)
    assert [request.partition_key for request in found] == [str(tenants["due"].id)]
    again = tick(instance, database)
    assert isinstance(again, list)
    assert [request.run_key for request in again] == [request.run_key for request in found]


def test_a_tenant_whose_run_waits_or_works_gets_no_further_one(
    instance: dg.DagsterInstance, tenants: dict[str, Tenant], database: str
) -> None:
    """As long as the run that was asked for has not ended, none is asked for."""
    tags = {"dagster/partition": str(tenants["due"].id)}
    run = instance.create_run_for_job(job_def, tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert isinstance(tick(instance, database), dg.SkipReason)
    instance.report_run_failed(run)
    assert isinstance(tick(instance, database), list)


def test_a_read_that_fails_starts_nothing(instance: dg.DagsterInstance) -> None:
    """Without a database the sensor says so, and asks for no run."""
    found = tick(instance, "postgresql://127.0.0.1:1/nowhere")
    assert isinstance(found, dg.SkipReason)
    assert "could not be read" in str(found.skip_message)
