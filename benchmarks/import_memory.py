"""Peak memory of importing a 200,000-message export, against `json.load` of the same file.

The import goes to a tenant of its own, which is removed again.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from benchmarks._memory import MIB, measure, memory_bytes, quarters, tell, write_result
from tests.exports import write_large_export
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import PostgresPosts, ensure_tenant
from vision_assets.clients.telegram_export import TelegramExport
from vision_assets.core.importing import import_posts
from vision_assets.devstack.parts import running_parts
from vision_assets.settings import Settings

GOAL_RATIO = 0.15


def peer(file: Path) -> dict[str, Any]:
    """Read the file at once, as most readers of exports do; nothing is stored anywhere."""
    started = time.perf_counter()
    with file.open("rb") as stream:
        messages = len(json.load(stream)["messages"])
    return {"messages": messages, "seconds": round(time.perf_counter() - started, 1)}


async def ours(file: Path) -> dict[str, Any]:
    """Import the file, and sample the memory after each batch."""
    samples = [memory_bytes("VmRSS")]
    database_url = Settings().database_url
    assert database_url is not None  # the parts run
    async with Database.open(database_url.get_secret_value()) as database:
        tenant = await ensure_tenant(database, f"benchmark {uuid4()}")
        started = time.perf_counter()
        try:
            report = await import_posts(
                tenant.id,
                TelegramExport(file),
                store=PostgresPosts(database),
                progress=lambda _: samples.append(memory_bytes("VmRSS")),
            )
            seconds = time.perf_counter() - started
        finally:
            await database.pool.execute("DELETE FROM tenants WHERE id = $1", tenant.id)
    return {
        "messages": report.messages_read,
        "posts": report.posts_new,
        "seconds": round(seconds, 1),
        "rss_bytes_at_quarters": quarters(samples),
    }


def run_side(side: str, file: Path) -> None:
    """Be the process of one side."""
    result = asyncio.run(ours(file)) if side == "ours" else peer(file)
    tell(result)


def main() -> None:
    """Measure both sides, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.file)
        return
    with running_parts(), TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        write_large_export(file, messages=options.messages)
        file_bytes = file.stat().st_size
        sides = {
            side: measure("benchmarks.import_memory", "--side", side, "--file", str(file)) for side in ("peer", "ours")
        }
    ratio = round(sides["ours"]["peak_rss_bytes"] / sides["peer"]["peak_rss_bytes"], 3)
    result: dict[str, Any] = {
        "what": f"peak RSS of reading an export of {options.messages} messages, {file_bytes} bytes",
        "ours": {"what": "streamed import into Postgres", **sides["ours"]},
        "peer": {"what": "json.load", **sides["peer"]},
        "ratio": ratio,
        "goal": f"ratio <= {GOAL_RATIO}",
    }
    write_result("import_memory", result)
    table = Table("", "peak RSS, MiB", "seconds", title=f"{options.messages:,} messages, {file_bytes / MIB:.0f} MiB")
    for side, figures in sides.items():
        table.add_row(result[side]["what"], f"{figures['peak_rss_bytes'] / MIB:.0f}", f"{figures['seconds']}")
    console = Console()
    console.print(table)
    course = ", ".join(f"{rss_bytes / MIB:.0f}" for rss_bytes in sides["ours"]["rss_bytes_at_quarters"])
    console.print(f"Our RSS at 0, 25, 50, 75, 100 %: {course} MiB. Ratio {ratio}, goal {result['goal']}.")


if __name__ == "__main__":
    main()
