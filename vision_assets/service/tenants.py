"""Which tenants have series of their own, and how the others are summed up, so that there are never too many series.

What is not here: reading the figures (`clients/postgres/metrics.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vision_assets.clients.postgres.metrics import BudgetPeriod, Count, Labels, Spent, TenantFigures
from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.core.levels import WARN_FROM, share
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import TenantId

OTHER = "other"
"""The label of all tenants without series of their own."""

Resource = Literal["storage", "budget_day", "budget_month"]


@dataclass(frozen=True, slots=True)
class Bounded:
    """A tenant's figures beside the limits in force.

    Attributes:
        limit_bytes: Of all types.
        type_limit_bytes: The tenant's own.
        limit_tokens: None: there is none.
    """

    figures: TenantFigures
    limit_bytes: int
    type_limit_bytes: Mapping[ContentType, int]
    limit_tokens: Mapping[BudgetPeriod, int | None]

    @property
    def shares(self) -> dict[Resource, float]:
        """How much is taken of each limit; of storage, of the limit of which most is taken."""
        taken = self.figures.taken_bytes
        levels = [share(sum(taken.values()), self.limit_bytes)]
        levels += [share(taken[name], limit) for name, limit in self.type_limit_bytes.items()]
        shares: dict[Resource, float] = {"storage": max(level or 0 for level in levels)}
        resources: dict[BudgetPeriod, Resource] = {"day": "budget_day", "month": "budget_month"}
        for period, resource in resources.items():
            spent = self.figures.budget[period]
            shares[resource] = share(spent.used_tokens + spent.held_tokens, self.limit_tokens[period]) or 0
        return shares


def bounded(tenant: TenantFigures, storage: StorageLimits, budget: BudgetLimits) -> Bounded:
    """Put the limits in force beside a tenant's figures: its own, else those of the settings."""
    own = tenant.own_limits
    periods: tuple[BudgetPeriod, ...] = ("day", "month")
    return Bounded(
        tenant,
        own.get("all", storage.tenant_bytes),
        {name: own[name] for name in tenant.stored_bytes if name in own},
        {period: limit_in_force(tenant.budget[period], budget.tenant.get(period)) for period in periods},
    )


def limit_in_force(spent: Spent, allowance: Allowance | None) -> int | None:
    """Tell the limit of a budget in tokens: the scope's own, else the settings'; None: there is none."""
    if spent.limit_tokens is not None or allowance is None:
        return spent.limit_tokens
    return allowance.tokens


STAYS_WITHIN = 0.1
"""Of a limit: by so much a tenant must be fuller than one that has series of its own to take its place."""


def fullest(
    shares: Mapping[TenantId, Mapping[Resource, float]], count: int, *, before: Collection[TenantId] = ()
) -> set[TenantId]:
    """Choose the tenants that have most of any of their limits, so that whoever is near one has series of its own.

    Among many that are alike, most of those chosen before stay, or each scrape would begin other series: at midnight,
    when the days' budgets begin anew, all of them.

    Args:
        before: Who was chosen the last time.
    """

    def rank(tenant_id: TenantId) -> tuple[bool, float, TenantId]:
        taken = max(shares[tenant_id].values())
        return taken < WARN_FROM, -taken - (STAYS_WITHIN if tenant_id in before else 0), tenant_id

    return set(sorted(shares, key=rank)[:count])


@dataclass(slots=True)
class Rest:
    """Counters of the tenants that have no series of their own, summed up since the exporter began.

    Who belongs to them changes. A plain sum would fall whenever a tenant leaves, and Prometheus would take that for a
    restart and count all of it again; so what each of them adds while it is one of them is added up.
    """

    _before: dict[tuple[str, Labels, TenantId], int] | None = None
    _sums: Counter[tuple[str, Labels]] = field(default_factory=Counter)

    def add(self, counts: Sequence[Count], own: set[TenantId]) -> dict[tuple[str, Labels], int]:
        """Take in a reading of all tenants' counters, and tell the sums of those that are not among `own`."""
        now = {(one.name, one.labels, one.tenant_id): one.value for one in counts if one.tenant_id is not None}
        for (name, labels, tenant_id), value in now.items():
            if tenant_id not in own:
                before = value if self._before is None else self._before.get((name, labels, tenant_id), 0)
                self._sums[name, labels] += max(value - before, 0)
        self._before = now
        return dict(self._sums)


def by_tenant(counts: Sequence[Count]) -> Mapping[TenantId | None, Sequence[Count]]:
    """Sort counters by their tenants."""
    sorted_out: defaultdict[TenantId | None, list[Count]] = defaultdict(list)
    for one in counts:
        sorted_out[one.tenant_id].append(one)
    return sorted_out
