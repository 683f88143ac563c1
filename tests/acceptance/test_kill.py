"""The whole run is killed at random moments and started again: what is left equals an undisturbed run."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import obstore
import psutil
import psycopg2
import pytest
from obstore.store import S3Store
from qdrant_client import QdrantClient

from tests.acceptance.commands import Machine
from tests.chaos.figures import write_section

TENANTS = {"City Walks": "00000000-0000-4000-8000-000000000001", "Dev Digest": "00000000-0000-4000-8000-000000000002"}
"""With fixed ids everything below them is deterministic, and two runs can be compared row by row."""

# What depends on the clock, or on the order in which a sequence was asked: everything else must be equal.
CLOCK = {
    "channels": set(),
    "posts": {"seq"},
    "post_media": set(),
    "media_objects": {"first_post_seq", "first_seen_at", "last_used_at"},
    "phash_index": {"hashed_at"},
    "vision_results": {"s3_bytes", "analyzed_at"},
    "post_enrichment": {"created_at", "updated_at"},
    "search_index": {"indexed_at"},
    "storage_objects": {"bytes", "recorded_at"},
    "tenant_storage_usage": {
        *("id", "total_bytes", "total_gb", "last_updated", "created_at", "reconciled_at"),
        *("metered_bytes", "metered_at", "metered_from", "metered_byte_seconds"),
    },
    "dead_letters": {"id", "attempts", "first_at", "last_at"},
}


@contextmanager
def cursor(machine: Machine) -> Iterator[Any]:
    """A cursor on the machine's database, committed at the end."""
    connection = psycopg2.connect(machine.endpoints()["database_url"])
    try:
        with connection, connection.cursor() as opened:
            yield opened
    finally:
        connection.close()


def bucket(machine: Machine) -> S3Store:
    """The machine's bucket."""
    at = machine.endpoints()
    return S3Store(
        at["s3_bucket"],
        endpoint=at["s3_endpoint_url"],
        access_key_id=at["aws_access_key_id"],
        secret_access_key=at["aws_secret_access_key"],
        region="us-east-1",
        client_options={"allow_http": True},
    )


def objects(machine: Machine) -> dict[str, int]:
    """All objects: key → bytes."""
    return {line["path"]: line["size"] for chunk in obstore.list(bucket(machine), chunk_size=1000) for line in chunk}


def reset(machine: Machine) -> None:
    """Begin anew: two tenants with fixed ids, and nothing else."""
    machine.run("up", "--parts")
    with cursor(machine) as at:
        at.execute("TRUNCATE tenants CASCADE")
        for name, tenant_id in TENANTS.items():
            at.execute("INSERT INTO tenants (id, name) VALUES (%s, %s)", (tenant_id, name))
    if keys := list(objects(machine)):
        obstore.delete(bucket(machine), keys)
    client = QdrantClient(url=machine.endpoints()["qdrant_url"])
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)
    client.close()


def snapshot(machine: Machine) -> dict[str, Any]:
    """All rows, keys and points, without what the clock decides."""
    machine.run("up", "--parts")
    found: dict[str, Any] = {}
    with cursor(machine) as at:
        for table, clock in CLOCK.items():
            at.execute(f"SELECT * FROM {table}")  # noqa: S608 - a name from above
            names = [column.name for column in at.description]
            rows = [
                {name: _timeless(value) for name, value in zip(names, row, strict=True) if name not in clock}
                for row in at.fetchall()
            ]
            found[table] = sorted(rows, key=repr)
        at.execute("SELECT s3_key, bytes FROM storage_objects")
        in_s3 = objects(machine)
        assert dict(at.fetchall()) == in_s3, "the ledger equals the listing"
        at.execute("SELECT sum(total_bytes), sum(metered_bytes), sum(objects_count) FROM tenant_storage_usage")
        stored_bytes = sum(in_s3.values())
        assert tuple(map(int, at.fetchone())) == (stored_bytes, stored_bytes, len(in_s3)), "so does the usage"
    found["keys"] = sorted(in_s3)
    client = QdrantClient(url=machine.endpoints()["qdrant_url"])
    found["points"] = {
        tenant: sorted((str(point.id), point.payload["content_hash"]) for point in _points(client, tenant))
        for tenant in TENANTS.values()
    }
    client.close()
    return found


def _points(client: QdrantClient, tenant: str) -> list[Any]:
    points, _ = client.scroll(f"t{tenant}_posts", limit=10_000, with_payload=True)
    return points


def _timeless(value: Any) -> Any:
    """Take out of JSON when something was analysed; make bytes printable."""
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if name != "analyzed_at"}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return bytes(value).hex() if isinstance(value, memoryview) else value


def let_slots_expire(machine: Machine) -> None:
    """Let the minutes pass for which what killed runs had under way is theirs."""
    machine.run("up", "--parts")
    with cursor(machine) as at:
        at.execute("UPDATE storage_objects SET op_until = now() WHERE op_id IS NOT NULL")


def kill_parts(machine: Machine) -> None:
    """Kill Postgres, S3 and Qdrant without warning, with all their children."""
    for state in (machine.data / "run").glob("*.json"):
        pid = json.loads(state.read_text())["pid"]
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


@pytest.mark.chaos
@pytest.mark.timeout(5400)
def test_killed_at_random_moments(two_machines: tuple[Machine, Machine], request: pytest.FixtureRequest) -> None:
    """After every kill and a last run to the end, rows, keys and points equal those of an undisturbed run."""
    kills_wanted = 20 if request.config.getoption("--long") else 2
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    undisturbed, disturbed = two_machines
    reset(undisturbed)
    started = time.monotonic()
    undisturbed.run("demo")
    duration = time.monotonic() - started
    expected = snapshot(undisturbed)
    undisturbed.run("down")

    kills = 0
    while kills < kills_wanted:
        reset(disturbed)
        moments: list[float] = []
        while kills < kills_wanted and (not moments or chance.random() < 0.5):
            run = disturbed.start("demo")
            moment = chance.uniform(0.1, 1) * duration
            moments.append(round(moment, 1))
            time.sleep(moment)
            if run.poll() is None:  # one that has ended already counts for nothing
                os.killpg(run.pid, signal.SIGKILL)
                kills += 1
            run.communicate()
            if chance.random() < 0.3:
                kill_parts(disturbed)
        let_slots_expire(disturbed)
        disturbed.run("demo")
        assert snapshot(disturbed) == expected, f"seed {seed}, killed after {moments} s"
    print(f"seed {seed}: {kills} kills, an undisturbed run takes {duration:.0f} s")
    if request.config.getoption("--long"):
        figures = {"kills": kills, "undisturbed_run_seconds": round(duration, 1), "violations": 0}
        write_section("killed_at_random_moments", {"seed": seed, "passed": True, **figures})
