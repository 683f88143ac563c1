"""A sender of alerts in a process of its own, for tests that kill it: `python -m tests.alert_sender …`.

What is not here: what must come of it (`integration/test_alert_delivery.py`).
"""

import asyncio
import sys

from pydantic import SecretStr

from tests.alert_receivers import CHAT, token
from vision_assets.clients.alert_channels import AlertAccess
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.deliveries import PostgresDeliveries
from vision_assets.core.alert_delivery import Sender


async def send(database_url: str, telegram_url: str, webhook_url: str) -> None:
    """Send what is due."""
    access = AlertAccess(token(), CHAT, telegram_url, SecretStr(webhook_url))
    async with Database.open(database_url) as database, access.open() as channels:
        await Sender(PostgresDeliveries(database), channels).run()


if __name__ == "__main__":
    asyncio.run(send(*sys.argv[1:]))
