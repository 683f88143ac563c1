"""What turns did of which Dagster has yet to hear: it is told of a tenant once a minute, and not after each turn.

Each event costs milliseconds and rows, and busy tenants have turns every few seconds. What is not here: what makes up
for a run that ends too soon (`new_posts` in `sensors.py`).
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from vision_assets.core.tenants import TenantId
from vision_assets.defs.chain import Chained
from vision_assets.defs.outcomes import Outcome, joined

TELL_EVERY_SECONDS = 60.0


@dataclass(slots=True)
class Untold:
    """What a run did for its tenants since it was told last.

    Attributes:
        order: Of the stages, by the first asset of each.
        every_seconds: A tenant is told of.
    """

    order: Sequence[dg.AssetKey]
    every_seconds: float = TELL_EVERY_SECONDS
    _outcomes: dict[TenantId, dict[dg.AssetKey, Outcome[Any]]] = field(default_factory=dict)
    _told_at: dict[TenantId, float] = field(default_factory=dict)

    def add(self, tenant_id: TenantId, done: Chained, *, with_all: bool) -> None:
        """Take in a turn: what has changed, or everything, but for what is done in parts only."""
        changed = {
            asset: outcome
            for asset, outcome in done.outcomes.items()
            if (with_all or outcome.done) and not outcome.failures
        }
        if changed:
            earlier = self._outcomes.setdefault(tenant_id, {})
            for asset, outcome in changed.items():
                earlier[asset] = joined(earlier[asset], outcome) if asset in earlier else outcome

    @property
    def tenants(self) -> Collection[TenantId]:
        """Those of whom there is something to tell."""
        return self._outcomes.keys()

    def due(self) -> list[TenantId]:
        """Give those of whom it is time to tell; the first time it is at once."""
        before = time.monotonic() - self.every_seconds
        return [tenant_id for tenant_id in self._outcomes if self._told_at.get(tenant_id, before) <= before]

    async def events(self, tenant_ids: Sequence[TenantId]) -> list[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        """Give what is to be told of tenants, upstream assets first, once: whoever asks tells it now."""
        told: list[dg.AssetMaterialization | dg.AssetCheckEvaluation] = []
        for tenant_id in tenant_ids:
            self._told_at[tenant_id] = time.monotonic()
            outcomes = self._outcomes.pop(tenant_id, {})
            for outcome in [outcomes[asset] for asset in self.order if asset in outcomes]:
                told += (await outcome.shown()).events()
        return told
