"""Seconds from a new post until it is to be seen, with the daemon running, many tenants and one large among them.

Real webserver, daemon and parts share the machine with the writer of the posts; pictures are looked at by the local
provider without OCR. Beside it: the time of a sensor's tick with very many posts, and CPU time a tenant against one run
for each tenant.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks._database import scratch_database, server_facts, url_of
from benchmarks._feed import Feed, Sent, write_pictures
from benchmarks._machine import cpu_seconds, machine
from benchmarks._many_posts import measure_ticks
from benchmarks._memory import write_result
from tests.devstack import own_data_dir
from tests.graphql import Dagster
from vision_assets.devstack import dagster, postgres, processes, s3
from vision_assets.devstack.parts import QDRANT, migrate_database, start_parts
from vision_assets.logs import configure_logging
from vision_assets.settings import Settings

LARGE = 20
"""Times the posts of any other tenant, of the first one."""

GOAL_P95_SECONDS = 20
NO_OCR = "none"
"""No languages of Tesseract: it reads nothing."""

JOB = "tenant_pipeline"
CHAIN = ("media_objects", "phash_index", "vision_results", "post_enrichment", "qdrant_collection")
BOOKS = """
SELECT (SELECT count(*) FROM posts) AS posts,
       (SELECT count(*) FROM vision_results WHERE result IS NOT NULL) AS results,
       (SELECT count(*) FROM media_objects) AS pictures,
       (SELECT count(*) FROM search_index WHERE state = 'indexed') AS indexed,
       (SELECT sum(value)::bigint FROM counters WHERE name = 'vision_analyses_total') AS analyses,
       (SELECT count(*) FROM dead_letters) AS dead_letters,
       (SELECT count(*) FROM tenant_changes) AS changes_left,
       (SELECT count(*) FROM tenant_turns WHERE error IS NOT NULL) AS tenants_failed
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Parts and Dagster of the benchmark's own."""

    database_url: str
    dagster: Dagster

    def servers(self) -> dict[str, psutil.Process]:
        """Find the processes whose CPU time is told."""
        names = {
            "daemon": dagster.DAEMON,
            "runs": dagster.CODE_SERVER,
            "postgres": postgres.NAME,
            "s3": s3.NAME,
            "qdrant": QDRANT,
        }
        children = {name: processes.find(part) for name, part in names.items()}
        return {name: psutil.Process(child.pid) for name, child in children.items() if child}

    def cpu_seconds(self) -> dict[str, float]:
        """Tell the CPU time of each server, its children and the runs that it started."""
        return {name: cpu_seconds([process]) for name, process in self.servers().items()}


@contextmanager
def started() -> Iterator[Stage]:
    """Have parts, webserver and daemon of the benchmark's own."""
    with own_data_dir() as patch:
        patch.setenv("OCR_LANGUAGES", NO_OCR)
        start_parts()
        migrate_database()
        url = Settings().database_url
        assert url
        webserver, _ = dagster.start(processes.free_port())
        try:
            yield Stage(url.get_secret_value(), Dagster(dagster.ui_url(webserver)))
        finally:
            dagster.end()


@asynccontextmanager
async def feeding(stage: Stage, pictures: Sequence[Path]) -> AsyncIterator[Feed]:
    """Have a writer of posts."""
    async with asyncpg.create_pool(stage.database_url, min_size=1, max_size=4) as pool:
        feed = Feed(pool, pictures)
        watching = asyncio.create_task(feed.watch())
        try:
            yield feed
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def make_tenants(feed: Feed, name: str, count: int) -> list[UUID]:
    """Make tenants with a channel each."""
    tenants = [uuid4() for _ in range(count)]
    await feed.pool.executemany(
        "INSERT INTO tenants (id, name) VALUES ($1, $2)",
        [(tenant, f"{name} {number}") for number, tenant in enumerate(tenants)],
    )
    await feed.pool.executemany(
        "INSERT INTO channels (id, tenant_id, source_key, title) VALUES ($1, $2, 'c', 'News')",
        [(uuid4(), tenant) for tenant in tenants],
    )
    return tenants


def spread(posts: Sequence[Sent]) -> dict[str, Any]:
    """Sum up how long posts took."""
    told: dict[str, Any] = {"posts": len(posts)}
    for name in ("analysed_at", "found_at"):
        seconds = sorted(seen - post.sent_at for post in posts if (seen := getattr(post, name)) is not None)
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        told[name.removesuffix("_at")] = {
            "never": len(posts) - len(seconds),
            "p50_seconds": round(cuts[49], 2),
            "p95_seconds": round(cuts[94], 2),
            "longest_seconds": round(seconds[-1], 2),
        }
    return told


async def kill_at(moments: Sequence[float]) -> int:
    """Kill the daemon with its code server and runs after so many seconds, without warning, and start it again.

    Returns:
        Number of processes killed.
    """
    began, killed = time.monotonic(), 0
    for moment in moments:
        await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
        killed += await asyncio.to_thread(kill_daemon)
    return killed


def kill_daemon() -> int:
    """Kill it once, and start it again; tells how many processes died."""
    webserver = processes.find(dagster.WEBSERVER)
    assert webserver is not None
    killed = [
        psutil.Process(child.pid) for name in (dagster.DAEMON, dagster.CODE_SERVER) if (child := processes.find(name))
    ]
    victims = [one for parent in killed for one in (parent, *parent.children(recursive=True))]
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    psutil.wait_procs(victims, timeout=10)
    dagster.end()
    dagster.start(webserver.port)
    return len(victims)


async def measure_first(feed: Feed) -> dict[str, Any]:
    """Measure one post that comes while no run is under way: it waits for one to start."""
    [tenant] = await make_tenants(feed, "First", 1)
    await asyncio.sleep(30)  # the daemon has begun to tick
    await feed.post(tenant)
    await feed.wait(seconds=120)
    [post] = feed.posts.values()
    feed.posts.clear()
    return {name: round((getattr(post, f"{name}_at") or inf) - post.sent_at, 2) for name in ("analysed", "found")}


async def measure_feed(stage: Stage, feed: Feed, options: argparse.Namespace, *, kills: int) -> dict[str, Any]:
    """Write posts for a while, and measure when they are to be seen."""
    tenants = await make_tenants(feed, f"With {kills} kills", options.tenants)
    weights = [float(LARGE), *[1.0] * (len(tenants) - 1)]
    before = {} if kills else stage.cpu_seconds()
    moments = [options.seconds * (number + 1) / (kills + 1) for number in range(kills)]
    killing = asyncio.create_task(kill_at(moments))
    rate = await feed.run(tenants, weights, rate=options.rate, seconds=options.seconds)
    killed = await killing
    await feed.wait(seconds=600)
    after = {} if kills else stage.cpu_seconds()
    posts, lost = list(feed.posts.values()), feed.waiting()
    feed.posts.clear()
    [books] = await feed.pool.fetch(BOOKS)
    return {
        "tenants": len(tenants),
        "posts_a_second": round(rate, 1),
        "seconds": options.seconds,
        "killed_processes": killed,
        "all": spread(posts),
        "large_tenant": spread([post for post in posts if post.tenant_id == tenants[0]]),
        "other_tenants": spread([post for post in posts if post.tenant_id != tenants[0]]),
        "worst_tenants_p95_seconds": worst(posts),
        "lost": lost,
        "books": dict(books),
        "cpu_milliseconds_a_post": {name: round(1000 * (after[name] - before[name]) / len(posts), 1) for name in after},
    }


def worst(posts: Sequence[Sent]) -> float:
    """Tell the 95th percentile of the tenant whose posts waited longest."""
    by_tenant: dict[UUID, list[float]] = {}
    for post in posts:
        by_tenant.setdefault(post.tenant_id, []).append((post.found_at or inf) - post.sent_at)
    return round(max(sorted(one)[int(0.95 * (len(one) - 1))] for one in by_tenant.values()), 2)


async def measure_ratio(stage: Stage, feed: Feed, options: argparse.Namespace) -> dict[str, Any]:
    """Measure CPU time a tenant, each with one new post: by runs for many, and by one run for each."""
    sides: dict[str, dict[str, Any]] = {}
    for side in ("new_posts", "one_run_a_tenant"):
        tenants = await make_tenants(feed, side, options.ratio_tenants)
        await asyncio.sleep(60)  # no run of before is left, and the partitions are there
        before = stage.cpu_seconds()
        began = time.monotonic()
        if side == "new_posts":
            for tenant in tenants:
                await feed.post(tenant)
        else:
            for tenant in tenants:
                await feed.post(tenant, quietly=True)
            runs = [await asyncio.to_thread(stage.dagster.run, JOB, CHAIN, str(tenant)) for tenant in tenants]
            await asyncio.to_thread(stage.dagster.wait_for_runs, runs, seconds=1800)
        await feed.wait(seconds=1800)
        seconds = time.monotonic() - began
        assert not feed.waiting()
        await asyncio.sleep(25)  # the run waits for others, and ends
        spent = {name: taken - before[name] for name, taken in stage.cpu_seconds().items()}
        sides[side] = {
            "tenants": len(tenants),
            "seconds": round(seconds, 1),
            "cpu_seconds_a_tenant": {name: round(one / len(tenants), 3) for name, one in spent.items()},
            "cpu_seconds_a_tenant_in_all": round(sum(spent.values()) / len(tenants), 3),
        }
    ours, peer = (sides[side]["cpu_seconds_a_tenant_in_all"] for side in ("new_posts", "one_run_a_tenant"))
    return sides | {"ratio": round(float(peer) / float(ours), 1)}


async def run(stage: Stage, options: argparse.Namespace, pictures: Sequence[Path]) -> dict[str, Any]:
    """Measure everything that needs the daemon."""
    async with feeding(stage, pictures) as feed:
        first = await measure_first(feed)
        under_load = await measure_feed(stage, feed, options, kills=0)
        killed = await measure_feed(stage, feed, options, kills=options.kills) if options.kills else None
        ratio = await measure_ratio(stage, feed, options) if options.ratio_tenants else None
    return {
        "one_post_while_nothing_runs_seconds": first,
        "under_load": under_load,
        "killed_under_load": killed,
        "cpu_against_one_run_a_tenant": ratio,
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure both: with the daemon, and the sensor's tick by itself."""
    number = round(options.rate * options.seconds) * (2 if options.kills else 1) + 2 * options.ratio_tenants + 2
    pictures = write_pictures(folder / "pictures", number=number)
    with started() as stage:
        facts, database = machine(), server_facts(stage.database_url)
        result = asyncio.run(run(stage, options, pictures))
        ticks = None
        if options.tick_posts:
            dagster.end()
            with scratch_database() as name:
                ticks = measure_ticks(url_of(name), tenants=options.tick_tenants, posts=options.tick_posts)
    return {
        "what": f"{options.rate:g} posts a second with a new picture each, over {options.tenants} tenants for "
        f"{options.seconds:g} s, one of them with {LARGE} times the posts of another; until the result and the search "
        "show it",
        "machine": facts,
        "postgres": database,
        **result,
        "ticks": ticks,
        "goal": f"under_load: p95_seconds <= {GOAL_P95_SECONDS}, nothing lost, no tenant starved; ticks well below 1 s",
    }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("", "posts", "lost", "result p50 / p95 s", "search p50 / p95 s", "longest s", title=result["what"])
    for scene in ("under_load", "killed_under_load"):
        for whose in ("all", "large_tenant", "other_tenants") if result[scene] else ():
            told = result[scene][whose]
            analysed, found = told["analysed"], told["found"]
            table.add_row(
                f"{scene}, {whose}",
                f"{told['posts']:,}",
                str(found["never"]),
                f"{analysed['p50_seconds']:g} / {analysed['p95_seconds']:g}",
                f"{found['p50_seconds']:g} / {found['p95_seconds']:g}",
                f"{found['longest_seconds']:g}",
            )
    console = Console()
    console.print(table)
    for name in ("one_post_while_nothing_runs_seconds", "cpu_against_one_run_a_tenant", "ticks", "goal"):
        console.print(f"{name}: {result[name]}")


def main() -> None:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--ratio-tenants", type=int, default=20)
    parser.add_argument("--tick-tenants", type=int, default=5_000)
    parser.add_argument("--tick-posts", type=int, default=1_000_000)
    options = parser.parse_args()
    configure_logging("WARNING")
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        result = measure(options, folder)
    write_result("freshness", result)
    show(result)


if __name__ == "__main__":
    main()
