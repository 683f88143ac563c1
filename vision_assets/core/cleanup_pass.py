"""One clean-up: batch after batch, each removed by the steps of every deletion, each tenant failing alone.

A batch of a tenant is looked at again, forgotten by the registries and given slots in one transaction; then S3 deletes;
then it is booked. A clean-up that is broken off leaves slots that expire and are looked after; the next one goes on.
What is not here: what may go and how much (`cleanup.py`).
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from vision_assets.core.cleanup import (
    UNSETTLED,
    Candidate,
    Class,
    CleanupReport,
    Count,
    Cursor,
    Plan,
    Removed,
    Step,
    Upload,
    chosen,
    counts,
    is_emergency,
    owner,
    summed,
)
from vision_assets.core.errors import StorageUnavailable, TransientError
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.object_ledger import Taken
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import PREFIXES
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)

BATCH_SIZE = 500
PAGE_SIZE = 10_000
"""Candidates read at once: a page of pictures costs a scan over all of them, a batch a transaction."""

GIVE_UP_AFTER = 5
"""Tenants in succession for whom S3 does nothing: then it is S3 that fails, and not something of theirs."""

_NO_OBJECT = "crawl/none"


class CleanupLedger(Protocol):
    """What may go, asked of the object ledger and the registries of pictures, results and albums.

    Every method raises `DatabaseUnavailable` or `DatabaseConflict`; both are transient.
    """

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Keep other clean-ups out as long as this one runs.

        Raises:
            CleanupUnderWay: Transient.
        """
        ...

    async def taken_bytes(self) -> int:
        """Tell what is stored and reserved by all tenants together."""
        ...

    async def overdue_tenants(self, *, now: datetime) -> Sequence[TenantId]:
        """List the tenants with operations that never came back."""
        ...

    async def candidates(self, step: Step, *, after: Cursor | None, limit: int) -> Sequence[Candidate]:
        """List objects that may go, in the step's order.

        Args:
            limit: Pictures' results come on top of it.
        """
        ...

    async def claim(
        self,
        tenant_id: TenantId,
        candidates: Sequence[Candidate],
        *,
        step: Step,
        limits: StorageLimits,
        now: datetime,
        until: datetime,
    ) -> Sequence[Taken]:
        """Look again which of a tenant's candidates may go, forget them and take their slots, in one transaction.

        A result stays in its row, which notes that it is no longer in S3; a picture's row goes with its results.

        Args:
            limits, now, until: As of `StorageLedger.begin`.
        """
        ...

    async def stored(self, tenant_id: TenantId, keys: Sequence[str]) -> frozenset[str]:
        """Tell which of these objects are known to lie in S3."""
        ...

    async def count(self, tenant_id: TenantId, amounts: Sequence[Count]) -> None:
        """Raise a tenant's counters; those of a tenant that is gone are not kept."""
        ...


class UploadStore(Protocol):
    """The multipart uploads of the bucket. Every method raises `StorageUnavailable`, which is transient."""

    def abandoned(self, prefix: str, *, before: datetime) -> AsyncIterator[Sequence[Upload]]:
        """Walk the uploads below a prefix that were begun before and have not ended."""
        ...

    async def abort(self, upload: Upload) -> bool:
        """Drop an upload and its parts.

        Returns:
            False when it has ended meanwhile.
        """
        ...


@dataclass(slots=True)
class CleanupPass:
    """One clean-up by a plan.

    Attributes:
        dry_run: Nothing is changed, not even what operations that never came back have left; the figures are the same.
        on_progress: Called with the bytes removed since the last call, or that would be.
    """

    plan: Plan
    ledger: CleanupLedger
    guard: QuotaGuardedStore
    uploads: UploadStore
    dry_run: bool = False
    on_progress: Callable[[int], None] = lambda _: None
    report: CleanupReport = field(init=False)
    _left_out: set[TenantId] = field(default_factory=set)
    _refused_in_succession: int = 0

    def __post_init__(self) -> None:
        self.report = CleanupReport(self.plan, self.dry_run)

    async def run(self) -> CleanupReport:
        """Remove what the plan says, in its order, until nothing is left or an emergency has reached its target.

        A tenant whose objects cannot be removed is left out from then on and reported; the others go on.

        Raises:
            CleanupUnderWay: Transient; nothing was removed.
            StorageUnavailable: Transient; S3 failed at once, or for one tenant after the other. What was removed stays
                removed.
            DatabaseUnavailable, DatabaseConflict: Transient; what was removed stays removed.
        """
        async with nullcontext() if self.dry_run else self.ledger.alone():
            if not self.dry_run:
                # An absent bucket must come out before the registries forget what nothing then deletes.
                await self.guard.store.head(_NO_OBJECT)
                await self._look_after_overdue()
            report = self.report
            report.taken_before_bytes = report.taken_after_bytes = await self.ledger.taken_bytes()
            if self.plan.occasion == "emergency" and not is_emergency(report.taken_before_bytes, self.plan):
                report.needed = False
                return report
            now = self.guard.clock()
            for step in self.plan.steps(now):
                await self._remove_old(step)
            if self._needed_bytes() != 0:
                await self._abort_uploads(now - UNSETTLED)
        if not report.reached:
            log.warning(
                "cleanup.target_not_reached",
                taken_bytes=report.taken_after_bytes,
                target_bytes=self.plan.target_bytes,
            )
        return report

    def _needed_bytes(self) -> int | None:
        """Tell how much must go still; None: all that may."""
        if self.plan.threshold_bytes is None:
            return None
        return max(self.report.taken_after_bytes - self.plan.target_bytes, 0)

    async def _look_after_overdue(self) -> None:
        """Free what operations hold that never came back, an earlier clean-up's too."""
        failed_in_succession = 0
        for tenant_id in await self.ledger.overdue_tenants(now=self.guard.clock()):
            with structlog.contextvars.bound_contextvars(tenant_id=str(tenant_id)):
                try:
                    if failed := (await self.guard.sweep(tenant_id)).failed:
                        raise StorageUnavailable(f"S3 did not tell of {len(failed)} objects, {failed[0]} among them")
                except Exception as error:
                    log.exception("cleanup.overdue_failed", error_type=type(error).__name__)
                    self._failed("operations that never came back", tenant_id, error)
                    failed_in_succession += 1
                    if failed_in_succession >= GIVE_UP_AFTER:
                        raise
                else:
                    failed_in_succession = 0

    async def _remove_old(self, step: Step) -> None:
        """Remove one class of objects, as many as are needed.

        What is needed goes tenant by tenant: however many tenants' objects are mixed in a page, each is locked, and S3
        asked, as seldom as can be.
        """
        after: Cursor | None = None
        while self._needed_bytes() != 0:
            page = await self.ledger.candidates(step, after=after, limit=PAGE_SIZE)
            if not page:
                return
            after = page[-1].place
            while page and self._needed_bytes() != 0:
                needed = chosen(page, needed_bytes=self._needed_bytes())
                page = page[len(needed) :]
                by_tenant: defaultdict[TenantId, list[Candidate]] = defaultdict(list)
                for candidate in needed:
                    by_tenant[candidate.tenant_id].append(candidate)
                for tenant_id, candidates in by_tenant.items():
                    await self._remove_all(tenant_id, candidates, step)

    async def _remove_all(self, tenant_id: TenantId, candidates: Sequence[Candidate], step: Step) -> None:
        with structlog.contextvars.bound_contextvars(tenant_id=str(tenant_id)):
            for start in range(0, len(candidates), BATCH_SIZE):
                await self._remove(tenant_id, candidates[start : start + BATCH_SIZE], step)

    async def _remove(self, tenant_id: TenantId, candidates: Sequence[Candidate], step: Step) -> None:
        """Remove a batch of one tenant, as much of it as is needed by now."""
        batch = chosen(candidates, needed_bytes=self._needed_bytes())
        if self.dry_run:
            self.report.taken_after_bytes -= sum(candidate.bytes for candidate in batch)
            await self._note(tenant_id, summed(batch))
        elif batch and tenant_id not in self._left_out:
            await self._remove_of(tenant_id, batch, step)
            self.report.taken_after_bytes = await self.ledger.taken_bytes()

    async def _remove_of(self, tenant_id: TenantId, candidates: Sequence[Candidate], step: Step) -> None:
        """Take the steps of a deletion for a batch of one tenant."""
        name = step.content_type
        now = self.guard.clock()
        until = now + self.guard.slot_life
        try:
            taken = await self.ledger.claim(
                tenant_id,
                candidates,
                step=step,
                limits=self.guard.limits,
                now=now,
                until=until,
            )
        except Exception as error:
            log.exception("cleanup.claim_failed", content_type=name, error_type=type(error).__name__)
            self._failed(name, tenant_id, error)
            self._left_out.add(tenant_id)
            return
        self.report.left[name] += len(candidates) - len(taken)
        gone = {operation.key for operation, _ in taken}
        if not gone:
            return
        try:
            await self.guard.delete_begun(taken, until=until)
        except Exception as error:
            log.exception("cleanup.delete_failed", content_type=name, error_type=type(error).__name__)
            self._failed(name, tenant_id, error)
            # Of a request that failed, a part may be done: by now the books say what is known.
            gone -= await self.ledger.stored(tenant_id, sorted(gone))
            if not gone:
                self._left_out.add(tenant_id)
                self._refused_in_succession += 1
                if self._refused_in_succession >= GIVE_UP_AFTER:
                    raise
                return
        self._refused_in_succession = 0
        await self._note(tenant_id, summed(candidate for candidate in candidates if candidate.key in gone))

    async def _abort_uploads(self, before: datetime) -> None:
        """Drop the multipart uploads that were begun before and never completed. They are in no books."""
        for folder in PREFIXES:
            try:
                async for uploads in self.uploads.abandoned(f"{folder}/", before=before):
                    for upload in uploads:
                        await self._abort(upload)
            except Exception as error:
                log.exception("cleanup.uploads_failed", folder=folder, error_type=type(error).__name__)
                self._failed(f"multipart uploads below {folder}/", None, error)

    async def _abort(self, upload: Upload) -> None:
        tenant_id = owner(upload.key)
        with structlog.contextvars.bound_contextvars(tenant_id=str(tenant_id)):
            if self.dry_run or await self.uploads.abort(upload):
                await self._note(tenant_id, {"multipart": Removed(1, upload.bytes)})

    async def _note(self, tenant_id: TenantId | None, removed: Mapping[Class, Removed]) -> None:
        """Put what was removed of one tenant into the report, and count it."""
        first = not any(who == tenant_id for _, who in self.report.removed)
        for name, what in removed.items():
            self.report.removed[name, tenant_id] += what
            if not self.dry_run:
                log.info(
                    "cleanup.removed",
                    occasion=self.plan.occasion,
                    content_type=name,
                    objects=what.objects,
                    bytes=what.bytes,
                )
        self.on_progress(sum(what.bytes for what in removed.values()))
        if self.dry_run or tenant_id is None:
            return
        try:
            await self.ledger.count(tenant_id, counts(removed, occasion=self.plan.occasion, first=first))
        except TransientError as error:  # what was done is done
            log.exception("cleanup.count_failed", error_type=type(error).__name__)
            self._failed("counters", tenant_id, error)

    def _failed(self, what: str, tenant_id: TenantId | None, error: Exception) -> None:
        whose = "" if tenant_id is None else f" of {tenant_id}"
        self.report.failures.append(f"{what}{whose}: {type(error).__name__}: {error}")
