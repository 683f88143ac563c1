"""How full things are against their limits, and from where on that is worth a word.

What is not here: what is measured and bounded (`quota.py`, `budget.py`), and what is said of it (`findings.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vision_assets.core.budget import EVERYONE, Window
from vision_assets.core.quota import StorageLimits, TenantUsage
from vision_assets.core.storage import CONTENT_TYPES

WARN_FROM = 0.85
ERROR_FROM = 0.93

Severity = Literal["warn", "error"]
Unit = Literal["bytes", "tokens", "requests"]


def share(taken: int, limit: int | None) -> float | None:
    """Tell how much of a limit is taken; None: there is none. Of a limit of 0, all is as soon as anything is."""
    if limit is None:
        return None
    return taken / limit if limit else float(taken > 0)


@dataclass(frozen=True, slots=True)
class Gauge:
    """One level against its limit.

    Attributes:
        what: For people, as the subject of a sentence.
        taken: Used and held.
        limit: None: there is none.
        remedy: What raises the limit or lowers the level.
    """

    what: str
    unit: Unit
    taken: int
    limit: int | None
    remedy: str

    @property
    def share(self) -> float | None:
        """Taken of the limit; None without one."""
        return share(self.taken, self.limit)

    @property
    def severity(self) -> Severity | None:
        """None: there is room."""
        if self.share is None or self.share < WARN_FROM:
            return None
        return "error" if self.share >= ERROR_FROM else "warn"


def storage_gauges(usage: TenantUsage, limits: StorageLimits, *, tenant_name: str) -> list[Gauge]:
    """Lay out every limit that can refuse this tenant a put: its own, those of the types, and the bucket's."""
    own = usage.own
    set_own = f'`vision-assets quota set --tenant "{tenant_name}"`'
    gauges = [
        Gauge(
            "the tenant",
            "bytes",
            sum(usage.types[name].taken_bytes for name in CONTENT_TYPES),
            limits.tenant_bytes if own.tenant_bytes is None else own.tenant_bytes,
            f"{set_own} with --limit raises it",
        )
    ]
    gauges += [
        Gauge(
            f"the tenant's {name}",
            "bytes",
            usage.types[name].taken_bytes,
            own.type_bytes.get(name),
            f"{set_own} with --{name} raises it",
        )
        for name in CONTENT_TYPES
    ]
    gauges += [
        Gauge(
            f"all tenants' {name}",
            "bytes",
            usage.everyone[name].taken_bytes,
            limits.type_bytes[name],
            f"STORAGE_{name.upper()}_LIMIT_BYTES raises it, `vision-assets cleanup` frees what is old",
        )
        for name in CONTENT_TYPES
    ]
    gauges.append(
        Gauge(
            "the bucket",
            "bytes",
            sum(usage.everyone[name].taken_bytes for name in CONTENT_TYPES),
            limits.bucket_bytes,
            "STORAGE_BUCKET_LIMIT_BYTES raises it, `vision-assets cleanup` frees what is old",
        )
    )
    return gauges


def budget_gauges(windows: Sequence[Window], *, tenant_name: str) -> list[Gauge]:
    """Lay out the days and months of a tenant's budget and of the global one; calls at once pass too quickly."""
    gauges = []
    for window in windows:
        if window.key.period == "calls":
            continue
        everyone = window.key.scope == EVERYONE
        span = "today" if window.key.period == "day" else "this month"
        what = f"{'all tenants' if everyone else 'the tenant'} {span}"
        whose = "--everyone" if everyone else f'--tenant "{tenant_name}"'
        remedy = f"`vision-assets budget set {whose}` raises it"
        tokens, requests = window.used_tokens + window.held_tokens, window.used_requests + window.held_requests
        gauges.append(Gauge(what, "tokens", tokens, window.limit.tokens, remedy))
        gauges.append(Gauge(what, "requests", requests, window.limit.requests, remedy))
    return gauges
