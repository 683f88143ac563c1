"""Neighbours within 6 bits, exactly, among 10 thousand to 10 million hashes: ours, faiss, a BK-tree, numpy.

Ours is two: the statement that a step asks Postgres, and the index in memory for work over a whole tenant. Each side's
answers are compared with numpy's. In-process sides are measured in CPU time of one thread, Postgres in wall time, with
the server's CPU time beside it.
"""

import argparse
import asyncio
import ctypes
import gc
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks._database import execute, scratch_database, server_facts, url_of
from benchmarks._hashes import Hashes, lifelike, turned, unevenness, uniform
from benchmarks._machine import cpu_seconds, machine
from benchmarks._memory import measure, memory_bytes, tell, write_result
from benchmarks._neighbours_peers import SIDES, Brute, Found, Side
from benchmarks._neighbours_postgres import (
    OTHERS,
    TENANT,
    Asker,
    add_rows,
    fill,
    index_bytes,
    index_definitions,
    sha256_of,
)
from vision_assets.clients.local_vision import LocalVision
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.clusters import PostgresClusters
from vision_assets.clients.postgres.neighbours import MAX_NEIGHBOURS
from vision_assets.core.hash_index import HashIndex
from vision_assets.core.neighbours import RADIUS_BITS
from vision_assets.devstack import postgres, processes
from vision_assets.devstack.parts import running_parts

KINDS = {"lifelike": lifelike, "uniform": uniform}
SIZES = (10_000, 100_000, 1_000_000)
FULL_SIZE = 10_000_000
SELF_JOIN_HASHES = 1_000_000
ADDED = 1_000
PARTS = ("hashes", "more", "asked", "truth")
GOAL = "ours <= 0.1 ms a query in batches, Postgres <= 2.5 ms of the server's CPU, both at 10 M"


def questions(hashes: Hashes, count: int) -> Hashes:
    """Ask for copies of pictures that are there, and as often for pictures that are new."""
    rng = np.random.default_rng(3)
    copies = turned(hashes[rng.integers(0, len(hashes), count // 2)], rng)
    asked: Hashes = rng.permutation(np.concatenate([copies, lifelike(count - len(copies), seed=11)]))
    return asked


def same(found: Sequence[Found], truth: Sequence[Found]) -> bool:
    """Tell whether a side found what there is."""
    return all(np.array_equal(np.sort(one), other) for one, other in zip(found, truth, strict=True))


def cpu_milliseconds(side: Side, asked: Hashes, truth: Sequence[Found]) -> tuple[float, float]:
    """Measure a query in a batch, and one by one; the answers must be right."""
    started = time.process_time()
    found = side.batch(asked)
    batch = (time.process_time() - started) / len(asked)
    assert same(found, truth), f"{type(side).__name__} is wrong"
    single = []
    for number in range(len(asked) // 5):
        started = time.process_time()
        side.batch(asked[number : number + 1])
        single.append(time.process_time() - started)
    return batch * 1e3, statistics.mean(single) * 1e3


def of_side(name: str, folder: Path) -> dict[str, Any]:
    """Measure one side that is in memory, in a process of its own."""
    _, make, _, queries = SIDES[name]
    hashes, more, asked, truth = (np.load(folder / f"{part}.npy", allow_pickle=True) for part in PARTS)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was needed to read them counts for nobody
    before, started = memory_bytes("VmRSS"), time.process_time()
    side = make(hashes)
    build_seconds = time.process_time() - started
    memory = memory_bytes("VmRSS") - before
    batch, single = cpu_milliseconds(side, asked[:queries], truth[:queries])
    started = time.process_time()
    side.add(more)
    return {
        "batch_milliseconds": round(batch, 4),
        "single_milliseconds": round(single, 4),
        "build_seconds": round(build_seconds, 3),
        "bytes_a_hash": round(memory / len(hashes), 1),
        "add_milliseconds_a_hash": round((time.process_time() - started) / len(more) * 1e3, 4),
    }


def in_memory(hashes: Hashes, more: Hashes, asked: Hashes, truth: Sequence[Found]) -> dict[str, Any]:
    """Measure every side that is in memory, one after the other."""
    ragged = np.empty(len(truth), object)
    ragged[:] = truth
    with TemporaryDirectory() as folder:
        for part, array in zip(PARTS, (hashes, more, asked, ragged), strict=True):
            np.save(Path(folder, f"{part}.npy"), array, allow_pickle=True)
        return {
            name: measure("benchmarks.neighbours", "--side", name, folder)
            for name, (_, _, most, _) in SIDES.items()
            if len(hashes) <= most
        }


def self_join(hashes: Hashes) -> dict[str, Any]:
    """Measure finding all pairs of the tenant."""
    started = time.process_time()
    pairs = sum(len(found.left) for found in HashIndex(hashes).pairs(RADIUS_BITS))
    return {"pairs": pairs, "cpu_seconds": round(time.process_time() - started, 2)}


async def in_postgres(database_url: str, asked: Hashes, truth: Sequence[Found], more: Hashes) -> dict[str, Any]:
    """Measure the statement of a step, single: it is how a step asks."""
    child = processes.find(postgres.NAME)
    server = [psutil.Process(child.pid)] if child else []
    started = time.perf_counter()
    async with (
        Database.open(database_url, max_size=1) as database,
        LocalVision.open(languages="rus+eng") as provider,
    ):
        asker = Asker(database, provider)
        await asker.neighbours(TENANT, int(asked[0]))
        opened = time.perf_counter() - started
        for phash in asked.tolist():  # the second time pages are where a server that is in use has them
            await asker.neighbours(TENANT, phash)
        taken, cpu_before = [], cpu_seconds(server)
        for phash, expected in zip(asked.tolist(), truth, strict=True):
            started = time.perf_counter()
            found = await asker.neighbours(TENANT, phash)
            taken.append(time.perf_counter() - started)
            names = set(map(sha256_of, expected.tolist()))
            assert set(found) <= names, "Postgres is wrong"
            assert len(found) == min(len(names), MAX_NEIGHBOURS), "Postgres is wrong"
        server_cpu = (cpu_seconds(server) - cpu_before) / len(asked)
        started = time.perf_counter()
        read = await PostgresClusters(database).hashes(TENANT)
        read_seconds = time.perf_counter() - started
        add_seconds = await add_rows(database, TENANT, more)
    return {
        "single_milliseconds": round(statistics.median(taken) * 1e3, 3),
        "single_milliseconds_p95": round(statistics.quantiles(taken, n=20)[-1] * 1e3, 3),
        "server_cpu_milliseconds": round(server_cpu * 1e3, 3),
        "open_and_first_query_milliseconds": round(opened * 1e3, 1),
        "index_bytes_a_hash": round(index_bytes(database_url) / (len(read.phashes) * (1 + len(OTHERS) / 10)), 1),
        "read_all_seconds": round(read_seconds, 2),
        "add_milliseconds_a_hash": round(add_seconds / len(more) * 1e3, 4),
    }


def of_size(count: int, *, asked_count: int) -> dict[str, Any]:
    """Measure every side among so many hashes."""
    result: dict[str, Any] = {}
    for kind, make in KINDS.items():
        hashes, more = make(count), make(ADDED, seed=99)
        asked = questions(hashes, asked_count)
        truth = [np.sort(found) for found in Brute(hashes).batch(asked)]
        result[kind] = {
            "unevenness": unevenness(hashes),
            "found_a_query": round(sum(map(len, truth)) / len(asked), 2),
            "sides": in_memory(hashes, more, asked, truth),
        }
        if count <= SELF_JOIN_HASHES:
            result[kind]["self_join"] = self_join(hashes)
        if kind == "lifelike":
            with scratch_database() as name:
                url = url_of(name)
                indexes = list(index_definitions(url))
                execute(url, *(f"DROP INDEX {index}" for index, _ in indexes))
                for other in OTHERS:
                    fill(url, other, hashes[: count // 10])
                fill(url, TENANT, hashes)
                started = time.perf_counter()
                execute(url, *(definition for _, definition in indexes))
                build_seconds = time.perf_counter() - started
                execute(url, "VACUUM ANALYZE")
                result[kind]["postgres"] = {
                    "build_seconds": round(build_seconds, 1),
                    **asyncio.run(in_postgres(url, asked[:200], truth[:200], more)),
                }
    return result


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    for count, of_kinds in result["sizes"].items():
        table = Table(
            *("", "hashes", "batch, ms a query", "single, ms", "build, s", "bytes a hash", "add, ms a hash"),
            title=f"{int(count):,} hashes",
        )
        for kind, figures in of_kinds.items():
            for name, one in figures["sides"].items():
                values = ("batch_milliseconds", "single_milliseconds", "build_seconds", "bytes_a_hash")
                table.add_row(
                    SIDES[name][0], kind, *(f"{one[value]:g}" for value in (*values, "add_milliseconds_a_hash"))
                )
            if ours := figures.get("postgres"):
                table.add_row(
                    "ours in Postgres",
                    kind,
                    "",
                    f"{ours['single_milliseconds']:g} (server CPU {ours['server_cpu_milliseconds']:g})",
                    f"{ours['build_seconds']:g}",
                    f"{ours['index_bytes_a_hash']:g}",
                    f"{ours['add_milliseconds_a_hash']:g}",
                )
        console.print(table)
        for kind, figures in of_kinds.items():
            if joined := figures.get("self_join"):
                console.print(f"All pairs of {kind}: {joined['pairs']:,} in {joined['cpu_seconds']} s of CPU.")
    console.print(f"Goal: {result['goal']}.")


def main() -> None:
    """Measure, print the tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="10 million hashes, too: about half an hour, 20 GB of disk")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--asked", type=int, default=1_000, help="queries of a batch")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        tell(of_side(options.side[0], Path(options.side[1])))
        return
    facts = machine()
    sizes = [*options.sizes, *([FULL_SIZE] if options.full else [])]
    with running_parts():
        result = {
            "what": f"neighbours within {RADIUS_BITS} bits; half of the queries are copies of what is there",
            "machine": facts,
            "postgres": server_facts(url_of("postgres")),
            "sides": {name: what for name, (what, *_) in SIDES.items()},
            "sizes": {str(count): of_size(count, asked_count=options.asked) for count in sizes},
            "goal": GOAL,
        }
    write_result("neighbours", result)
    show(result)


if __name__ == "__main__":
    main()
