"""The check `reuse_agreement` through Dagster: what audits of reuse have found stands beside the tenant's partition."""

import asyncio
from pathlib import Path

import dagster as dg

from tests.pictures import photo
from tests.world import open_world
from vision_assets.core.tenants import Tenant
from vision_assets.definitions import build_defs
from vision_assets.defs.partitions import TENANTS
from vision_assets.resources import PostgresResource, S3Resource, VisionPolicyResource
from vision_assets.settings import Settings

MORE_AUDITS = (
    """
    INSERT INTO media_objects (tenant_id, sha256, mime, bytes, width, height, s3_key, first_post_seq, first_position)
    SELECT $1, repeat(md5(n::text), 2), 'image/png', 9, 1, 1, n::text, 1, n FROM generate_series(1, 25) n
    """,
    """
    INSERT INTO vision_results (tenant_id, sha256, provider, model, schema_version, fingerprint, status, method)
    SELECT $1, repeat(md5(n::text), 2), r.provider, r.model, r.schema_version, r.fingerprint, 'error', 'new'
    FROM generate_series(1, 25) n CROSS JOIN (SELECT * FROM vision_results LIMIT 1) r
    """,
    """
    INSERT INTO reuse_audits (tenant_id, sha256, donor_sha256, provider, model, differences)
    SELECT $1, repeat(md5(n::text), 2), 'd', a.provider, a.model, '{text}'
    FROM generate_series(1, 25) n CROSS JOIN reuse_audits a
    """,
)


async def audited_tenant(parts: Settings, database: str, bucket: str, folder: Path) -> Tenant:
    """A tenant with a picture and a copy of it, and with audits of which most disagree."""
    async with open_world(database, bucket, parts) as world:
        tenant = await world.tenant("Audited")
        photo(640, 480).save(folder / "1.png")
        photo(640, 480).resize((480, 360)).save(folder / "2.png")
        await world.load(tenant, folder)
        await world.store_media(tenant)
        return tenant


def test_the_check_tells_of_audits(parts: Settings, database: str, bucket: str, tmp_path: Path) -> None:
    """One audit that agrees is no news; 25 that do not are an error with what to do, for this tenant's partition."""
    folder, policy = tmp_path / "pictures", tmp_path / "policy.yaml"
    folder.mkdir()
    policy.write_text("reuse_audit_share: 1\n")
    tenant = asyncio.run(audited_tenant(parts, database, bucket, folder))
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
            "vision_policy": VisionPolicyResource(file=str(policy)),
        }
    )

    def check() -> tuple[dg.AssetCheckEvaluation, dict[str, object]]:
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions(TENANTS.name or "", [str(tenant.id)])
            result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=instance, partition_key=str(tenant.id), asset_selection=[dg.AssetKey("vision_results")]
            )
            [evaluation] = result.get_asset_check_evaluations()
            [event] = result.asset_materializations_for_node("vision_results")
            return evaluation, {name: value.value for name, value in event.metadata.items()}

    async def disagree() -> None:
        async with open_world(database, bucket, parts) as world:
            for statement in MORE_AUDITS:
                await world.database.pool.execute(statement, tenant.id)

    evaluation, shown = check()
    assert (evaluation.passed, evaluation.partition) == (True, str(tenant.id))
    assert evaluation.description == (
        "0 of 1 audited reuses (0.0%) would have said other things; fewer than 20 say nothing yet."
    )
    assert (shown["audited_reuses"], shown["audits_disagreeing_percent"]) == (1, 0.0)
    asyncio.run(disagree())
    evaluation, shown = check()
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "25 of 26 audited reuses (96.2%) would have said other things (text 25)" in str(evaluation.description)
    assert shown["audits_disagreeing_percent"] == 96.15
