"""How long a look at the line takes with thousands of tenants and a million posts.

What is not here: the time until a post is to be seen (`freshness.py`).
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from psycopg2 import sql

from benchmarks._database import execute
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.turns import PostgresLine
from vision_assets.core.turns import LEASE
from vision_assets.defs.sensors import new_posts, tenant_partitions
from vision_assets.resources import NewPostsResource, PostgresResource

ROUNDS = 15


def fill(database_url: str, *, tenants: int, posts: int) -> None:
    """Make tenants with as many posts each, with a stored picture each; one in ten pictures waits for the budget."""
    execute(
        database_url,
        sql.SQL("INSERT INTO tenants (name) SELECT 'Tenant ' || n FROM generate_series(1, {}) n").format(
            sql.Literal(tenants)
        ),
        "INSERT INTO channels (id, tenant_id, source_key, title) SELECT gen_random_uuid(), id, 'c', '' FROM tenants",
        sql.SQL(
            """INSERT INTO posts (id, tenant_id, channel_id, message_id, posted_at, text)
               SELECT gen_random_uuid(), tenant_id, id, n, now(), 'Новость ' || n
               FROM generate_series(1, {}) n CROSS JOIN channels"""
        ).format(sql.Literal(posts // tenants)),
        """INSERT INTO post_media (post_id, position, tenant_id, message_id, role, source_uri, state, sha256)
           SELECT id, 0, tenant_id, message_id, 'photo', 'file:///' || id, 'stored', repeat(md5(id::text), 2)
           FROM posts""",
        """INSERT INTO media_objects
               (tenant_id, sha256, mime, bytes, width, height, s3_key, first_post_seq, first_position)
           SELECT m.tenant_id, m.sha256, 'image/jpeg', 9, 1, 1, m.source_uri, p.seq, 0
           FROM post_media m JOIN posts p ON p.id = m.post_id""",
        """INSERT INTO vision_decisions
               (tenant_id, sha256, provider, model, verdict, reason, message, rules, due_at)
           SELECT m.tenant_id, m.sha256, 'gigachat', 'Max', 'defer', 'daily_limit', '', '', now() + interval '1 day'
           FROM post_media m WHERE m.message_id % 10 = 0""",
        "VACUUM ANALYZE",
    )


async def _timed(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return time.perf_counter() - began


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    return {
        "median_milliseconds": round(1000 * statistics.median(seconds), 1),
        "longest_milliseconds": round(1000 * max(seconds), 1),
    }


async def _statements(database_url: str) -> dict[str, Any]:
    """Measure what a tick asks, and a claim."""
    async with Database.open(database_url, max_size=1) as database:
        line = PostgresLine(database)

        async def claim() -> None:
            turn = await line.claim("run", lease=LEASE)
            if turn is not None:
                await line.give_back(turn)

        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "add_due": lambda: line.add_due(datetime.now(UTC)),
            "first_waiting": line.first_waiting,
            "claim_and_give_back": claim,
        }
        return {name: _milliseconds([await _timed(act) for _ in range(ROUNDS)]) for name, act in acts.items()}


def _ticks(database_url: str, sensor: dg.SensorDefinition) -> dict[str, float]:
    """Measure the whole body of a sensor, the opening of its connections included."""
    taken = []
    resources = {"postgres": PostgresResource(database_url=database_url), "new_posts_limits": NewPostsResource()}
    needed = {name: one for name, one in resources.items() if name in sensor.required_resource_keys}
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            with dg.build_sensor_context(instance=instance, resources=needed) as context:
                sensor(context)
            taken.append(time.perf_counter() - began)
    return _milliseconds(taken)


SCENES = {
    "nobody_waits": (),
    "all_wait": ("INSERT INTO tenant_changes (tenant_id) SELECT id FROM tenants, generate_series(1, 20)",),
    "a_resting_tenant_with_100000_changes_is_first": (
        "INSERT INTO tenant_changes (tenant_id) SELECT min(id::text)::uuid FROM tenants, generate_series(1, 100000)",
        "INSERT INTO tenant_turns (tenant_id, free_at, began_at, attempts, error)"
        " SELECT min(id::text)::uuid, now() + interval '1 hour', now(), 9, 'down' FROM tenants",
        "INSERT INTO tenant_changes (tenant_id) SELECT max(id::text)::uuid FROM tenants",
    ),
    "pictures_of_all_are_due": ("UPDATE vision_decisions SET due_at = now()",),
}


def measure_ticks(database_url: str, *, tenants: int, posts: int) -> dict[str, Any]:
    """Measure a tick of the sensors in several scenes."""
    fill(database_url, tenants=tenants, posts=posts)
    scenes = {}
    for name, statements in SCENES.items():
        execute(database_url, "TRUNCATE tenant_changes, tenant_turns", *statements)
        scenes[name] = {
            "new_posts": _ticks(database_url, new_posts),
            **asyncio.run(_statements(database_url)),
        }
    return {
        "tenants": tenants,
        "posts": posts,
        "scenes": scenes,
        "tenant_partitions": _ticks(database_url, tenant_partitions),
    }
