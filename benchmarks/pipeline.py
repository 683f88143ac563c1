"""Pictures a second that the vision step gets from a provider with ten streams, against what its latency allows.

Beside it, on the same pictures, the flow of the original, which does one picture after the other. The sides take turns,
so that the machine's moods hit both alike. The emulated GigaChat, S3 and Postgres share the machine with the client.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks._database import execute, scratch_database, server_facts, url_of
from benchmarks._gigachat import running_gigachat
from benchmarks._machine import cpu_seconds, machine
from benchmarks._memory import write_result
from benchmarks._sequential import TABLES, SequentialPass
from tests.emulated_gigachat import EmulatedGigaChat
from tests.pictures import encoded, photo
from tests.world import World, open_world
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_vision import GigaChatVision
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.analysis import VisionPass
from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.tenants import Tenant
from vision_assets.devstack import postgres, processes, s3
from vision_assets.devstack.gigachat_options import ConstantLatency, LognormalLatency, Options
from vision_assets.devstack.parts import running_parts
from vision_assets.logs import configure_logging
from vision_assets.settings import Settings

SIDES = {"ours": "ours, ten calls at once", "sequential": "the original's flow, one picture after the other"}
STREAMS = 10
LATENCIES: Mapping[str, ConstantLatency | LognormalLatency] = {
    "constant": ConstantLatency(seconds=0.4),
    "lognormal": LognormalLatency(mean_seconds=0.4, sigma=0.5),
}
GOAL_SHARE = 0.9
MODEL = "GigaChat-2-Max"
LIMITS = BudgetLimits(tenant={"calls": Allowance(requests=STREAMS)})
WIDTH, HEIGHT, QUALITY = 1280, 960, 85
WARM_UP = 10
SEQUENTIAL_SHARE = STREAMS
"""One in so many pictures: about as many seconds as ours takes for all of them."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One side in one slice; CPU is user and system, of all threads.

    Attributes:
        share_of_bound: Of the rate at which ten streams that never rest would answer with the very latencies drawn.
    """

    pictures_a_second: float
    share_of_bound: float
    cpu_milliseconds_a_picture: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Stage:
    """What both sides work on."""

    world: World
    tenant: Tenant
    budget: PostgresBudget
    gigachat: EmulatedGigaChat
    servers: Mapping[str, psutil.Process]

    async def ours(self, count: int) -> int:
        """Run the pass as the asset does; tells how many pictures were looked at."""
        async with (
            GigaChat.open(self.gigachat.access(read_seconds=60, deadline_seconds=120)) as api,
            aclosing(BudgetGate(self.budget, LIMITS)) as gate,
        ):
            report = await VisionPass(
                tenant_id=self.tenant.id,
                provider=GigaChatVision(api, self.tenant.id, model=MODEL),
                store=self.world.bucket,
                quota=self.world.quota(),
                ledger=PostgresVision(self.world.database),
                gate=gate,
                concurrency=STREAMS,
            ).analyse_media()
        assert (report.failures, report.deferred) == ([], {})
        return report.analyses

    async def sequential(self, count: int) -> int:
        """Run the original's flow over the first pictures; tells how many were looked at."""
        async with GigaChat.open(self.gigachat.access(read_seconds=60, deadline_seconds=120)) as api:
            one_pass = SequentialPass(self.tenant.id, MODEL, api, self.world.bucket, self.world.database)
            return await one_pass.analyse_media(limit=count)

    async def clear(self) -> None:
        """Forget all results, so that the next slice has everything to do."""
        keys = await self.world.keys(f"vision/{self.tenant.id}/")
        await self.world.quota().delete(self.tenant.id, [(key, "vision") for key in keys])
        await self.world.database.pool.execute("DELETE FROM vision_results WHERE tenant_id = $1", self.tenant.id)

    async def measure(self, side: Callable[[int], Awaitable[int]], latency: str, count: int, *, seed: int) -> Figures:
        """Measure one side in one slice."""
        await self.clear()
        self.gigachat.reset()
        options = Options(latency=LATENCIES[latency], seed=seed)
        self.gigachat.set_options(**options.model_dump(mode="json"))
        before = {name: cpu_seconds([process]) for name, process in self.servers.items()}
        client_before, started = time.process_time(), time.perf_counter()
        looked_at = await side(count)
        seconds, client_seconds = time.perf_counter() - started, time.process_time() - client_before
        servers_seconds = {name: cpu_seconds([process]) - before[name] for name, process in self.servers.items()}
        assert looked_at == count, f"{looked_at} of {count} pictures were looked at"
        assert self.gigachat.counts()["calls"][str(self.tenant.id)]["chat"] == {"200": count}, "not one call a picture"
        draws = random.Random(seed)
        drawn_seconds = sum(LATENCIES[latency].draw(draws) for _ in range(count))
        return Figures(
            pictures_a_second=count / seconds,
            share_of_bound=drawn_seconds / STREAMS / seconds,
            cpu_milliseconds_a_picture={
                name: spent / count * 1000 for name, spent in {"client": client_seconds, **servers_seconds}.items()
            },
        )


def write_picture(file: Path, seed: int) -> None:
    """Write one picture; no two look alike."""
    file.write_bytes(encoded(photo(WIDTH, HEIGHT, seed=seed), quality=QUALITY))


def write_pictures(folder: Path, *, count: int) -> None:
    """Write the pictures, always the same ones."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_picture, [folder / f"{seed:05}.jpg" for seed in range(count)], range(count)))


async def run_rounds(stage: Stage, *, pictures: int, rounds: int) -> dict[str, dict[str, list[Figures]]]:
    """Let the sides take turns."""
    sides = {"ours": (stage.ours, pictures), "sequential": (stage.sequential, pictures // SEQUENTIAL_SHARE)}
    taken: dict[str, dict[str, list[Figures]]] = {latency: {side: [] for side in sides} for latency in LATENCIES}
    await stage.sequential(WARM_UP)  # servers that answer for the first time are slower
    for seed in range(rounds):
        for latency, figures in taken.items():
            for name, (side, count) in sides.items():
                figures[name].append(await stage.measure(side, latency, count, seed=seed))
    return taken


def summary(rounds: Sequence[Figures]) -> dict[str, Any]:
    """Sum up a side's rounds at one latency."""
    rates = [one.pictures_a_second for one in rounds]
    return {
        "pictures_a_second": round(statistics.median(rates), 2),
        "lowest": round(min(rates), 2),
        "highest": round(max(rates), 2),
        "share_of_bound": round(statistics.median(one.share_of_bound for one in rounds), 3),
        "shares_of_rounds": [round(one.share_of_bound, 3) for one in rounds],
        "cpu_milliseconds_a_picture": {
            name: round(statistics.median(one.cpu_milliseconds_a_picture[name] for one in rounds), 1)
            for name in rounds[0].cpu_milliseconds_a_picture
        },
    }


def servers(gigachat: psutil.Process) -> dict[str, psutil.Process]:
    """Find the processes whose CPU time is told; an external part is left out."""
    parts = {name: processes.find(name) for name in (s3.NAME, postgres.NAME)}
    return {
        "gigachat": gigachat,
        **{name: psutil.Process(child.pid) for name, child in parts.items() if child},
    }


async def run(options: argparse.Namespace, folder: Path, database_url: str) -> dict[str, Any]:
    """Store the pictures once, and measure both sides."""
    settings = Settings()
    (folder / "pictures").mkdir()
    write_pictures(folder / "pictures", count=options.pictures)
    with running_gigachat(folder / "gigachat") as (gigachat, process):
        async with (
            open_world(database_url, settings.s3_bucket, settings) as world,
            PostgresBudget.open(database_url) as budget,
        ):
            tenant = await world.tenant(f"benchmark {uuid4()}")
            await world.load(tenant, folder / "pictures")
            await world.store_media(tenant)
            try:
                stage = Stage(world, tenant, budget, gigachat, servers(process))
                facts = machine()
                rounds = await run_rounds(stage, pictures=options.pictures, rounds=options.rounds)
            finally:
                await stage.clear()
                await world.bucket.delete(list(await world.keys(f"media/{tenant.id}/")))
    return {
        "what": f"vision of {options.pictures} pictures ({WIDTH}x{HEIGHT}) by GigaChat, emulated, with {STREAMS} "
        f"streams and answers after 0.4 s; medians of {options.rounds} rounds",
        "machine": facts,
        "postgres": server_facts(database_url),
        "sides": SIDES,
        **{latency: {side: summary(taken) for side, taken in sides.items()} for latency, sides in rounds.items()},
        "ratios_to_sequential": {
            latency: round(
                statistics.median(
                    ours.pictures_a_second / peer.pictures_a_second
                    for ours, peer in zip(sides["ours"], sides["sequential"], strict=True)
                ),
                2,
            )
            for latency, sides in rounds.items()
        },
        "goal": f"constant, ours: share_of_bound >= {GOAL_SHARE:.2f}",
    }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(
        *("latency", "", "pictures a second", "share of the bound", "CPU ms a picture"), title=str(result["what"])
    )
    for latency in LATENCIES:
        for side, what in SIDES.items():
            figures = result[latency][side]
            shares = figures["shares_of_rounds"]
            table.add_row(
                latency,
                what,
                f"{figures['pictures_a_second']} ({figures['lowest']} to {figures['highest']})",
                f"{figures['share_of_bound']} ({min(shares)} to {max(shares)})",
                ", ".join(f"{name} {cpu:g}" for name, cpu in figures["cpu_milliseconds_a_picture"].items()),
            )
    console = Console()
    console.print(table)
    ratios = ", ".join(f"{latency} x{ratio:g}" for latency, ratio in result["ratios_to_sequential"].items())
    console.print(f"Ours to the original's flow: {ratios}. Goal: {result['goal']}.")


def main() -> None:
    """Measure both sides, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    configure_logging("WARNING")
    with running_parts(), scratch_database() as name, TemporaryDirectory() as folder:
        execute(url_of(name), TABLES)
        result = asyncio.run(run(options, Path(folder), url_of(name)))
    write_result("pipeline", result)
    show(result)


if __name__ == "__main__":
    main()
