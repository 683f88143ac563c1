"""Billing: what a tenant used on each UTC day, in revisions, and the events that metering systems add up.

A day is billed when it is over. What is found out later, by a reconciliation or by a call that settles late, is a
further revision of the day; earlier ones stay readable. Which days differ is a question to the books each time, so
a pass that is killed, repeated or late comes to the same.
What is not here: the meters (`clients/postgres/billing.py`), and the form of the files (`billing_files.py`).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal, Protocol

import structlog

from vision_assets.core.price import TokenPrice
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)

Meter = Literal["storage", "vision"]

_GB_HOUR_BYTE_SECONDS = 2**30 * 3600
_PLACES = Decimal("1e-9")


@dataclass(frozen=True, slots=True)
class StorageUse:
    """What was stored on a day.

    Attributes:
        byte_seconds: Bytes times the seconds that they lay there; exact to the microsecond.
    """

    byte_seconds: Decimal = Decimal(0)

    @property
    def gb_hours(self) -> Decimal:
        """GB (2³⁰ bytes, as in `total_gb`) times hours, to nine places."""
        return (self.byte_seconds / _GB_HOUR_BYTE_SECONDS).quantize(_PLACES, ROUND_HALF_UP)


@dataclass(frozen=True, slots=True)
class TokenUse:
    """What was asked of a model on a day.

    Attributes:
        tokens: Of settled calls, as the provider billed them.
        unconfirmed_tokens: At most, of calls of which nobody knows whether they were billed: their estimates.
    """

    tokens: int = 0
    calls: int = 0
    unconfirmed_tokens: int = 0
    unconfirmed_calls: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """What is billed by itself: a content type's storage, or a model's tokens, of one UTC day."""

    day: date
    meter: Meter
    content_type: str = ""
    provider: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Billed:
    """A line with its figures.

    Attributes:
        revision: From 1; the highest one of a line counts.
        price: Of tokens; that of the first revision holds for the others. None: not known.
        billed_at: Aware UTC.
    """

    line: Line
    use: StorageUse | TokenUse
    revision: int
    price: TokenPrice | None
    billed_at: datetime

    @property
    def cost_microunits(self) -> int | None:
        """What the tokens cost, in millionths of the currency; None: there are none, or no price was set."""
        return self.price.microunits(self.use.tokens) if self.price and isinstance(self.use, TokenUse) else None


@dataclass(frozen=True, slots=True)
class Unbilled:
    """A line whose figures are not, or not any more, those that were billed.

    Attributes:
        latest: What was billed last; None: nothing.
    """

    line: Line
    use: StorageUse | TokenUse
    latest: Billed | None = None


class BillingLedger(Protocol):
    """The meters, and what was billed.

    Every method raises `DatabaseUnavailable` or `DatabaseConflict`; both are transient.
    """

    def alone(self, tenant_id: TenantId) -> AbstractAsyncContextManager[None]:
        """Wait until nobody else bills this tenant, and keep others waiting meanwhile."""
        ...

    async def unbilled(self, tenant_id: TenantId, *, before: date) -> Sequence[Unbilled]:
        """List what of the days before a UTC day differs from what was billed, in order.

        What is being booked is waited for, so that a day that is over does not change any more by what went on in it.
        """
        ...

    async def add(self, tenant_id: TenantId, billed: Sequence[Billed]) -> None:
        """Write revisions, all or none."""
        ...

    async def unexported(self, tenant_id: TenantId) -> Mapping[date, int]:
        """Tell the months whose files are older than what was billed, by their first days, with their newest rows."""
        ...

    async def billed(self, tenant_id: TenantId, month: date) -> Sequence[Billed]:
        """List all revisions of a month, by line and revision."""
        ...

    async def note_exported(self, tenant_id: TenantId, month: date, *, newest_row: int) -> None:
        """Note that the files of a month hold all rows up to this one."""
        ...


class FileStore(Protocol):
    """An S3 bucket, as far as bills go. They count against nobody's quota."""

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Write a whole object.

        Raises:
            StorageUnavailable: Transient; the object may or may not be there.
        """
        ...


class BillingFormat(Protocol):
    """Writes a month's revisions as one file.

    Attributes:
        name: Of the file.
        mime: Its type.
    """

    @property
    def name(self) -> str: ...
    @property
    def mime(self) -> str: ...
    def encode(self, tenant_id: TenantId, billed: Sequence[Billed]) -> bytes:
        """Give the same bytes for the same revisions."""
        ...


@dataclass(frozen=True, slots=True)
class BillingReport:
    """What a pass billed.

    Attributes:
        billed: The new revisions, by line.
        files: Keys in S3 that were written.
        through: The last day that is over; what was used until its end is billed.
        last_day: The revisions of that day that count, whichever pass billed them.
    """

    billed: tuple[Billed, ...]
    files: tuple[str, ...]
    through: date
    last_day: tuple[Billed, ...]

    @property
    def restated(self) -> tuple[Billed, ...]:
        """Those that follow an earlier revision."""
        return tuple(one for one in self.billed if one.revision > 1)


@dataclass(frozen=True, slots=True)
class BillingPass:
    """Bills the days of one tenant that are over, and writes the files of the months that changed.

    Attributes:
        prices: Of tokens, by provider, for lines that were not billed before; of one that is not named it is not known.
        formats: Of the files of each month.
    """

    tenant_id: TenantId
    ledger: BillingLedger
    store: FileStore
    prices: Mapping[str, TokenPrice]
    formats: Sequence[BillingFormat]

    async def run(self, *, now: datetime) -> BillingReport:
        """Bill what is not billed, or has changed since; a pass after which nothing happened writes nothing.

        Args:
            now: Aware UTC; its day is not over.

        Raises:
            StorageUnavailable: Transient; what was billed stays so, and the next pass writes the files.
            DatabaseUnavailable, DatabaseConflict: Transient.
        """
        today = now.astimezone(UTC).date()
        async with self.ledger.alone(self.tenant_id):
            unbilled = await self.ledger.unbilled(self.tenant_id, before=today)
            billed = tuple(next_revision(one, price=self.prices.get(one.line.provider), now=now) for one in unbilled)
            await self.ledger.add(self.tenant_id, billed)
            for one in billed:
                if one.revision > 1:
                    log.warning("billing.restated", day=str(one.line.day), meter=one.line.meter, revision=one.revision)
            files = await self._export()
            yesterday = today - timedelta(days=1)
            month = await self.ledger.billed(self.tenant_id, yesterday.replace(day=1))
        log.info("billing.billed", lines=len(billed), files=len(files))
        last_day = {one.line: one for one in month if one.line.day == yesterday}
        return BillingReport(billed, tuple(files), yesterday, tuple(last_day.values()))

    async def _export(self) -> list[str]:
        written = []
        for month, newest_row in (await self.ledger.unexported(self.tenant_id)).items():
            billed = await self.ledger.billed(self.tenant_id, month)
            for form in self.formats:
                key = billing_key(self.tenant_id, month, form.name)
                await self.store.put(key, form.encode(self.tenant_id, billed), mime=form.mime)
                written.append(key)
            await self.ledger.note_exported(self.tenant_id, month, newest_row=newest_row)
        return written


def next_revision(unbilled: Unbilled, *, price: TokenPrice | None, now: datetime) -> Billed:
    """Make the revision that follows; a line keeps the price at which it was first billed.

    Args:
        price: Of the line's tokens, if it was not billed before; None: there are none, or it is not known.
        now: Aware UTC.
    """
    latest = unbilled.latest
    if latest is None:
        return Billed(unbilled.line, unbilled.use, 1, price, now)
    return replace(latest, use=unbilled.use, revision=latest.revision + 1, billed_at=now)


def billing_key(tenant_id: TenantId, month: date, name: str) -> str:
    """Name a file of a month. It lies in no folder that is listed or counted as a tenant's."""
    return f"billing/{tenant_id}/{month:%Y-%m}/{name}"


def event(tenant_id: TenantId, billed: Billed, before: Billed | None) -> dict[str, object]:
    """Make the CloudEvent of a revision. It tells what comes on top of the revision before it.

    So a metering system that adds up a line's events has the latest revision's figures; and one that gets an event
    twice knows it by its id.

    Args:
        before: The revision before it; None: it is the first.
    """
    line = billed.line
    if isinstance(billed.use, StorageUse):
        earlier = before.use if before and isinstance(before.use, StorageUse) else StorageUse()
        what: dict[str, object] = {"content_type": line.content_type}
        figures: dict[str, object] = {"gb_hours": float(billed.use.gb_hours - earlier.gb_hours)}
        place = line.content_type
    else:
        spent = before.use if before and isinstance(before.use, TokenUse) else TokenUse()
        what = {"provider": line.provider, "model": line.model}
        figures = {
            "tokens": billed.use.tokens - spent.tokens,
            "calls": billed.use.calls - spent.calls,
            "unconfirmed_tokens": billed.use.unconfirmed_tokens - spent.unconfirmed_tokens,
            "unconfirmed_calls": billed.use.unconfirmed_calls - spent.unconfirmed_calls,
        }
        if billed.price is not None and billed.cost_microunits is not None:
            cost = billed.cost_microunits - ((before.cost_microunits or 0) if before else 0)
            figures |= {"cost": float(Decimal(cost).scaleb(-6)), "currency": billed.price.currency}
        place = f"{line.provider}/{line.model}"
    return {
        "specversion": "1.0",
        "id": f"{tenant_id}/{line.day}/{line.meter}/{place}/{billed.revision}",
        "source": "/vision_assets/billing",
        "type": f"vision_assets.usage.{line.meter}",
        "subject": str(tenant_id),
        "time": datetime.combine(line.day, time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "datacontenttype": "application/json",
        "data": {"day": str(line.day), "revision": billed.revision, **what, **figures},
    }
