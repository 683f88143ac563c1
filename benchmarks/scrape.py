"""How long a scrape takes beside 5,000 tenants and a million posts: when all is read, and between such scrapes."""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from dagster_postgres import PostgresEventLogStorage
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks._database import execute, scratch_database, server_facts, url_of
from benchmarks._machine import cpu_seconds, machine
from benchmarks._memory import write_result
from vision_assets.clients.postgres import Database
from vision_assets.devstack import postgres, processes
from vision_assets.devstack.parts import running_parts
from vision_assets.service.exporter import Exporter
from vision_assets.settings import Settings

GOAL = "a scrape <= 1 s when all is read, <= 0.5 s otherwise"
FILL = Path(__file__).with_name("_scrape_fill.sql")
ASSETS = (
    "media_objects",
    "phash_index",
    "vision_results",
    "post_enrichment",
    "tenant_storage_usage",
    "qdrant_collection",
)


def fill(database_url: str, *, tenants: int, posts: int) -> None:
    """Fill the ledgers and Dagster's log, as they are after some months: three in a hundred pictures are to do."""
    dagster_url = urlsplit(database_url)._replace(scheme="postgresql+psycopg2").geturl()
    PostgresEventLogStorage.create_clean_storage(dagster_url).dispose()
    text = FILL.read_text().replace(":tenants", str(tenants)).replace(":posts", str(posts))
    execute(database_url, *(statement for statement in text.split(";\n") if statement.strip()))
    assets = ", ".join(f"('[\"{name}\"]')" for name in ASSETS)
    execute(
        database_url,
        f"INSERT INTO asset_keys (asset_key) VALUES {assets}",  # noqa: S608
        """INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, asset_key, partition)
           SELECT 'run', '{}', 'ASSET_MATERIALIZATION', now() - n * interval '1 hour', k.asset_key, t.id::text
           FROM generate_series(20, 1, -1) n, asset_keys k, tenants t""",
        "VACUUM ANALYZE",
    )


async def scrapes(exporter: Exporter, count: int) -> tuple[list[float], bytes]:
    """Scrape some times, and give the seconds of each, and the last answer."""
    seconds, text = [], b""
    for _ in range(count):
        began = time.perf_counter()
        text = await exporter.scrape()
        seconds.append(time.perf_counter() - began)
    return seconds, text


async def measure_scrapes(
    database_url: str, *, rounds: int, tenants_shown: int, server: psutil.Process
) -> dict[str, Any]:
    """Measure scrapes that read everything, and scrapes between them."""
    settings = Settings()
    result: dict[str, Any] = {}
    async with (
        Database.open(database_url, max_size=3, brief=True) as database,
        Database.open(database_url, max_size=1, brief=True) as dagster,
    ):
        for name, kept_seconds in (("all_is_read", 0.0), ("between", 3600.0)):
            limits = settings.storage_limits(), settings.budget_limits()
            exporter = Exporter(database, dagster, *limits, tenants_shown, kept_seconds)
            await exporter.scrape()  # plans are made, and what is kept is read
            before, own = cpu_seconds([server]), time.process_time()
            seconds, text = await scrapes(exporter, rounds)
            result[name] = {
                **shown(seconds),
                "server_cpu_milliseconds": round((cpu_seconds([server]) - before) / rounds * 1000),
                "exporter_cpu_milliseconds": round((time.process_time() - own) / rounds * 1000),
            }
            samples = [one for family in text_string_to_metric_families(text.decode()) for one in family.samples]
            by_source = {
                one.labels["source"]: one.value for one in samples if one.name.endswith("read_duration_seconds")
            }
            if not kept_seconds:
                result["last_milliseconds_by_source"] = {n: round(value * 1000) for n, value in by_source.items()}
            result["series"], result["bytes"] = len(samples), len(text)
    return result


def shown(seconds: Sequence[float]) -> dict[str, float]:
    """Sum up durations."""
    return {
        "milliseconds": round(statistics.median(seconds) * 1000),
        "highest_milliseconds": round(max(seconds) * 1000),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Fill a database of its own and measure."""
    facts = machine()
    child = processes.find(postgres.NAME)
    assert child is not None  # the parts run
    with scratch_database() as name:
        database_url = url_of(name)
        fill(database_url, tenants=options.tenants, posts=options.posts)
        return {
            "what": f"a scrape beside {options.tenants:,} tenants and {options.posts:,} posts, "
            f"{options.tenants_shown} with series of their own; medians of {options.rounds}",
            "machine": facts,
            "postgres": server_facts(database_url),
            **asyncio.run(
                measure_scrapes(
                    database_url,
                    rounds=options.rounds,
                    tenants_shown=options.tenants_shown,
                    server=psutil.Process(child.pid),
                )
            ),
            "goal": GOAL,
        }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("", "ms", "highest", "CPU ms, exporter + Postgres", title=result["what"])
    for name, what in (("all_is_read", "everything is read"), ("between", "queues and Dagster's log are kept")):
        one = result[name]
        cpu = f"{one['exporter_cpu_milliseconds']} + {one['server_cpu_milliseconds']}"
        table.add_row(what, str(one["milliseconds"]), str(one["highest_milliseconds"]), cpu)
    console = Console()
    console.print(table)
    console.print(
        f"{result['series']:,} series, {result['bytes']:,} bytes. By source: {result['last_milliseconds_by_source']}"
    )
    console.print(f"Goal: {result['goal']}.")


def main() -> None:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=5000)
    parser.add_argument("--posts", type=int, default=1_000_000)
    parser.add_argument("--tenants-shown", type=int, default=Settings.model_fields["metrics_tenants"].default)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with running_parts():
        result = measure(options)
    write_result("scrape", result)
    show(result)


if __name__ == "__main__":
    main()
