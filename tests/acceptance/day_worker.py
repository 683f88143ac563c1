"""A worker process that has the pictures of some tenants looked at by GigaChat, once; what it did goes to its output.

It is started, and killed, by `test_gigachat_worst_day.py`; its orders come as JSON on its input.
"""

import asyncio
import json
import sys
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from tests.world import ROOMY
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_vision import GigaChatVision
from vision_assets.clients.gigachat_wire import GigaChatAccess
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.analysis import VisionPass
from vision_assets.core.budget import BudgetLimits
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision_report import VisionReport

MODEL = "GigaChat-2-Max"
ESTIMATE_TOKENS = 4096
"""More than is ever learned here, so that every call is held at the same."""

CALLS_AT_ONCE = 2
"""Of each tenant."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker needs to know.

    Attributes:
        s3: For `S3Bucket.connect`.
        gigachat: For `GigaChatAccess`, with plain credentials.
        hold_seconds: Life of a hold, and of a storage operation's slot.
    """

    tenants: list[str]
    database_url: str
    s3: dict[str, Any]
    gigachat: dict[str, Any]
    hold_seconds: float

    def to_json(self) -> str:
        """Write them for a worker's input."""
        return json.dumps(asdict(self))

    def access(self) -> GigaChatAccess:
        """Where GigaChat is."""
        told = {
            **self.gigachat,
            "credentials": SecretStr(self.gigachat["credentials"]),
            "ca_file": Path(self.gigachat["ca_file"]),
        }
        return GigaChatAccess(**told)


async def work(orders: Orders) -> dict[str, VisionReport]:
    """Run one pass of every tenant, all at once."""
    async with (
        Database.open(orders.database_url) as database,
        PostgresBudget.open(orders.database_url) as budget,
        GigaChat.open(orders.access()) as api,
        aclosing(
            BudgetGate(
                budget,
                BudgetLimits(),
                estimate_floor_tokens=ESTIMATE_TOKENS,
                hold_life=timedelta(seconds=orders.hold_seconds),
            )
        ) as gate,
    ):
        bucket = S3Bucket.connect(**orders.s3)
        guard = QuotaGuardedStore(
            store=bucket,
            ledger=PostgresStorage(database),
            limits=ROOMY,
            slot_life=timedelta(seconds=orders.hold_seconds),
        )
        passes = [
            VisionPass(
                tenant_id=tenant,
                provider=GigaChatVision(api, tenant, model=MODEL),
                store=bucket,
                quota=guard,
                ledger=PostgresVision(database),
                gate=gate,
                concurrency=CALLS_AT_ONCE,
            )
            for tenant in (TenantId(UUID(tenant)) for tenant in orders.tenants)
        ]
        reports = await asyncio.gather(*(one.analyse_media() for one in passes))
    return dict(zip(orders.tenants, reports, strict=True))


def main() -> None:
    """Do what the input says."""
    reports = asyncio.run(work(Orders(**json.load(sys.stdin))))
    for tenant, report in reports.items():
        print(tenant, dict(report.methods), dict(report.deferred), report.failures, sep="\t")


if __name__ == "__main__":
    main()
