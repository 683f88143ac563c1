"""What a scrape tells of real ledgers that real passes have filled.

What is not here: which tenants are shown (`unit/test_exported_tenants.py`), and Prometheus (`test_dashboards.py`).
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.bench import ROOM, Bench, NewBench
from tests.lookalikes import Posts, copies
from tests.pictures import photo
from tests.posted import Posted
from tests.recorded import record_materializations
from tests.scraped import Scraped, open_exporter, scrape
from tests.world import ROOMY, World
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.limits import clear_storage_limits, set_budget_limits, set_storage_limits
from vision_assets.core.budget import EVERYONE, HOLD_LIFE, Allowance, BudgetLimits, Outcome
from vision_assets.core.errors import DatabaseUnavailable
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.tenants import Tenant
from vision_assets.service.app import create_app
from vision_assets.service.exporter import Exporter, Source
from vision_assets.service.sheet import Sheet

GB = 2**30


@pytest.fixture
async def exporter(database: str) -> AsyncIterator[Exporter]:
    """An exporter that reads everything at each scrape."""
    async with open_exporter(database, budget=ROOM) as exporter:
        yield exporter


@pytest.fixture
async def bench(new_bench: NewBench) -> Bench:
    """A tenant without pictures."""
    bench = await new_bench("Payer")
    bench.policy = VisionPolicy(max_pictures_per_post=100)
    return bench


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures that do not look alike."""
    for seed in range(3):
        photo(320, 240, seed=seed).save(tmp_path / f"{seed}.jpg")
    return tmp_path


@pytest.fixture
def posted(folder: Path) -> Posted:
    """The same in one post."""
    return Posted(tuple(sorted(folder.iterdir())))


async def tenant_with_media(world: World, name: str, folder: Path) -> Tenant:
    """A tenant whose pictures are stored."""
    tenant = await world.tenant(name)
    await world.load(tenant, folder)
    await world.store_media(tenant)
    return tenant


async def test_storage_beside_its_limits(world: World, exporter: Exporter, folder: Path) -> None:
    """Usage is what lies in S3, of the tenant and of the bucket; limits are those in force."""
    tenant = await tenant_with_media(world, "one", folder)
    stored = sum((await world.keys()).values()) / GB
    scraped = await scrape(exporter)
    label = str(tenant.id)
    assert scraped.value("tenant_storage_usage_gb", tenant_id=label, content_type="media") == pytest.approx(stored)
    assert scraped.value("tenant_storage_usage_gb", tenant_id=label, content_type="crawl") == 0
    assert scraped.value("storage_bucket_usage_gb", content_type="media") == pytest.approx(stored)
    assert scraped.value("tenant_storage_limit_gb", tenant_id=label) == ROOMY.tenant_bytes / GB
    assert scraped.value("storage_bucket_limit_gb") == ROOMY.bucket_bytes / GB
    assert scraped.value("storage_puts_total", content_type="media") == 3
    assert scraped.value("media_references_total", state="stored", reason="stored") == 3
    assert scraped.value("tenants_active") == 1
    await set_storage_limits(world.database, tenant.id, {"all": GB, "vision": GB // 2})
    scraped = await scrape(exporter)
    assert scraped.value("tenant_storage_limit_gb", tenant_id=label) == 1
    assert scraped.by("content_type", "tenant_storage_type_limit_gb", tenant_id=label) == {"vision": 0.5}


async def test_quota_checks_are_timed(world: World, exporter: Exporter, folder: Path) -> None:
    """Each put that was given room counts once; one that is there already asks for none."""
    tenant = await tenant_with_media(world, "one", folder)
    name = "storage_quota_check_duration_seconds"
    scraped = await scrape(exporter)
    assert scraped.value(f"{name}_count") == 3
    assert scraped.value(f"{name}_bucket", le="+Inf") == 3
    seconds = scraped.value(f"{name}_sum")
    assert seconds is not None
    assert 0 < seconds < 30
    counts = [scraped.by("le", f"{name}_bucket")[le] for le in ("0.001", "0.1", "10.0", "+Inf")]
    assert counts == sorted(counts)
    key, size = next(iter((await world.keys()).items()))
    put = {"content_type": "media", "mime": "image/jpeg", "immutable": True}
    assert not await world.quota().put(tenant.id, key, bytes(size), **put)  # type: ignore[arg-type]
    assert (await scrape(exporter)).value(f"{name}_count") == 3


async def test_refused_puts_and_who_is_near_a_limit(world: World, exporter: Exporter, folder: Path) -> None:
    """Refusals count by limit; those that never were are zeros, so that the first one is seen to rise."""
    world.limits = exporter.storage = replace(ROOMY, tenant_bytes=1)
    tenant = await tenant_with_media(world, "one", folder)
    other = await world.tenant("two")
    scraped = await scrape(exporter)
    refused = {"bucket_full": 0, "tenant_limit": 3, "type_limit": 0}
    assert scraped.by("reason", "storage_quota_violations_total", tenant_id=str(tenant.id)) == refused
    assert sum(scraped.by("reason", "storage_quota_violations_total", tenant_id=str(other.id)).values()) == 0
    near = await scrape(exporter)
    assert near.by("level", "tenants_near_limit", resource="storage") == {"warn": 0, "error": 0}
    world.limits = ROOMY
    await world.store_media(tenant)
    near = await scrape(exporter)
    assert near.by("level", "tenants_near_limit", resource="storage") == {"warn": 1, "error": 1}


async def test_counters_survive_the_exporter(bench: Bench, exporter: Exporter, database: str, folder: Path) -> None:
    """A second exporter tells exactly the same; only its own readings are its own."""
    await bench.show(folder)
    await bench.analyse()
    await bench.world.enrich(bench.tenant)

    def figures(scraped: Scraped) -> dict[object, float]:
        return {key: value for key, value in scraped.samples.items() if not key[0].startswith("vision_assets_read")}

    first = figures(await scrape(exporter))
    async with open_exporter(database, budget=ROOM) as second:
        assert figures(await scrape(second)) == first
    assert first["vision_tokens_used_total", ()] == 3 * 700


async def test_budget_spent_held_and_bounded(bench: Bench, exporter: Exporter, folder: Path) -> None:
    """Of the tenant and of all together; a limit that is set in the ledger beats the settings."""
    await bench.show(folder)
    await bench.analyse()
    await bench.leave_a_hold("0" * 64, ago=timedelta())
    label = str(bench.tenant.id)
    scraped = await scrape(exporter)
    for name, labels in (("vision_budget", {"tenant_id": label}), ("vision_budget_global", {})):
        for period in ("day", "month"):
            assert scraped.value(f"{name}_usage_tokens", period=period, **labels) == 2100
            assert scraped.value(f"{name}_held_tokens", period=period, **labels) == 1792
    assert scraped.by("period", "vision_budget_limit_tokens") == {"day": 1_000_000}
    assert scraped.by("period", "vision_budget_global_limit_tokens") == {}
    await set_budget_limits(bench.world.database, bench.tenant.id, {"day": (4000, None)})
    await set_budget_limits(bench.world.database, EVERYONE, {"month": (5000, None)})
    scraped = await scrape(exporter)
    assert scraped.by("period", "vision_budget_limit_tokens") == {"day": 4000}
    assert scraped.by("period", "vision_budget_global_limit_tokens") == {"month": 5000}
    assert scraped.by("level", "tenants_near_limit", resource="budget_day") == {"warn": 1, "error": 1}


async def test_a_day_ends_with_its_budget(bench: Bench, exporter: Exporter, folder: Path) -> None:
    """At midnight UTC the day's figures begin anew, and the month's at its end."""
    await bench.show(folder)
    await bench.analyse()
    exporter.clock = lambda: datetime.now(UTC) + timedelta(days=32)
    scraped = await scrape(exporter)
    assert scraped.by("period", "vision_budget_usage_tokens") == {"day": 0, "month": 0}
    assert scraped.value("vision_tokens_used_total") == 2100


async def test_tokens_used_never_fall(bench: Bench, exporter: Exporter, folder: Path) -> None:
    """A call that never came back is charged, and counts as tokens of a call only when it comes back late."""
    await bench.show(folder)
    hold = await bench.leave_a_hold("0" * 64, ago=HOLD_LIFE + timedelta(seconds=1))
    ledger = PostgresBudget(bench.world.database)
    await ledger.sweep(now=datetime.now(UTC))
    scraped = await scrape(exporter)
    assert scraped.by("period", "vision_budget_global_usage_tokens")["month"] == 1792
    assert scraped.value("vision_tokens_used_total") == 0
    await ledger.settle([Outcome(hold, 500)])
    scraped = await scrape(exporter)
    assert scraped.by("period", "vision_budget_global_usage_tokens")["month"] == 500
    assert scraped.value("vision_tokens_used_total") == 500


async def test_where_results_come_from(bench: Bench, exporter: Exporter, tmp_path: Path) -> None:
    """New ones, a near-duplicate's and those that lay in S3; calls are timed, reuses cost none."""
    posts = Posts(bench, tmp_path)
    await posts.show(photo(320, 240))
    await bench.analyse()
    await posts.show(*copies())
    await bench.analyse()
    await bench.world.database.pool.execute("DELETE FROM vision_results")
    await bench.analyse()
    scraped = await scrape(exporter)
    assert scraped.by("cache_type", "vision_cache_hits_total") == {"s3": 1, "phash": 2}
    assert scraped.by("reason", "vision_media_total", result="ok") == {"new": 1, "near_duplicate": 2, "cache_hit": 1}
    assert scraped.value("vision_analyses_total", provider="paid", model="test-1") == 1
    assert scraped.value("vision_analysis_duration_seconds_count") == 1
    assert scraped.value("vision_analysis_duration_seconds_bucket", le="+Inf") == 1
    took = scraped.value("vision_analysis_duration_seconds_sum")
    milliseconds = scraped.value("vision_analysis_duration_milliseconds_total", provider="paid", model="test-1")
    assert took == pytest.approx((milliseconds or 0) / 1000)
    assert sum(scraped.by("decision", "vision_policy_decisions_total").values()) == 1


async def test_what_waits_in_each_queue(bench: Bench, exporter: Exporter, posted: Posted) -> None:
    """References, then pictures, then calls over budget; in the end nothing, which is told by zeros."""
    queues = {"tenant_id": str(bench.tenant.id)}

    async def waiting() -> tuple[dict[str, float], dict[str, float]]:
        scraped = await scrape(exporter)
        oldest = scraped.by("queue", "tenant_queue_oldest_timestamp_seconds", **queues)
        return scraped.by("queue", "tenant_queue_items", **queues), {name: round(at, 3) for name, at in oldest.items()}

    await bench.world.load(bench.tenant, posted)
    assert await waiting() == (
        {"media": 3, "vision": 0, "deferred": 0},
        {"media": datetime(2026, 11, 1, tzinfo=UTC).timestamp()},
    )
    await bench.show(posted)
    [(stored,)] = await bench.rows("SELECT min(first_seen_at) FROM media_objects")
    assert isinstance(stored, datetime)
    assert await waiting() == (
        {"media": 0, "vision": 3, "deferred": 0},
        {"vision": round(stored.timestamp(), 3)},
    )
    bench.limits = BudgetLimits(tenant={"day": Allowance(0)})
    await bench.analyse()
    [(due,)] = await bench.rows("SELECT min(due_at) FROM vision_decisions")
    assert isinstance(due, datetime)
    assert await waiting() == (
        {"media": 0, "vision": 0, "deferred": 3},
        {"deferred": round(due.timestamp(), 3)},
    )
    blocked = (await scrape(exporter)).by("reason", "vision_budget_gate_blocks_total", **queues)
    assert blocked == {"daily_limit": 3}
    bench.limits = ROOM
    await bench.wait_until_due()
    await bench.analyse()
    assert await waiting() == ({"media": 0, "vision": 0, "deferred": 0}, {})


async def test_what_could_not_be_done(world: World, exporter: Exporter, tmp_path: Path) -> None:
    """Open dead letters by stage, zeros before there are any, so that the first ones are seen to rise."""
    none = {"media_objects": 0, "phash_index": 0, "vision_results": 0, "import": 0}
    assert (await scrape(exporter)).by("stage", "dead_letters_open") == none
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    tenant = await tenant_with_media(world, "one", tmp_path)
    assert (await scrape(exporter)).by("stage", "dead_letters_open") == {**none, "media_objects": 1}
    await world.database.pool.execute("UPDATE dead_letters SET resolved_at = now() WHERE tenant_id = $1", tenant.id)
    assert (await scrape(exporter)).by("stage", "dead_letters_open") == none


async def test_drift_of_a_reconciliation(world: World, exporter: Exporter, folder: Path) -> None:
    """What a reconciliation put right counts by class; when it was is told of the tenant and of the oldest one."""
    tenant = await tenant_with_media(world, "one", folder)
    scraped = await scrape(exporter)
    assert scraped.by("drift", "storage_drift_objects_total") == dict.fromkeys(
        ("missing", "untracked", "wrong_size", "stale_hold"), 0
    )
    assert scraped.by("tenant_id", "tenant_storage_reconciled_timestamp_seconds") == {}
    created = await world.database.pool.fetchval("SELECT created_at FROM tenants")
    oldest = "storage_oldest_reconciliation_timestamp_seconds"
    assert scraped.value(oldest) == pytest.approx(created.timestamp())
    lost = sorted(await world.keys())[:2]
    await world.bucket.delete(lost)
    await world.bucket.put(f"media/{tenant.id}/aa/{'a' * 64}.png", b"12", mime="image/png")
    await world.reconcile(tenant)
    await world.reconcile(tenant)
    scraped = await scrape(exporter)
    assert scraped.by("drift", "storage_drift_objects_total") == {
        "missing": 2,
        "untracked": 1,
        "wrong_size": 0,
        "stale_hold": 0,
    }
    reconciled = await world.database.pool.fetchval("SELECT min(reconciled_at) FROM tenant_storage_usage")
    assert scraped.by("tenant_id", "tenant_storage_reconciled_timestamp_seconds") == {
        str(tenant.id): pytest.approx(reconciled.timestamp())
    }
    assert scraped.value(oldest) == pytest.approx(reconciled.timestamp())


async def test_more_tenants_than_series(world: World, database: str, folder: Path) -> None:
    """The fullest has series of its own; the others are one, whose counters do not fall when the fullest changes."""
    tenants = [await tenant_with_media(world, name, folder) for name in ("one", "two", "three")]
    one, two, _ = (str(tenant.id) for tenant in tenants)
    await set_storage_limits(world.database, tenants[0].id, {"all": 1})
    async with open_exporter(database, tenants_shown=1) as exporter:
        scraped = await scrape(exporter)
        usage = scraped.by("tenant_id", "tenant_storage_usage_gb", content_type="media")
        assert set(usage) == {one, "other"}
        no_refusals = dict.fromkeys(("bucket_full", "tenant_limit", "type_limit"), 0)
        assert scraped.by("reason", "storage_quota_violations_total", tenant_id="other") == no_refusals
        assert usage["other"] == pytest.approx(2 * usage[one])
        assert set(scraped.by("tenant_id", "tenant_queue_items", queue="vision")) == {one, "other"}
        world.limits = replace(ROOMY, tenant_bytes=1)
        for tenant in tenants:
            await world.load(tenant, others(folder))
            await world.store_media(tenant)
        refused = (await scrape(exporter)).by("tenant_id", "storage_quota_violations_total", reason="tenant_limit")
        assert refused == {one: 2, "other": 4}
        await clear_storage_limits(world.database, tenants[0].id)
        await set_storage_limits(world.database, tenants[1].id, {"all": 1})
        refused = (await scrape(exporter)).by("tenant_id", "storage_quota_violations_total", reason="tenant_limit")
        assert refused == {two: 2, "other": 4}


def others(folder: Path) -> Posted:
    """Two more pictures that do not look alike, in one post."""
    files = tuple(folder / f"{seed}.png" for seed in (11, 12))
    for seed, file in enumerate(files):
        photo(320, 240, seed=11 + seed).save(file)
    return Posted(files)


async def test_a_tenant_that_is_not_active(world: World, exporter: Exporter, folder: Path) -> None:
    """It has no series, and its bytes stay among the bucket's."""
    tenant = await tenant_with_media(world, "one", folder)
    await world.database.pool.execute("UPDATE tenants SET active = false WHERE id = $1", tenant.id)
    scraped = await scrape(exporter)
    assert {dict(labels).get("tenant_id", "other") for _, labels in scraped.samples} == {"other"}
    assert (scraped.value("storage_bucket_usage_gb", content_type="media") or 0) > 0
    assert scraped.value("storage_puts_total", content_type="media") == 3
    assert scraped.value("tenants_active") == 0


async def test_what_a_tenant_counted_before_it_is_active_again_is_not_new(
    world: World, database: str, folder: Path
) -> None:
    """Neither what it had when the exporter began, nor what it had when it was made inactive."""
    world.limits = replace(ROOMY, tenant_bytes=1)
    tenant, other = await tenant_with_media(world, "one", folder), await tenant_with_media(world, "two", folder)
    refused = {"tenant_id": "other", "reason": "tenant_limit"}

    async def activate(tenant: Tenant, active: bool) -> None:
        await world.database.pool.execute("UPDATE tenants SET active = $2 WHERE id = $1", tenant.id, active)

    await activate(other, False)
    async with open_exporter(database, tenants_shown=0) as exporter:
        assert (await scrape(exporter)).value("storage_quota_violations_total", **refused) == 0
        await activate(tenant, False)
        await activate(other, True)
        assert (await scrape(exporter)).value("storage_quota_violations_total", **refused) == 0
        await activate(tenant, True)
        assert (await scrape(exporter)).value("storage_quota_violations_total", **refused) == 0
        await world.store_media(tenant)
        assert (await scrape(exporter)).value("storage_quota_violations_total", **refused) == 3


async def test_last_successes_are_dagsters(world: World, database: str, bare_database: str, tmp_path: Path) -> None:
    """The newest materialization of each asset and tenant, as Dagster itself has recorded it."""
    one, two = await world.tenant("one"), await world.tenant("two")
    async with open_exporter(database, dagster_url=bare_database) as exporter:
        before = await scrape(exporter)
        assert before.value("vision_assets_read_success", source="dagster") == 1
        assert "asset_last_success_timestamp_seconds" not in before.names
        done = [(one, "media_objects"), (one, "vision_results")]
        await asyncio.to_thread(record_materializations, tmp_path, bare_database, done)
        first = await scrape(exporter)
        assert set(first.by("asset", "asset_last_success_timestamp_seconds", tenant_id=str(one.id))) == {
            "media_objects",
            "vision_results",
        }
        done = [(one, "media_objects"), (two, "media_objects")]
        await asyncio.to_thread(record_materializations, tmp_path, bare_database, done)
        second = await scrape(exporter)
    label, name = {"asset": "media_objects", "tenant_id": str(one.id)}, "asset_last_success_timestamp_seconds"
    earlier, later = first.value(name, **label), second.value(name, **label)
    assert earlier is not None
    assert later is not None
    assert later > earlier
    assert abs(later - datetime.now(UTC).timestamp()) < 600
    by_tenant = second.by("tenant_id", name, asset="media_objects")
    assert set(by_tenant) == {str(one.id), str(two.id)}
    async with open_exporter(database, dagster_url=bare_database, tenants_shown=0) as exporter:
        of_all = await scrape(exporter)
    assert name not in of_all.names
    newest = of_all.by("asset", "asset_newest_success_timestamp_seconds")
    assert newest == {
        "media_objects": by_tenant[str(two.id)],
        "vision_results": first.value(name, asset="vision_results", tenant_id=str(one.id)),
    }


async def test_everything_counted_is_shown(bench: Bench, exporter: Exporter, folder: Path) -> None:
    """No counter that the passes raise is forgotten: each is a metric, or what a histogram is made of."""
    await bench.show(folder)
    await bench.analyse()
    await bench.world.enrich(bench.tenant)
    await bench.world.reconcile(bench.tenant)
    counted = {str(name) for (name,) in await bench.rows("SELECT DISTINCT name FROM counters")}
    scraped = await scrape(exporter)
    histograms = {name.removesuffix("_bucket") for name in scraped.names if name.endswith("_bucket")}
    assert len(counted) > 8
    assert counted - scraped.names - histograms == {"storage_quota_check_duration_microseconds_total"}


async def test_readings_that_take_long_are_kept(world: World, database: str, folder: Path) -> None:
    """Queues are read again only after a while, and say when they were; the books are read each time."""
    async with open_exporter(database, kept_seconds=1000) as exporter:
        first = await scrape(exporter)
        tenant = await world.tenant("one")
        await world.load(tenant, folder)
        second = await scrape(exporter)
    at = "vision_assets_read_timestamp_seconds"
    assert second.value("tenants_active") == 1
    assert second.by("queue", "tenant_queue_items", tenant_id=str(tenant.id)) == {
        "media": 0,
        "vision": 0,
        "deferred": 0,
    }
    assert second.value(at, source="queues") == first.value(at, source="queues")
    assert (second.value(at, source="books") or 0) > (first.value(at, source="books") or 0)


async def test_what_could_not_be_read_is_not_asked_for_by_every_scrape() -> None:
    """It is told each time and shows nothing; after a while it is asked for again."""
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise DatabaseUnavailable("away")
        return asked

    async def read(source: Source[int]) -> tuple[int | None, float | None]:
        sheet = Sheet()
        found = await source.read(sheet, ask)
        return found, Scraped.parse(sheet.text().decode()).value("vision_assets_read_success", source="queues")

    source = Source[int]("queues", allowed_seconds=60, kept_seconds=1000)
    assert [await read(source) for _ in range(2)] == [(None, 0), (None, 0)]
    assert asked == 1
    source.kept_seconds = 0
    assert await read(source) == (2, 1)
    source.kept_seconds = 1000
    assert await read(source) == (2, 1)


def test_an_absent_database_is_told_and_never_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service runs without it: nothing is shown but that it cannot be read, and it is not healthy."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    with TestClient(create_app()) as client:
        answer = client.get("/metrics")
        health = client.get("/healthz")
    scraped = Scraped.parse(answer.text)
    assert answer.status_code == 200
    assert scraped.by("source", "vision_assets_read_success") == {"books": 0}
    assert all(name.startswith("vision_assets_read") for name in scraped.names)
    assert health.status_code == 503
    assert "DATABASE_URL" in health.json()["error"]


def test_a_healthy_service(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All sources are read, and Prometheus is told the format."""
    monkeypatch.setenv("DATABASE_URL", database)
    with TestClient(create_app()) as client:
        answer = client.get("/metrics")
        assert client.get("/healthz").json() == {"status": "ok"}
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    sources = Scraped.parse(answer.text).by("source", "vision_assets_read_success")
    assert sources == {"books": 1, "queues": 1, "dagster": 1}
