"""A worker that has pictures looked at for tokens: the pass of `vision_results` itself, several at once.

What is not here: the provider's other end (`biller.py`).
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

from tests.chaos.biller import call_provider
from tests.chaos.shift import Shift
from tests.results import result
from tests.world import ROOMY
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.analysis import VisionPass
from vision_assets.core.budget import BudgetLimits
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import ProviderUnavailable
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import Analysis, Look, Measured

STEPS = ("ledger.reserve", "provider.call", "s3.put", "results.record_result", "ledger.settle")
MOST_TOKENS = 1000


async def look(shift: Shift) -> None:
    """Run one pass after another until the shift is over."""
    orders, points = shift.orders, shift.points
    tenant = TenantId(UUID(orders["tenants"][0]))
    bucket = S3Bucket.connect(**orders["s3"])
    async with (
        Database.open(orders["database_url"], max_size=orders["connections"]) as database,
        PostgresBudget.open(orders["database_url"]) as ledger,
    ):
        gate = BudgetGate(
            points.around(ledger, ("reserve", "settle"), prefix="ledger"),
            BudgetLimits(),  # all stand in the ledger
            estimate_floor_tokens=MOST_TOKENS,
            hold_life=timedelta(seconds=orders["hold_seconds"]),
            sleep=lambda seconds: shift.pause(min(seconds, orders["hold_seconds"] / 5)),
        )
        guard = QuotaGuardedStore(
            store=points.around(bucket, ("put",), prefix="s3"),
            ledger=PostgresStorage(database),
            limits=ROOMY,
            slot_life=timedelta(seconds=orders["slot_seconds"]),
        )

        async def one_pass() -> None:
            report = await VisionPass(
                tenant_id=tenant,
                provider=PaidProvider(shift, tenant),
                store=bucket,
                quota=guard,
                ledger=points.around(PostgresVision(database), ("record_result",), prefix="results"),
                gate=gate,
            ).analyse_media()
            shift.tally.add("passes")
            shift.tally.add("analyses", report.analyses)
            shift.tally.add("failures", len(report.failures))
            for reason, times in report.deferred.items():
                shift.tally.add(f"deferred {reason}", times)
            await shift.pause(0.3)

        await shift.work(one_pass)
        await gate.aclose()


class PaidProvider:
    """Implements `VisionProvider` over HTTP; one picture is one subject."""

    name = "paid"
    model = "chaos"
    fingerprint = "prompt"
    estimated_tokens: int | None = MOST_TOKENS

    def __init__(self, shift: Shift, tenant: TenantId) -> None:
        self._shift, self._tenant = shift, tenant

    @asynccontextmanager
    async def ready(self, content: bytes, *, mime: str, measured: Measured | None = None) -> AsyncIterator[Look]:
        """Have one picture ready."""
        yield partial(self._look, content)

    async def _look(self, content: bytes) -> Analysis:
        subject = hashlib.sha256(content).hexdigest()
        try:
            tokens = await self._shift.points.step("provider.call", lambda: self._call(subject))
        except OSError as error:
            raise ProviderUnavailable(str(error)) from error
        return result("a", text="").analysis.model_copy(update={"tokens_used": tokens})

    async def _call(self, subject: str) -> int:
        return await call_provider(
            self._shift.orders["biller_port"],
            call=uuid4(),
            tenant=self._tenant,
            subject=subject,
            max_tokens=MOST_TOKENS,
        )
