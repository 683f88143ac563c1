"""`vision_results` through Dagster with a provider whose calls cost: what its materialization says of the budget."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import dagster as dg
import pytest

from tests.paid_provider import PaidProvider
from tests.pictures import photo
from tests.world import open_world
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.tenants import Tenant, TenantId
from vision_assets.core.vision import VisionProvider
from vision_assets.definitions import build_defs
from vision_assets.defs.partitions import TENANTS
from vision_assets.resources import (
    PostgresResource,
    S3Resource,
    TokenBudgetResource,
    VisionProviderResource,
    VisionProviders,
)
from vision_assets.settings import Settings


class PaidAlone(VisionProviders):
    """The provider of the tests for every tenant."""

    async def of(self, tenant_id: TenantId, policy: VisionPolicy) -> VisionProvider:
        """Give it."""
        return PaidProvider()


class Paid(VisionProviderResource):
    """The provider of the tests; one call at a time."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[VisionProviders]:
        """Give it."""
        async with AsyncExitStack() as opened:
            yield PaidAlone(self, opened)


@pytest.fixture
def tenant(parts: Settings, database: str, bucket: str, tmp_path: Path) -> Tenant:
    """A tenant with three pictures in S3."""

    async def store() -> Tenant:
        async with open_world(database, bucket, parts) as world:
            for seed in range(3):
                photo(160, 120, seed=seed).save(tmp_path / f"{seed}.jpg")
            tenant = await world.tenant("Payer")
            await world.load(tenant, tmp_path)
            await world.store_media(tenant)
            return tenant

    return asyncio.run(store())


def materialize(tenant: Tenant, database: str, bucket: str, parts: Settings, *, day_tokens: int) -> dict[str, str]:
    """Run the asset and give its metadata as text."""
    assert parts.aws_access_key_id
    assert parts.aws_secret_access_key
    defs = build_defs(
        resources={
            "postgres": PostgresResource(database_url=database),
            "s3": S3Resource(
                bucket=bucket,
                endpoint_url=parts.s3_endpoint_url,
                access_key_id=parts.aws_access_key_id.get_secret_value(),
                secret_access_key=parts.aws_secret_access_key.get_secret_value(),
            ),
            "vision_provider": Paid(concurrency=1),
            "token_budget": TokenBudgetResource(
                tenant_day_tokens=day_tokens, tenant_calls=3, prices_per_million_tokens={"paid": "600"}
            ),
        }
    )
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(TENANTS.name or "", [str(tenant.id)])
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=instance, partition_key=str(tenant.id), asset_selection=[dg.AssetKey("vision_results")]
        )
        (event,) = result.asset_materializations_for_node("vision_results")
        return {name: str(value.value) for name, value in event.metadata.items()}


def quoted(shown: dict[str, str], *figures: str) -> list[str]:
    """Figures of what stood before the pass."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown["quote"].splitlines()]
    return [dict(row for row in rows if len(row) == 2)[figure].replace(",", "") for figure in figures]


def test_what_the_budget_allowed(tenant: Tenant, database: str, bucket: str, parts: Settings) -> None:
    """The quote, calls made and deferred, what a call is held at, and the books of the day stand in the metadata."""
    shown = materialize(tenant, database, bucket, parts, day_tokens=700 + 1792)
    assert (shown["analyses"], shown["tokens"], shown["deferred"]) == ("2", "1400", "1")
    assert "| daily_limit | 1 |" in shown["deferred_because"]
    assert quoted(shown, "calls", "tokens", "calls today", "cost microunits") == ["3", str(3 * 1792), "1", "3225600"]
    assert shown["token_estimate"].startswith("1792 tokens a call, a fixed bound")
    day = next(line for line in shown["token_budget"].splitlines() if line.startswith("| tenant, day of"))
    assert [cell.strip() for cell in day.strip("|").split("|")][1:] == ["1,400", "0", "0", "2,492"]
    shown = materialize(tenant, database, bucket, parts, day_tokens=10_000)
    assert (shown["analyses"], shown["deferred"], shown["deferred_because"]) == ("1", "0", "none in this run")
    assert "2 calls" in shown["token_estimate"]
    assert quoted(shown, "calls", "tokens", "measured calls") == ["1", "704", "2"]
