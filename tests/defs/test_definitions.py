"""The code location as Dagster sees it, and one asset run through Dagster on the real parts."""

import asyncio
import logging
import shutil
from pathlib import Path

import dagster as dg
import pytest

from tests.lookalikes import copies, spotted
from tests.pictures import encoded, photo
from vision_assets.clients.picture_folder import PictureFolder
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import PostgresPosts, ensure_tenant
from vision_assets.core.errors import DatabaseUnavailable, StorageUnavailable, TenantUnknown
from vision_assets.core.importing import import_posts
from vision_assets.core.tenants import Tenant
from vision_assets.definitions import build_defs
from vision_assets.defs import media
from vision_assets.defs.failures import raise_if_any, translated
from vision_assets.defs.jobs import TENANT_PIPELINE
from vision_assets.defs.partitions import TENANTS
from vision_assets.resources import PostgresResource, QdrantResource, S3Resource
from vision_assets.settings import Settings

PHOTOS = Path(__file__).parents[2] / "examples" / "city_walks" / "photos"

GRAPH = {
    "media_objects": {"posts"},
    "phash_index": {"media_objects"},
    "vision_results": {"phash_index"},
    "post_enrichment": {"vision_results"},
    "tenant_storage_usage": {"media_objects", "vision_results", "post_enrichment"},
    "qdrant_collection": {"posts", "post_enrichment"},
    "billing_usage": {"tenant_storage_usage", "vision_results"},
}
BY_THE_CALENDAR = {"billing_usage"}
"""Not part of a tenant's chain."""


@pytest.fixture
def defs(parts: Settings, database: str, bucket: str, qdrant: str) -> dg.Definitions:
    """The definitions on this test's own database and bucket."""
    assert parts.aws_access_key_id is not None
    assert parts.aws_secret_access_key is not None
    return build_defs(
        resources={
            "postgres": PostgresResource(database_url=database),
            "qdrant": QdrantResource(url=qdrant),
            "s3": S3Resource(
                bucket=bucket,
                endpoint_url=parts.s3_endpoint_url,
                access_key_id=parts.aws_access_key_id.get_secret_value(),
                secret_access_key=parts.aws_secret_access_key.get_secret_value(),
            ),
        }
    )


def imported(database: str, folder: Path, name: str = "Tenant") -> Tenant:
    """A tenant with a folder's pictures."""

    async def load() -> Tenant:
        async with Database.open(database, max_size=1) as opened:
            tenant = await ensure_tenant(opened, name)
            await import_posts(tenant.id, PictureFolder(folder), store=PostgresPosts(opened))
            return tenant

    return asyncio.run(load())


def run(defs: dg.Definitions, tenant: Tenant, instance: dg.DagsterInstance, *assets: str) -> dg.ExecuteInProcessResult:
    """Run the tenant's job, or some of its assets."""
    instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id)])
    return defs.resolve_job_def(TENANT_PIPELINE).execute_in_process(
        instance=instance,
        partition_key=str(tenant.id),
        asset_selection=[dg.AssetKey(asset) for asset in assets] or None,
        raise_on_error=False,
    )


def test_asset_graph(defs: dg.Definitions) -> None:
    """The assets, what they are made of, and that people can read in the UI what each is."""
    graph = defs.resolve_asset_graph()
    assert {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.materializable_asset_keys
    } == GRAPH
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.description
        assert node.owners
        assert node.kinds
        assert node.group_name != "default"
        assert node.code_version
        assert node.partitions_def == TENANTS


def test_the_whole_job(defs: dg.Definitions, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One run materializes the chain for its tenant; every log line about a picture tells run, tenant and sha256."""
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted(PHOTOS.glob("*.jpg"))[:2]:
        shutil.copy(path, folder)
    (folder / "broken.jpg").write_bytes(b"<html>gone</html>")
    tenant = imported(database, folder)
    caplog.clear()
    with dg.DagsterInstance.ephemeral() as instance, caplog.at_level(logging.DEBUG, logger="vision_assets"):
        result = run(defs, tenant, instance)
        assert result.success
        for asset in BY_THE_CALENDAR:
            assert instance.get_latest_materialization_event(dg.AssetKey(asset)) is None
        for asset in set(GRAPH) - BY_THE_CALENDAR:
            event = instance.get_latest_materialization_event(dg.AssetKey(asset))
            assert event is not None
            assert event.asset_materialization is not None
            assert event.asset_materialization.partition == str(tenant.id)
            assert event.asset_materialization.metadata["tenant"].value == "Tenant"
        counted = instance.get_latest_materialization_event(dg.AssetKey("media_objects"))
    assert counted is not None
    assert counted.asset_materialization is not None
    assert counted.asset_materialization.metadata["references_stored"].value == 2
    assert "not_a_picture" in str(counted.asset_materialization.metadata["not_stored_because"].value)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("vision_assets.core")]
    assert lines
    assert all(f"trace_id={result.run_id}" in line and f"tenant_id={tenant.id}" in line for line in lines)
    about_pictures = [line for line in lines if "event=media." in line or "event=vision." in line]
    assert len(about_pictures) == 3
    assert all("sha256=" in line for line in about_pictures)


def test_hashes_alone(defs: dg.Definitions, database: str, tmp_path: Path) -> None:
    """`phash_index` may be materialized alone; `media_objects` is not touched by it."""
    shutil.copy(min(PHOTOS.glob("*.jpg")), tmp_path)
    tenant = imported(database, tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(defs, tenant, instance, "phash_index").success
        assert instance.get_latest_materialization_event(dg.AssetKey("phash_index")) is not None
        assert instance.get_latest_materialization_event(dg.AssetKey("media_objects")) is None


def test_near_duplicates_are_shown_when_hashes_changed(
    defs: dg.Definitions, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that hashed pictures shows the tenant's clusters; one that hashed none, or has too many, looks for none."""
    for number, quality in enumerate((90, 70, 50)):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(photo(), quality=quality))
    (tmp_path / "other.jpg").write_bytes(encoded(photo(seed=2)))
    shown = []
    with dg.DagsterInstance.ephemeral() as instance:
        for seed in (None, None, 3):
            if seed is not None:
                (tmp_path / "later.jpg").write_bytes(encoded(photo(seed=seed)))
                monkeypatch.setattr(media, "CLUSTERED_HASHES", 4)
            tenant = imported(database, tmp_path)
            assert run(defs, tenant, instance, "media_objects", "phash_index").success
            event = instance.get_latest_materialization_event(dg.AssetKey("phash_index"))
            assert event is not None
            assert event.asset_materialization is not None
            shown.append(event.asset_materialization.metadata)
    first, again, many = shown
    assert first["near_duplicates"].value == "3 pictures in 1 clusters, of 4"
    assert (first["clusters"].value, first["pictures_in_clusters"].value) == (1, 3)
    assert first["duplicate_megabytes"].value != 0
    assert str(first["largest_clusters"].value).count("](data:image/webp;base64,") == 3
    assert "nothing was hashed" in str(again["near_duplicates"].value)
    assert "more than 4 hashes" in str(many["near_duplicates"].value)
    assert not {"clusters", "largest_clusters"} & (set(again) | set(many))


def test_reuses_are_shown_side_by_side(defs: dg.Definitions, database: str, tmp_path: Path) -> None:
    """Both pictures of each decision with distances and reason, and how often each was given."""
    pictures = (photo(320, 240), *copies(), spotted(3))
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture, "PNG"))
    tenant = imported(database, tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(defs, tenant, instance, "media_objects", "phash_index", "vision_results").success
        event = instance.get_latest_materialization_event(dg.AssetKey("vision_results"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    [reused, refused] = str(metadata["reuses"].value).splitlines()[2:]
    assert (reused.count("](data:image/webp;base64,"), refused.count("](data:image/webp;base64,")) == (2, 2)
    assert "| reused: same_picture |" in reused
    assert "| refused: cells |" in refused
    counted = str(metadata["reuse_decisions"].value)
    assert "| reused | same_picture | 1 |" in counted
    assert "| refused | cells | 2 |" in counted
    assert (metadata["hashes_quarantined"].value, metadata["reuses_taken_back"].value) == (0, 0)


def test_unknown_tenant_fails_for_good(defs: dg.Definitions) -> None:
    """A partition without a tenant fails with a text that says so, and is not retried."""
    nobody = Tenant(id="00000000-0000-4000-8000-00000000dead", name="")  # type: ignore[arg-type]
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(defs, nobody, instance, "tenant_storage_usage")
    assert not result.success
    [failure] = result.get_step_failure_events()
    assert "00000000-0000-4000-8000-00000000dead" in str(failure.step_failure_data.error_display_string)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_errors_become_failures() -> None:
    """Transient errors may be retried, permanent ones not; in a group, one permanent error decides."""
    cases: dict[bool, list[Exception]] = {
        True: [DatabaseUnavailable("gone"), ExceptionGroup("", [StorageUnavailable("a"), DatabaseUnavailable("b")])],
        False: [TenantUnknown("none"), ExceptionGroup("", [StorageUnavailable("a"), TenantUnknown("b")])],
    }
    for may_be_retried, errors in cases.items():
        for error in errors:
            with pytest.raises(dg.Failure) as caught, translated():
                raise error
            assert caught.value.allow_retries is may_be_retried
            assert caught.value.metadata["error_class"].value


def test_bugs_are_not_translated() -> None:
    """What is no error of the project's passes as it is, alone or in a group with others."""
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError
    with pytest.raises(ExceptionGroup), translated():
        raise ExceptionGroup("", [StorageUnavailable("a"), ZeroDivisionError()])


@pytest.mark.parametrize("hopeless", [False, True])
def test_only_what_may_pass_is_retried(hopeless: bool) -> None:
    """Items that failed for a passing reason fail the step for a retry; an empty account does not."""
    with pytest.raises(dg.Failure, match="1 items failed and stay to do; 2 are done") as failed:
        raise_if_any(["a picture: 402"], done=2, hopeless=hopeless)
    assert failed.value.allow_retries is not hopeless
    raise_if_any([], done=0, hopeless=hopeless)
