"""Which pictures a provider has yet to look at, those that wait for a budget or after a failure included."""

from datetime import UTC, datetime, timedelta

from tests.world import World
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.policy import VisionPolicy, rules_fingerprint
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import VisionProvider
from vision_assets.core.vision_ledger import ToDo

_ALL_IS_DUE = timedelta(days=62)


async def still_to_do(world: World, tenant_id: TenantId, provider: VisionProvider) -> set[str]:
    """List the hashes of a tenant's pictures that the next runs will look at, however late."""
    ledger = PostgresVision(world.database)
    todo = ToDo(
        provider=provider,
        rules=rules_fingerprint(VisionPolicy(), calls_cost=True),
        now=datetime.now(UTC) + _ALL_IS_DUE,
        with_budget=True,
    )
    found: set[str] = set()
    after = (-1, -1, "")
    while page := await ledger.unanalysed(tenant_id, todo, after=after, limit=1000):
        found |= {medium.sha256 for medium in page}
        after = (*page[-1].order, page[-1].sha256)
    return found
