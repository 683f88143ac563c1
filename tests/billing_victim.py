"""A billing in a process of its own, which kills itself at a given point: `python -m tests.billing_victim …`.

What is not here: what must come of it (`integration/test_billing.py`).
"""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from datetime import datetime

from tests.billed import Account
from tests.world import open_world
from vision_assets.core.billing import FileStore
from vision_assets.settings import Settings


@dataclass
class DeadlyStore:
    """A bucket whose client dies after some puts."""

    store: FileStore
    puts: int

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Put or die."""
        if not self.puts:
            os.kill(os.getpid(), signal.SIGKILL)
        self.puts -= 1
        await self.store.put(key, body, mime=mime, encoding=encoding)


async def bill(database_url: str, bucket: str, tenant: str, now: str, puts: str) -> None:
    """Bill, and die."""
    async with open_world(database_url, bucket, Settings()) as world:
        account = Account(world, await world.tenant(tenant))
        await account.bill(now=datetime.fromisoformat(now), store=DeadlyStore(world.bucket, int(puts)))


if __name__ == "__main__":
    asyncio.run(bill(*sys.argv[1:]))
