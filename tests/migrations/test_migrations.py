"""The schema forward, back, and forward again, on the real Postgres."""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from dagster_postgres import PostgresRunStorage

from vision_assets.clients.postgres.migrate import current_revision, downgrade, migrate

TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
SCHEMA = """
SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
WHERE table_schema = 'public' ORDER BY 1, 2
"""
USAGE = "SELECT content_type, total_bytes, objects_count FROM tenant_storage_usage WHERE objects_count > 0 ORDER BY 1"
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""

TRIGGERS = "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"

HASHED = """
INSERT INTO phash_index (tenant_id, sha256, algorithm, phash, phash256, thumbnail, quality)
SELECT tenant_id, sha256, 'a', 7, decode(repeat('00', 32), 'hex'), decode(repeat('00', 4096), 'hex'), 0.75
FROM media_objects
"""


async def ask(url: str, *queries: str) -> list[list[tuple[object, ...]]]:
    """Run queries and give their rows."""
    connection = await asyncpg.connect(url)
    try:
        return [[tuple(row) for row in await connection.fetch(query)] for query in queries]
    finally:
        await connection.close()


async def fill(url: str) -> None:
    """Write a row into the tables on which the others hang."""
    tenant, channel, post, digest = uuid4(), uuid4(), uuid4(), "0" * 64
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, 'alpha')", tenant)
        await connection.execute(
            "INSERT INTO channels (id, tenant_id, source_key, title) VALUES ($1, $2, 'telegram:1', 'News')",
            *(channel, tenant),
        )
        await connection.execute(
            """INSERT INTO posts (id, tenant_id, channel_id, message_id, posted_at, text)
               VALUES ($1, $2, $3, 1, now(), 'text')""",
            *(post, tenant, channel),
        )
        await connection.execute(
            """INSERT INTO media_objects (tenant_id, sha256, mime, bytes, width, height, s3_key, first_post_seq,
               first_position) VALUES ($1, $2, 'image/png', 9, 1, 1, 'k', 1, 0)""",
            *(tenant, digest),
        )
        await connection.execute(
            "INSERT INTO storage_objects (tenant_id, s3_key, content_type, bytes) VALUES ($1, 'k', 'media', 9)", tenant
        )
    finally:
        await connection.close()


async def test_forward_back_and_forward_on_data(bare_database: str) -> None:
    """Back leaves nothing behind, with rows in the tables too; forward again gives the same schema."""
    migrate(bare_database)
    before = await ask(bare_database, SCHEMA, INDEXES, CONSTRAINTS)
    await fill(bare_database)
    downgrade(bare_database)
    assert await ask(bare_database, TABLES) == [[("vision_assets_version",)]]
    migrate(bare_database)
    assert await ask(bare_database, SCHEMA, INDEXES, CONSTRAINTS) == before
    assert ("tenants",) in (await ask(bare_database, TABLES))[0]


async def test_forward_again_keeps_the_data(database: str) -> None:
    """A migration of what is migrated changes no row."""
    await fill(database)
    revision = current_revision(database)
    migrate(database)
    assert revision is not None
    assert current_revision(database) == revision
    assert await ask(database, "SELECT name FROM tenants", USAGE) == [[("alpha",)], [("media", 9, 1)]]


async def test_ledgers_back_and_forward_on_data(database: str) -> None:
    """Back to the first tables usage stays what the objects are, without operations under way; forward counts anew."""
    await fill(database)
    schema = await ask(database, SCHEMA, INDEXES, CONSTRAINTS)
    slot = "op_id = gen_random_uuid(), op_kind = 'put', op_bytes = 30, op_delta = 21, op_until = now()"
    await ask(
        database,
        f"UPDATE storage_objects SET {slot}",  # noqa: S608
        "INSERT INTO storage_objects (tenant_id, s3_key, content_type, op_id, op_kind, op_delta, op_until)"
        " SELECT id, 'new', 'vision', gen_random_uuid(), 'put', 5, now() FROM tenants",
    )
    reserved = "SELECT content_type, total_bytes, reserved_bytes, objects_count FROM storage_totals ORDER BY 1"
    assert await ask(database, reserved) == [[("crawl", 0, 0, 0), ("media", 9, 21, 1), ("vision", 0, 5, 0)]]
    downgrade(database, "0001")
    assert await ask(database, "SELECT s3_key, bytes FROM storage_objects", USAGE) == [[("k", 9)], [("media", 9, 1)]]
    await ask(
        database,
        "INSERT INTO storage_objects (tenant_id, s3_key, content_type, bytes)"
        " SELECT id, 'crawled', 'crawl', 4 FROM tenants",
    )
    migrate(database)
    assert await ask(database, reserved, USAGE) == [
        [("crawl", 4, 0, 1), ("media", 9, 0, 1), ("vision", 0, 0, 0)],
        [("crawl", 4, 1), ("media", 9, 1)],
    ]
    assert await ask(database, SCHEMA, INDEXES, CONSTRAINTS) == schema


async def test_vision_decisions_back_and_forward_on_data(database: str) -> None:
    """Back, a text that was read for want of the provider's answer goes with the decisions; answers stay."""
    await fill(database)
    schema = await ask(database, SCHEMA, INDEXES, CONSTRAINTS)
    decisions = "SELECT verdict, reason, attempts FROM vision_decisions"
    await ask(
        database,
        "INSERT INTO vision_results (tenant_id, sha256, provider, model, schema_version, fingerprint, status, method)"
        " SELECT tenant_id, sha256, 'paid', model, '1.0', 'f', 'ok', method"
        " FROM media_objects, (VALUES ('large', 'new'), ('small', 'fallback')) AS made (model, method)",
        "INSERT INTO vision_decisions (tenant_id, sha256, provider, model, verdict, reason, message, rules, due_at)"
        " SELECT tenant_id, sha256, 'paid', 'small', 'ocr_only', 'over_budget_ocr', 'm', 'r', now() FROM media_objects",
    )
    assert await ask(database, decisions) == [[("ocr_only", "over_budget_ocr", 0)]]
    downgrade(database, "0002")
    assert await ask(database, "SELECT model, method FROM vision_results", USAGE) == [
        [("large", "new")],
        [("media", 9, 1)],
    ]
    assert ("vision_decisions",) not in (await ask(database, TABLES))[0]
    migrate(database)
    assert await ask(database, decisions, "SELECT model FROM vision_results") == [[], [("large",)]]
    assert await ask(database, SCHEMA, INDEXES, CONSTRAINTS) == schema


async def test_reuse_back_and_forward_on_data(database: str) -> None:
    """Back, pictures whose reuse was taken back have no row, and are to do; results stay."""
    await fill(database)
    schema = await ask(database, SCHEMA, INDEXES, CONSTRAINTS)
    decided = "SELECT candidate_sha256, verdict, reason FROM reuse_decisions"
    denied = "SELECT origin, reason, phash FROM reuse_denials"
    await ask(
        database,
        "INSERT INTO vision_results (tenant_id, sha256, provider, model, schema_version, fingerprint, status, method,"
        " reason) SELECT tenant_id, sha256, 'paid', made.model, '1.0', '', made.status, made.method, made.reason"
        " FROM media_objects, (VALUES ('large', 'ok', 'new', NULL), ('small', 'skipped', 'skipped', 'reuse_denied'))"
        " AS made (model, status, method, reason)",
        "INSERT INTO reuse_decisions SELECT tenant_id, sha256, 'c', 'paid', 'large', 2, 4, 0.01, 8.5, 'strict',"
        " 'refused', 'cells' FROM media_objects",
        "INSERT INTO reuse_denials (tenant_id, sha256, origin, reason) SELECT tenant_id, sha256, 'operator', 'why'"
        " FROM media_objects",
    )
    assert await ask(database, decided, denied) == [[("c", "refused", "cells")], [("operator", "why", None)]]
    downgrade(database, "0003")
    assert await ask(database, "SELECT model, method FROM vision_results", USAGE) == [
        [("large", "new")],
        [("media", 9, 1)],
    ]
    assert not {("reuse_decisions",), ("reuse_denials",)} & set((await ask(database, TABLES))[0])
    migrate(database)
    assert await ask(database, decided, denied, "SELECT model FROM vision_results") == [[], [], [("large",)]]
    assert await ask(database, SCHEMA, INDEXES, CONSTRAINTS) == schema


async def test_decision_quality_back_and_forward_on_data(database: str) -> None:
    """Back and forward again decisions stay, and their quality is not known any more."""
    await fill(database)
    schema = await ask(database, SCHEMA, INDEXES, CONSTRAINTS)
    await ask(
        database,
        "INSERT INTO reuse_decisions SELECT tenant_id, sha256, 'c', 'paid', 'large', 2, 4, 0.01, 8.5, 'strict',"
        " 'refused', 'cells', now(), 0.75 FROM media_objects",
    )
    decided = "SELECT candidate_sha256, reason, quality FROM reuse_decisions"
    assert await ask(database, decided) == [[("c", "cells", 0.75)]]
    downgrade(database, "0006")
    migrate(database)
    assert await ask(database, decided) == [[("c", "cells", None)]]
    assert await ask(database, SCHEMA, INDEXES, CONSTRAINTS) == schema


async def test_indexes_of_hashes_back_and_forward_on_data(database: str) -> None:
    """Back and forward again the same hashes are found by the same statements."""
    await fill(database)
    schema = await ask(database, SCHEMA, INDEXES, CONSTRAINTS)
    await ask(database, HASHED)
    downgrade(database, "0007")
    found = "SELECT phash FROM phash_index WHERE flags = '{}' AND ((phash >> 0) & 65535) = 7"
    assert await ask(database, found) == [[(7,)]]
    migrate(database)
    assert await ask(database, found) == [[(7,)]]
    assert await ask(database, SCHEMA, INDEXES, CONSTRAINTS) == schema


async def test_turns_back_and_forward_on_data(database: str) -> None:
    """Forward each tenant with posts comes in line once; back nothing of the line is left, and posts may be written."""
    await fill(database)
    await ask(database, "INSERT INTO tenants (name) VALUES ('without posts')")
    schema = await ask(database, SCHEMA, INDEXES, CONSTRAINTS, TRIGGERS)
    downgrade(database, "0009")
    assert not {("tenant_changes",), ("tenant_turns",)} & set((await ask(database, TABLES))[0])
    await ask(database, "UPDATE posts SET text = 'another'", "UPDATE tenants SET settings = '{\"a\": 1}'")
    migrate(database)
    in_line = "SELECT t.name FROM tenant_changes c JOIN tenants t ON t.id = c.tenant_id"
    assert await ask(database, in_line) == [[("alpha",)]]
    assert await ask(database, SCHEMA, INDEXES, CONSTRAINTS, TRIGGERS) == schema


async def test_alerts_back_and_forward_on_data(database: str) -> None:
    """Back, what is open is forgotten, and nothing else; forward again it is told anew."""
    await fill(database)
    schema = await ask(database, SCHEMA, INDEXES, CONSTRAINTS)
    await ask(
        database,
        "INSERT INTO alert_states VALUES ('check', 'tenant_storage_usage', 'quota_below_limit', 'a', 'warn', 'warn',"
        " 'full', '', now(), 1, now(), now(), ARRAY[now()], false)",
        "INSERT INTO alert_messages (id, kind, source, subject, check_name, grouped, created_at)"
        " VALUES (gen_random_uuid(), 'opened', 'check', 'tenant_storage_usage', 'quota_below_limit', false, now())",
        "INSERT INTO alert_events (source, subject, check_name, partition_key, event, kind, severity, failed_as,"
        " message, run_id, opened_at, happened_at, message_seq)"
        " SELECT source, subject, check_name, 'a', '1', kind, 'warn', 'warn', 'full', '', now(), now(), seq"
        " FROM alert_messages",
        "INSERT INTO alert_deliveries (message_seq, channel, next_at)"
        " SELECT seq, 'telegram', now() FROM alert_messages",
    )
    downgrade(database, "0010")
    assert not {name for (name,) in (await ask(database, TABLES))[0] if str(name).startswith("alert_")}
    assert await ask(database, "SELECT name FROM tenants") == [[("alpha",)]]
    migrate(database)
    assert await ask(database, "SELECT subject FROM alert_states") == [[]]
    assert await ask(database, SCHEMA, INDEXES, CONSTRAINTS) == schema


async def test_hash_quality_back_and_forward_on_data(database: str) -> None:
    """Back and forward again hashes stay, and one that lost its quality has none."""
    await fill(database)
    schema = await ask(database, SCHEMA, INDEXES, CONSTRAINTS)
    await ask(database, HASHED)
    downgrade(database, "0003")
    assert await ask(database, "SELECT phash FROM phash_index") == [[(7,)]]
    migrate(database)
    assert await ask(database, "SELECT phash, quality FROM phash_index") == [[(7, None)]]
    assert await ask(database, SCHEMA, INDEXES, CONSTRAINTS) == schema


async def test_billing_back_and_forward_on_data(database: str) -> None:
    """Back, budget and usage go on without meters; forward, these begin with what is there, and late calls settle."""
    await fill(database)
    schema = await ask(database, SCHEMA, INDEXES, CONSTRAINTS)
    hold = "00000000-0000-4000-8000-00000000000"
    held = (
        "INSERT INTO budget_holds (id, tenant_id, provider, model, prompt, day, estimated_tokens, reserved_at,"
        " expires_at) SELECT ('00000000-0000-4000-8000-00000000000' || n)::uuid, id, 'paid', 'large', 'p',"
        " '2026-11-01', 100, now(), now() FROM tenants, generate_series(1, 3) AS n"
    )
    windows = (
        "INSERT INTO budget_windows (scope, period, provider, starts_on, held_tokens, held_requests)"
        " SELECT w.scope, w.period, w.of_provider, w.starts_on, 300, 3"
        " FROM tenants t, budget_windows_of(t.id, 'paid', '2026-11-01') w"
    )
    downgrade(database, "0010")
    await ask(
        database,
        *(held, windows),
        f"SELECT settle_budget(ARRAY['{hold}1']::uuid[], ARRAY[10]::bigint[], 32)",
        f"SELECT expire_budget(ARRAY['{hold}2']::uuid[])",
        "INSERT INTO storage_objects (tenant_id, s3_key, content_type, bytes)"
        " SELECT id, 'k2', 'media', 30 FROM tenants",
    )
    assert await ask(database, USAGE) == [[("media", 39, 2)]]
    migrate(database)
    assert await ask(database, SCHEMA, INDEXES, CONSTRAINTS) == schema
    days = "SELECT model, tokens, calls, unconfirmed_tokens, unconfirmed_calls FROM token_days"
    meter = "SELECT metered_bytes FROM tenant_storage_usage WHERE content_type = 'media'"
    assert await ask(database, days, meter) == [[("large", 0, 0, 100, 1)], [(39,)]]
    await ask(
        database,
        f"SELECT settle_budget(ARRAY['{hold}2', '{hold}3']::uuid[], ARRAY[7, 8]::bigint[], 32)",
        "DELETE FROM storage_objects WHERE s3_key = 'k2'",
    )
    used = "SELECT used_tokens, phantom_tokens FROM budget_windows WHERE period = 'day'"
    assert await ask(database, days, meter, used) == [[("large", 15, 2, 0, 0)], [(9,)], [(25, 0), (25, 0)]]


def test_several_at_once(bare_database: str) -> None:
    """Processes that start together do not migrate twice: the others wait and find it done."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, [bare_database] * 4))
    assert current_revision(bare_database) is not None


async def test_a_failed_upgrade_leaves_no_lock(bare_database: str) -> None:
    """An unknown revision fails, and the next migration is not blocked by it."""
    with pytest.raises(Exception, match="no-such-revision"):
        migrate(bare_database, "no-such-revision")
    migrate(bare_database)
    assert current_revision(bare_database) is not None


def test_shares_a_database_with_dagster(bare_database: str) -> None:
    """Both keep a version of their own: whoever comes first, the other finds its way."""
    url = urlsplit(bare_database)._replace(scheme="postgresql+psycopg2").geturl()
    PostgresRunStorage.create_clean_storage(url).dispose()
    migrate(bare_database)
    downgrade(bare_database)
    PostgresRunStorage(url, should_autocreate_tables=False).dispose()
