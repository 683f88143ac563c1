"""Which tenants have series of their own, and what is told of the others. What is not here: the real ledgers."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from tests.scraped import Scraped
from vision_assets.clients.postgres.metrics import Count, Spent, TenantFigures
from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import TenantId
from vision_assets.service import metrics
from vision_assets.service.sheet import Sheet
from vision_assets.service.tenants import STAYS_WITHIN, Resource, Rest, bounded, fullest

ONE, TWO, THREE = (TenantId(UUID(int=number)) for number in (1, 2, 3))
STORAGE = StorageLimits(bucket_bytes=10_000, tenant_bytes=1000, type_bytes={"crawl": 1, "media": 1, "vision": 1})
BUDGET = BudgetLimits(tenant={"day": Allowance(100)})
AT = datetime(2026, 11, 1, tzinfo=UTC)
REFUSALS = "storage_quota_violations_total"
FULL = (("reason", "bucket_full"),)


def tenant(tenant_id: TenantId, *, media: int = 0, day: int = 0, held: int = 0) -> TenantFigures:
    """A tenant without limits of its own."""
    stored: dict[ContentType, int] = {"crawl": 0, "media": media, "vision": 0}
    return TenantFigures(
        tenant_id, AT, stored, stored, 0, {}, None, {"day": Spent(day, held, None), "month": Spent(day, held, None)}
    )


def test_shares_are_of_the_limits_in_force() -> None:
    """The settings' limits, the tenant's own in their place, and the fullest of those that bound storage."""
    plain = bounded(tenant(ONE, media=500, day=20, held=5), STORAGE, BUDGET)
    assert plain.shares == {"storage": 0.5, "budget_day": 0.25, "budget_month": 0}
    own = replace(
        tenant(ONE, media=500, day=20),
        own_limits={"all": 2000, "media": 600, "vision": 0},
        budget={"day": Spent(20, 0, 200), "month": Spent(20, 0, 20)},
    )
    assert bounded(own, STORAGE, BUDGET).shares == {"storage": 500 / 600, "budget_day": 0.1, "budget_month": 1}
    assert bounded(replace(own, own_limits={"all": 0}), STORAGE, BUDGET).shares["storage"] == 1


def test_the_fullest_of_any_limit_have_series_of_their_own() -> None:
    """Whoever is near a limit is among them, and equals are chosen by their ids, always the same."""
    shares = {
        one.figures.id: one.shares
        for one in (
            bounded(tenant(ONE, media=100), STORAGE, BUDGET),
            bounded(tenant(TWO, day=90), STORAGE, BUDGET),
            bounded(tenant(THREE, media=100), STORAGE, BUDGET),
        )
    }
    assert fullest(shares, 1) == {TWO}
    assert fullest(shares, 2) == {TWO, ONE}
    assert fullest(shares, 0) == set()


def test_who_has_series_keeps_them_among_those_that_are_alike() -> None:
    """Another must be fuller by a margin, unless it is near a limit, or one of those chosen is gone."""

    def shares(one: float, two: float) -> dict[TenantId, dict[Resource, float]]:
        return {ONE: {"storage": one}, TWO: {"storage": two}}

    assert fullest(shares(0.2, 0.3), 1) == {TWO}
    assert fullest(shares(0.2, 0.3 - STAYS_WITHIN / 2), 1, before={ONE}) == {ONE}
    assert fullest(shares(0.2, 0.2 + 2 * STAYS_WITHIN), 1, before={ONE}) == {TWO}
    assert fullest(shares(0.84, 0.85), 1, before={ONE}) == {TWO}
    assert fullest(shares(0.84, 0.85), 1, before={THREE}) == {TWO}
    assert fullest(shares(0.84, 0.2), 1, before={TWO, THREE}) == {ONE}


def test_the_others_are_sums_without_limits() -> None:
    """What is summed up has no limit of its own; the counts of who is near a limit see everybody."""
    tenants = [
        bounded(one, STORAGE, BUDGET)
        for one in (tenant(ONE, media=990), tenant(TWO, media=900, day=3), tenant(THREE, media=10, day=4))
    ]
    sheet = Sheet()
    metrics.show_tenants(sheet, tenants, {ONE})
    metrics.show_near_limits(sheet, {one.figures.id: one.shares for one in tenants})
    scraped = Scraped.parse(sheet.text().decode())
    stored = scraped.by("tenant_id", "tenant_storage_usage_gb", content_type="media")
    assert stored == {str(ONE): 990 / 2**30, "other": 910 / 2**30}
    assert scraped.by("tenant_id", "vision_budget_usage_tokens", period="day") == {str(ONE): 0, "other": 7}
    assert scraped.by("tenant_id", "tenant_storage_limit_gb") == {str(ONE): 1000 / 2**30}
    assert scraped.by("tenant_id", "vision_budget_limit_tokens") == {str(ONE): 100}
    assert scraped.by("level", "tenants_near_limit", resource="storage") == {"warn": 2, "error": 1}


def test_counters_of_the_others_never_fall() -> None:
    """What a tenant adds while it is one of them counts; that it comes or goes does not."""
    rest = Rest()

    def counts(one: int, two: int, three: int) -> list[Count]:
        return [Count(REFUSALS, FULL, tenant_id, n) for tenant_id, n in ((ONE, one), (TWO, two), (THREE, three))]

    assert rest.add(counts(100, 50, 7), {ONE}) == {(REFUSALS, FULL): 0}
    assert rest.add(counts(110, 52, 7), {ONE}) == {(REFUSALS, FULL): 2}
    assert rest.add(counts(120, 60, 8), {TWO}) == {(REFUSALS, FULL): 13}
    assert rest.add(counts(120, 99, 8), {TWO}) == {(REFUSALS, FULL): 13}
    assert rest.add(counts(120, 99, 8)[1:], {TWO}) == {(REFUSALS, FULL): 13}
    assert rest.add([*counts(0, 99, 8)[1:], Count(REFUSALS, (("reason", "new"),), THREE, 4)], {TWO}) == {
        (REFUSALS, FULL): 13,
        (REFUSALS, (("reason", "new"),)): 4,
    }
