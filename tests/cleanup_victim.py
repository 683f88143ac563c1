"""A clean-up in a process of its own, which kills itself at a given point: `python -m tests.cleanup_victim …`.

What is not here: what must come of it (`integration/test_cleanup_races.py`).
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tests.cleaning import Cleaning, WrappedStore
from tests.world import open_world
from vision_assets.settings import Settings


@dataclass
class DeadlyStore(WrappedStore):
    """A bucket whose client dies at its second batch: before S3 has the request, half way through, or after it."""

    point: str = ""
    batches: int = 0

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete and die."""
        self.batches += 1
        if self.batches < 2:
            await self.store.delete(keys)
            return
        if self.point == "half":
            await self.store.delete(keys[: len(keys) // 2])
        elif self.point == "after":
            await self.store.delete(keys)
        os.kill(os.getpid(), signal.SIGKILL)


async def clean_up(database_url: str, bucket: str, point: str) -> None:
    """Clean up, and die."""
    async with open_world(database_url, bucket, Settings()) as world:
        await Cleaning(world).run(store=DeadlyStore(world.bucket, point=point))


if __name__ == "__main__":
    asyncio.run(clean_up(*sys.argv[1:]))
