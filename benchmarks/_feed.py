"""New posts at a steady rate, as a bot would write them, and when each of them is to be seen.

What is not here: what processes them, and what the figures mean (`freshness.py`).
"""

import asyncio
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from benchmarks._photographs import as_jpeg, photographs
from vision_assets.core.pictures import decode_upright

WIDTH, HEIGHT = 256, 192
LOOK_SECONDS = 0.5
"""Between two looks at what is to be seen: a time may be told too long by so much."""

POST = """
WITH post AS (
    INSERT INTO posts (id, tenant_id, channel_id, message_id, posted_at, text)
    SELECT $1, tenant_id, id, $3, now(), $4 FROM channels WHERE tenant_id = $2
    RETURNING id, tenant_id, message_id
)
INSERT INTO post_media (post_id, position, tenant_id, message_id, role, source_uri)
SELECT id, 0, tenant_id, message_id, 'photo', $5 FROM post
"""
ANALYSED = """
SELECT m.post_id FROM post_media m JOIN vision_results r ON r.tenant_id = m.tenant_id AND r.sha256 = m.sha256
WHERE m.post_id = ANY($1::uuid[]) AND r.result IS NOT NULL
"""
FOUND = """
SELECT s.post_id FROM search_index s JOIN post_enrichment e ON e.post_id = s.post_id AND e.tenant_id = s.tenant_id
WHERE s.post_id = ANY($1::uuid[]) AND s.state = 'indexed' AND s.indexed_at >= e.updated_at
"""


@dataclass(slots=True)
class Sent:
    """A post; monotonic seconds, None: not yet."""

    tenant_id: UUID
    sent_at: float
    analysed_at: float | None = None
    found_at: float | None = None


@dataclass(slots=True)
class Feed:
    """Writes posts and looks for what becomes of them."""

    pool: "asyncpg.Pool[asyncpg.Record]"
    pictures: Sequence[Path]
    posts: dict[UUID, Sent] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=count)

    async def post(self, tenant_id: UUID, *, quietly: bool = False) -> None:
        """Write one post with a picture that no other post shows.

        Args:
            quietly: Bring nobody in line by it.
        """
        number, post_id = next(self._numbers), uuid4()
        sent = self.posts[post_id] = Sent(tenant_id, time.monotonic())
        values = post_id, tenant_id, number, f"Новость {number}, photograph", self.pictures[number].as_uri()
        async with self.pool.acquire() as connection, connection.transaction():
            if quietly:
                await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(POST, *values)
        sent.sent_at = time.monotonic()

    async def run(self, tenants: Sequence[UUID], weights: Sequence[float], *, rate: float, seconds: float) -> float:
        """Write posts of tenants by their weights; tells the rate that was reached."""
        drawn = random.Random(1).choices(tenants, weights, k=round(rate * seconds))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, tenant in enumerate(drawn):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                group.create_task(self.post(tenant))
        return len(drawn) / (time.monotonic() - began)

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """See once what is to be seen."""
        for query, seen in ((ANALYSED, "analysed_at"), (FOUND, "found_at")):
            waiting = [post_id for post_id, post in self.posts.items() if getattr(post, seen) is None]
            rows = await self.pool.fetch(query, waiting)
            now = time.monotonic()
            for row in rows:
                setattr(self.posts[row["post_id"]], seen, now)

    def waiting(self) -> int:
        """Count the posts that are not to be seen in full."""
        return sum(post.analysed_at is None or post.found_at is None for post in self.posts.values())

    async def wait(self, *, seconds: float) -> None:
        """Wait until all is to be seen, but not longer than this."""
        deadline = time.monotonic() + seconds
        while self.waiting() and time.monotonic() < deadline:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)


def _write(folder: Path, seed: int, number: int) -> list[Path]:
    """Write pictures of one seed: pieces of photographs, each of another size and place."""
    draws = random.Random(seed)
    images = [decode_upright(content) for content in photographs()]
    files = []
    for place in range(number):
        image = draws.choice(images)
        width = draws.randint(image.width // 4, image.width // 2)
        height = min(width * HEIGHT // WIDTH, image.height)
        left, top = draws.randint(0, image.width - width), draws.randint(0, image.height - height)
        file = folder / f"{seed}-{place}.jpg"
        piece = image.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT))
        file.write_bytes(as_jpeg(piece, quality=draws.randint(70, 92)))
        files.append(file)
    return files


def write_pictures(folder: Path, *, number: int, processes: int = 2) -> list[Path]:
    """Write small pictures, each another piece of a photograph, always the same ones."""
    folder.mkdir()
    with ProcessPoolExecutor(processes) as pool:
        parts = pool.map(_write, [folder] * processes, range(processes), [number // processes + 1] * processes)
        return [file for part in parts for file in part]
