"""Each tenant's own provider and model, through Dagster: from the policy's file and the tenant's settings."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import pytest

from tests.emulated_openai import KEY, MODEL, emulated_openai
from tests.pictures import photo
from tests.world import open_world
from vision_assets.clients.postgres.posts import replace_policy
from vision_assets.core.errors import ConfigurationError
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.tenants import Tenant, TenantId
from vision_assets.definitions import build_defs
from vision_assets.defs.jobs import TENANT_PIPELINE
from vision_assets.defs.partitions import TENANTS
from vision_assets.resources import (
    PostgresResource,
    S3Resource,
    VisionPolicyResource,
    VisionProviderResource,
)
from vision_assets.settings import Settings

ASSETS = ("vision_results", "post_enrichment")


def stored(
    parts: Settings, database: str, bucket: str, folder: Path, policies: dict[str, dict[str, object]]
) -> list[Tenant]:
    """Make tenants with a picture each in S3, and rules of their own."""

    async def store() -> list[Tenant]:
        async with open_world(database, bucket, parts) as world:
            photo(160, 120).save(folder / "1.jpg")
            tenants = [await world.tenant(name) for name in policies]
            for tenant in tenants:
                await world.load(tenant, folder)
                await world.store_media(tenant)
                policy = policies[tenant.name]
                assert await replace_policy(world.database, tenant.id, before=None, after=policy or None)
            return tenants

    return asyncio.run(store())


def test_tenants_choose(parts: Settings, database: str, bucket: str, tmp_path: Path) -> None:
    """One pays for a model of its own, one for the file's, one takes the free one; each finds its own results again."""
    policies: dict[str, dict[str, object]] = {
        "Own": {"model": MODEL, "description_language": "en"},
        "Plain": {},
        "Free": {"provider": "local"},
        "Wrong": {"provider": "claude"},
    }
    tenants = stored(parts, database, bucket, tmp_path, policies)
    file = tmp_path / "policy.yaml"
    file.write_text("provider: openai\nmodel: not-there\n")
    assert parts.aws_access_key_id
    assert parts.aws_secret_access_key
    with emulated_openai() as server:
        resources = {
            "postgres": PostgresResource(database_url=database),
            "s3": S3Resource(
                bucket=bucket,
                endpoint_url=parts.s3_endpoint_url,
                access_key_id=parts.aws_access_key_id.get_secret_value(),
                secret_access_key=parts.aws_secret_access_key.get_secret_value(),
            ),
            "vision_policy": VisionPolicyResource(file=str(file)),
            "vision_provider": VisionProviderResource(openai_base_url=server.base_url, openai_api_key=KEY),
        }
        own, plain, free, wrong = (materialized(resources, tenant) for tenant in tenants)
    assert own["vision_results"].startswith(f"openai {MODEL} ")
    assert free["vision_results"].startswith("local ")
    for told in (own, free):
        assert "| ok | 1 |" in told["post_enrichment"] or "| partial | 1 |" in told["post_enrichment"]
    assert [body["model"] for body in server.requests] == [MODEL, "not-there"]
    assert "in English" in json.dumps(server.requests[0]["messages"])
    assert "The model not-there does not exist" in plain["failed"]
    assert "vision.provider: 'claude' is not allowed" in wrong["failed"]


def materialized(resources: dict[str, Any], tenant: Tenant) -> dict[str, str]:
    """Run both assets of a tenant; give what they tell, or how they failed."""
    defs = build_defs(resources=resources)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id)])
        result = defs.resolve_job_def(TENANT_PIPELINE).execute_in_process(
            instance=instance,
            partition_key=str(tenant.id),
            asset_selection=[dg.AssetKey(asset) for asset in ASSETS],
            raise_on_error=False,
        )
        if not result.success:
            return {"failed": str(result.get_step_failure_events()[0].event_specific_data)}
        told = {}
        for asset, what in zip(ASSETS, ("provider", "statuses"), strict=True):
            (event,) = result.asset_materializations_for_node(asset)
            told[asset] = str(event.metadata[what].value)
        return told


@pytest.mark.parametrize(
    ("policy", "settings", "identity"),
    [
        ({}, {}, ("local", "rules-1")),
        ({}, {"provider": "gigachat"}, ("gigachat", "GigaChat-2-Max")),
        ({"model": "GigaChat-2-Pro"}, {"provider": "gigachat"}, ("gigachat", "GigaChat-2-Pro")),
        ({"provider": "gigachat"}, {"provider": "openai", "openai_model": "x"}, ("gigachat", "GigaChat-2-Max")),
        ({"provider": "openai"}, {"openai_model": "x"}, ("openai", "x")),
        ({"provider": "openai", "model": "y"}, {"openai_model": "x"}, ("openai", "y")),
        ({"provider": "local"}, {"provider": "openai"}, ("local", "rules-1")),
    ],
)
def test_what_the_policy_leaves_open_the_settings_say(
    policy: dict[str, str], settings: dict[str, Any], identity: tuple[str, str]
) -> None:
    """Provider and model of the policy come first; each provider has its own model in the settings."""
    assert VisionProviderResource(**settings).identity(VisionPolicy.model_validate(policy)) == identity


@pytest.mark.parametrize(
    ("policy", "settings", "said"),
    [
        ({"provider": "openai"}, {}, "OPENAI_MODEL"),
        ({"model": "x"}, {}, "the provider local has none to choose"),
        ({}, {"provider": "claude"}, "There is no provider 'claude'"),
    ],
)
def test_what_cannot_be_chosen_is_told(policy: dict[str, str], settings: dict[str, Any], said: str) -> None:
    """By the name of the setting that mends it."""
    with pytest.raises(ConfigurationError, match=said):
        VisionProviderResource(**settings).identity(VisionPolicy.model_validate(policy))


def test_a_tenants_policy_is_the_files_with_its_own_over_it(tmp_path: Path) -> None:
    """Without a file the defaults are below; an error names the tenant."""
    file = tmp_path / "policy.yaml"
    file.write_text("provider: openai\nover_budget: ocr\n")
    tenant = Tenant(TenantId(UUID(int=7)), "T", {"vision": {"over_budget": "defer"}})
    found = VisionPolicyResource(file=str(file)).policy(tenant)
    assert (found.provider, found.over_budget) == ("openai", "defer")
    assert VisionPolicyResource().policy(tenant) == VisionPolicy()
