"""What of turns is told when, with stages that count. What is not here: the job that tells it (`test_new_posts.py`)."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import dagster as dg

from vision_assets.core.tenants import Tenant, TenantId
from vision_assets.defs.chain import Chained
from vision_assets.defs.outcomes import Made, Outcome
from vision_assets.defs.untold import Untold

FIRST, LAST = dg.AssetKey("first"), dg.AssetKey("last")
ONE, OTHER = TenantId(UUID(int=1)), TenantId(UUID(int=2))


def turn(*assets: dg.AssetKey, done: int = 1, failures: Sequence[str] = ()) -> Chained:
    """A turn in which each of the assets' stages has done so many items."""

    def outcome(asset: dg.AssetKey) -> Outcome[Counter[str]]:
        async def show(report: Counter[str]) -> Sequence[Made]:
            return [Made(asset, {"items": report["items"]})]

        return Outcome(Tenant(ONE, "One", {}), Counter(items=done), show, done=done, failures=failures)

    return Chained(outcomes={asset: outcome(asset) for asset in assets})


async def told(untold: Untold, *tenant_ids: TenantId) -> list[tuple[dg.AssetKey, object]]:
    """What is told of tenants: assets and figures."""
    return [
        (event.asset_key, event.metadata["items"].value)
        for event in await untold.events(tenant_ids)
        if isinstance(event, dg.AssetMaterialization)
    ]


async def test_a_tenant_is_told_of_at_once_and_then_from_time_to_time() -> None:
    """With what all turns did since; each tenant for itself."""
    untold = Untold([FIRST, LAST])
    untold.add(ONE, turn(FIRST), with_all=False)
    assert untold.due() == [ONE]
    assert await told(untold, ONE) == [(FIRST, 1)]
    untold.add(ONE, turn(FIRST, done=2), with_all=False)
    untold.add(ONE, turn(FIRST, done=3), with_all=False)
    untold.add(OTHER, turn(FIRST), with_all=False)
    assert (untold.due(), set(untold.tenants)) == ([OTHER], {ONE, OTHER})
    untold.every_seconds = 0
    assert untold.due() == [ONE, OTHER]
    assert await told(untold, ONE, OTHER) == [(FIRST, 5), (FIRST, 1)]
    assert not untold.tenants
    assert await told(untold, ONE) == []


async def test_what_comes_first_in_the_chain_is_told_first() -> None:
    """Whichever was done first: an asset that is older than what it is made of would seem out of date."""
    untold = Untold([FIRST, LAST])
    untold.add(ONE, turn(LAST), with_all=False)
    untold.add(ONE, turn(FIRST, LAST), with_all=False)
    assert await told(untold, ONE) == [(FIRST, 1), (LAST, 2)]


async def test_what_is_done_in_parts_only_is_not_told() -> None:
    """Nor is what has not changed, unless a run before may have ended without telling of it."""
    untold = Untold([FIRST, LAST])
    untold.add(ONE, turn(FIRST, failures=["S3 is away"]), with_all=True)
    untold.add(ONE, turn(LAST, done=0), with_all=False)
    assert not untold.tenants
    untold.add(ONE, turn(FIRST, LAST, done=0), with_all=True)
    assert await told(untold, ONE) == [(FIRST, 0), (LAST, 0)]
