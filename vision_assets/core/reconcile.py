"""Reconciliation: a tenant's object ledger held against a full listing of S3, while uploads go on.

The listing only nominates. It is older than what it is compared with, so nothing is ever booked from it: each object
where the two differ is looked at under its slot, and what lies there is booked. Only what that confirms is reported.
A listing that fails or breaks off nominates nothing.
What is not here: how the listing is walked (`listing.py`), how an object is looked at (`guarded_store.py`), and how the
two are compared (`clients/postgres/usage.py`).
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Literal, Protocol, get_args

import structlog

from vision_assets.core.errors import StorageUnavailable
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.listing import Lister, Sizes, TenantWalk
from vision_assets.core.quota import TenantUsage
from vision_assets.core.storage import PREFIXES, ContentType
from vision_assets.core.tenants import TenantId
from vision_assets.core.verification import Verification, Verified

log = structlog.get_logger(__name__)

DriftClass = Literal["missing", "untracked", "wrong_size", "stale_hold"]
DRIFT_CLASSES: tuple[DriftClass, ...] = get_args(DriftClass)

EXAMPLES = 5
PAGE_SIZE = 500


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the books were from S3, in one class; every case was looked at and booked.

    Attributes:
        bytes: What S3 had more than the books; negative when the books had more. Of stale holds: what they held.
        examples: A few keys.
    """

    objects: int = 0
    bytes: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OffSum:
    """Usage figures that were not the sum of the object ledger: somebody wrote to the table. They are again.

    Attributes:
        content_type: What is counted; with `of all tenants` behind it when it is not this tenant's figure.
        objects: What the figures showed more than the ledger; negative when the ledger had more.
        bytes: The same in bytes.
        reserved_bytes: The same of what is reserved.
    """

    content_type: str
    objects: int
    bytes: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class ReconciliationReport:
    """What a reconciliation found and put right.

    Attributes:
        usage: Afterwards.
        listed_objects: In S3, by the listing.
        nominated: Objects where listing and ledger differed; most are uploads and deletes of the meantime.
        drift: What was confirmed of them: `missing` from S3, `untracked` by the books, `wrong_size`; and `stale_hold`,
            operations that never came back. Every class is there.
        busy: Objects that another operation had: its commit books them.
        off_sums: Usage figures that were not the ledger's sums.
    """

    usage: TenantUsage
    listed_objects: int
    listed_bytes: int
    nominated: int
    drift: Mapping[DriftClass, Drift]
    busy: int
    off_sums: tuple[OffSum, ...]
    duration_seconds: float


class Comparison(Protocol):
    """A listing on its way to the object ledger of one tenant."""

    async def add(self, listed: Sizes) -> None:
        """Take in a piece of the listing; several callers at once take turns."""
        ...

    async def restore_sums(self) -> Sequence[OffSum]:
        """Hold the tenant's usage figures, and all tenants' together, against the ledger's sums, and put them right."""
        ...

    async def compare(self) -> int:
        """Nominate the objects where listing and ledger differ.

        What has a slot, or was booked since the comparison was opened, is left out: the listing may be older.

        Returns:
            Their number.
        """
        ...

    def nominated(self, *, page_size: int) -> AsyncIterator[Sequence[str]]:
        """Give the nominated keys, page by page."""
        ...

    async def count_drift(self, objects: Mapping[DriftClass, int]) -> None:
        """Raise the counters of what was confirmed to differ, and booked."""
        ...

    async def finish(self) -> None:
        """Note that the tenant's figures were held against S3."""
        ...


class ReconciliationLedger(Protocol):
    """The object ledger, as far as it is compared with a listing.

    Every method raises `DatabaseUnavailable` or `DatabaseConflict`; both are transient.
    """

    def comparison(self, tenant_id: TenantId) -> AbstractAsyncContextManager[Comparison]:
        """Open a comparison, before the listing begins. It holds no transaction open and keeps nothing afterwards."""
        ...


def drift_class(seen: Verified) -> DriftClass | None:
    """Tell how far the books were from what was seen; None: they agreed."""
    if seen.held_bytes:
        return "stale_hold"
    if seen.before_bytes == seen.after_bytes:
        return None
    if seen.after_bytes is None:
        return "missing"
    return "untracked" if seen.before_bytes is None else "wrong_size"


def content_type_of(key: str) -> ContentType:
    """Tell what a key counts as, by its folder."""
    return PREFIXES[key.split("/", 1)[0]]


@dataclass(slots=True)
class Reconciliation:
    """One reconciliation of one tenant.

    Attributes:
        concurrency: Listings under way at once.
        on_listed: Called with the number of objects listed since the last call.
    """

    tenant_id: TenantId
    store: Lister
    guard: QuotaGuardedStore
    ledger: ReconciliationLedger
    concurrency: int = 8
    on_listed: Callable[[int], None] = lambda _: None
    _listed_objects: int = 0
    _listed_bytes: int = 0
    _busy: int = 0
    _drift: dict[DriftClass, Drift] = field(default_factory=lambda: dict.fromkeys(DRIFT_CLASSES, Drift()))

    async def run(self) -> ReconciliationReport:
        """List, compare, look at what differs, and book what is there.

        May be broken off anywhere and run beside anything: what was booked until then is true.

        Raises:
            StorageUnavailable: Transient. When the listing broke off, nothing was changed; when S3 did not tell of
                single objects, the others are booked.
            ConfigurationError: The bucket does not exist, or its listing cannot be relied on; nothing was changed.
            DatabaseUnavailable, DatabaseConflict: Transient.
            TenantUnknown: There is no such tenant.
        """
        started = monotonic()
        async with self.ledger.comparison(self.tenant_id) as comparison:

            async def take(listed: Sizes) -> None:
                await comparison.add(listed)
                self._listed_objects += len(listed.keys)
                self._listed_bytes += sum(listed.sizes_bytes)
                self.on_listed(len(listed.keys))

            await TenantWalk(self.tenant_id, self.store, take, concurrency=self.concurrency).run()
            # First of all: wrong figures can keep what follows from being booked.
            off_sums = tuple(await comparison.restore_sums())
            for off in off_sums:
                log.warning("usage.off_sum", **asdict(off))
            await self._note(comparison, await self.guard.sweep(self.tenant_id), swept=True)
            nominated = await comparison.compare()
            async for keys in comparison.nominated(page_size=PAGE_SIZE):
                objects = [(key, content_type_of(key)) for key in keys]
                await self._note(comparison, await self.guard.verify(self.tenant_id, objects))
            await comparison.finish()
        return ReconciliationReport(
            usage=await self.guard.ledger.usage(self.tenant_id),
            listed_objects=self._listed_objects,
            listed_bytes=self._listed_bytes,
            nominated=nominated,
            drift=self._drift,
            busy=self._busy,
            off_sums=off_sums,
            duration_seconds=monotonic() - started,
        )

    async def _note(self, comparison: Comparison, seen: Verification, *, swept: bool = False) -> None:
        """Add up what was confirmed, and tell it right away: what is booked stays booked, whatever comes after.

        Raises:
            StorageUnavailable: S3 did not tell of some of the objects.
        """
        found: defaultdict[DriftClass, list[Verified]] = defaultdict(list)
        for one in seen.verified:
            name = "stale_hold" if swept else drift_class(one)
            if name is not None:
                found[name].append(one)
        for name, cases in found.items():
            drift = _drift(name, cases)
            log.warning("usage.drift", drift=name, objects=drift.objects, bytes=drift.bytes, examples=drift.examples)
            known = self._drift[name]
            self._drift[name] = Drift(
                known.objects + drift.objects,
                known.bytes + drift.bytes,
                (*known.examples, *drift.examples)[:EXAMPLES],
            )
        self._busy += len(seen.busy)
        if found:
            await comparison.count_drift({name: len(cases) for name, cases in found.items()})
        if seen.failed:
            raise StorageUnavailable(
                f"S3 did not tell of {len(seen.failed)} objects of which the books are not sure, "
                f"{seen.failed[0]} among them. What was found until then is booked; the next run goes on."
            )


def _drift(name: DriftClass, cases: Sequence[Verified]) -> Drift:
    if name == "stale_hold":
        size = sum(one.held_bytes for one in cases)
    else:
        size = sum((one.after_bytes or 0) - (one.before_bytes or 0) for one in cases)
    return Drift(len(cases), size, tuple(one.key for one in cases[:EXAMPLES]))
