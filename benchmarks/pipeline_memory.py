"""Peak memory of taking 2,000 pictures through every pass, against 200: it must not grow with the tenant.

Each side runs in a process, a tenant and a folder of its own. The pictures are different crops of the example photos.
"""

import argparse
import asyncio
import io
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks._memory import MIB, measure, memory_bytes, quarters, tell, write_result
from tests.world import open_world
from vision_assets.clients.postgres.search import PostgresIndexLedger
from vision_assets.clients.qdrant import QdrantIndex
from vision_assets.core.errors import InputRejected
from vision_assets.core.pictures import decode_upright
from vision_assets.core.search import index_posts
from vision_assets.devstack.parts import running_parts
from vision_assets.settings import PROJECT_ROOT, Settings

GOAL_RATIO = 1.15
EDGE = 640


def originals() -> Iterator[Image.Image]:
    """The example photos that decode."""
    for path in sorted((PROJECT_ROOT / "examples").glob("*/photos/*.jpg")):
        try:
            yield decode_upright(path.read_bytes())
        except InputRejected:
            continue  # one is broken on purpose


def write_pictures(folder: Path, *, count: int) -> None:
    """Write different pictures: windows that wander over the photos, so that few are near-duplicates."""
    photos = list(originals())
    for number in range(count):
        photo = photos[number % len(photos)]
        step = number // len(photos)
        width, height = photo.width * 2 // 3, photo.height * 2 // 3
        left = (photo.width - width) * (step * 37 % 101) // 101
        top = (photo.height - height) * (step * 61 % 101) // 101
        window = photo.crop((left, top, left + width, top + height)).resize((EDGE, EDGE * height // width))
        file = io.BytesIO()
        window.save(file, "JPEG", quality=85)
        (folder / f"{number:05}.jpg").write_bytes(file.getvalue())


async def run(folder: Path) -> dict[str, Any]:
    """Take a folder through every pass, and sample the memory all the while."""
    settings = Settings()
    assert settings.database_url is not None  # the parts run
    assert settings.qdrant_url is not None
    samples: list[int] = []

    async def sample() -> None:
        while True:
            samples.append(memory_bytes("VmRSS"))
            await asyncio.sleep(0.5)

    started = time.perf_counter()
    async with open_world(settings.database_url.get_secret_value(), settings.s3_bucket, settings) as world:
        tenant = await world.tenant(f"benchmark {uuid4()}")
        sampling = asyncio.create_task(sample())
        await world.load(tenant, folder)
        media = await world.store_media(tenant)
        vision = await world.analyse(tenant)
        await world.enrich(tenant)
        await world.reconcile(tenant)
        async with QdrantIndex(settings.qdrant_url) as index:
            await index_posts(tenant.id, ledger=PostgresIndexLedger(world.database), index=index)
        sampling.cancel()
    return {
        "pictures": media.puts,
        "analyses": vision.analyses,
        "reused": vision.methods["near_duplicate"],
        "seconds": round(time.perf_counter() - started, 1),
        "rss_bytes_at_quarters": quarters(samples),
    }


def main() -> None:
    """Measure both sides, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        tell(asyncio.run(run(options.folder)))
        return
    counts = {"peer": options.pictures // 10, "ours": options.pictures}
    sides = {}
    with running_parts():
        for side, count in counts.items():
            with TemporaryDirectory() as folder:
                write_pictures(Path(folder), count=count)
                sides[side] = measure("benchmarks.pipeline_memory", "--folder", folder)
    ratio = round(sides["ours"]["peak_rss_bytes"] / sides["peer"]["peak_rss_bytes"], 3)
    result = {
        "what": f"peak RSS of every pass over {counts['ours']} pictures, against {counts['peer']}",
        **sides,
        "ratio": ratio,
        "goal": f"ratio <= {GOAL_RATIO}",
    }
    write_result("pipeline_memory", result)
    table = Table("pictures", "peak RSS, MiB", "RSS at 0, 25, 50, 75, 100 %, MiB", "seconds", title=str(result["what"]))
    for figures in sides.values():
        course = ", ".join(f"{rss_bytes / MIB:.0f}" for rss_bytes in figures["rss_bytes_at_quarters"])
        table.add_row(
            f"{figures['pictures']}", f"{figures['peak_rss_bytes'] / MIB:.0f}", course, f"{figures['seconds']}"
        )
    Console().print(table)
    Console().print(f"Ratio {ratio}, goal {result['goal']}.")


if __name__ == "__main__":
    main()
