"""The arithmetic of a quote: what fits into the budget, on how many days, at which pace, and what it costs."""

from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from vision_assets.core.budget import (
    EVERYONE,
    LEARNED_FROM_CALLS,
    Allowance,
    BudgetLimits,
    TokenEstimate,
    Window,
    estimate,
    window_keys,
)
from vision_assets.core.price import TokenPrice
from vision_assets.core.quote import ASSUMED_SECONDS, CallTokens, Pace, Quote, Work, days_of_budget, quote, total
from vision_assets.core.tenants import TenantId

TENANT = TenantId(UUID(int=1))
CALL = CallTokens(expected=700, held=1000, settled_calls=3)
LAST_BUT_ONE = date(2026, 2, 27)  # of its month


def windows(limits: BudgetLimits, *, used_today: int = 0, used_this_month: int = 0) -> list[Window]:
    """The windows of a tenant and of all together; only the tenant has used anything."""
    used = {"day": used_today, "month": used_this_month}
    return [
        Window(
            key,
            used_tokens=used.get(key.period, 0) if key.scope == TENANT else 0,
            limit=limits.of(key.scope, key.period),
        )
        for key in window_keys(TENANT, LAST_BUT_ONE, provider="paid")
    ]


def of(work: Work, limits: BudgetLimits | None = None, *, pace: Pace | None = None, **used: int) -> Quote:
    """A quote with a price, for a pass that makes 5 calls at once."""
    return quote(
        work,
        call=CALL,
        windows=windows(limits or BudgetLimits(), **used),
        pace=pace or Pace(),
        concurrency=5,
        price=TokenPrice(Decimal("1500.50"), "RUB"),
    )


def test_tokens_and_cost() -> None:
    """What is expected goes by the mean, and the bound by what is held; the price is for a million tokens."""
    found = of(Work(media=9, near_duplicates=2, analyses=3, analyses_at_most=5))
    assert (found.calls, found.calls_at_most) == (3, 5)
    assert (found.tokens, found.tokens_at_most) == (2100, 5000)
    assert (found.cost_microunits, found.cost_at_most_microunits) == (3_151_050, 7_502_500)
    assert found.currency == "RUB"


def test_a_free_provider_costs_nothing() -> None:
    """Pictures are looked at, and that takes its time; there is no call, no token and no day."""
    found = quote(Work(media=4, analyses=4, analyses_at_most=4), call=CallTokens(), pace=Pace(10, 20.0), concurrency=2)
    assert (found.calls, found.calls_at_most, found.tokens, found.tokens_at_most, found.days) == (0, 0, 0, 0, 0)
    assert (found.seconds, found.measured_calls) == (4.0, 10)
    assert (found.cost_microunits, found.currency) == (0, None)


@pytest.mark.parametrize(
    ("limits", "used_today", "calls_today", "days"),
    [
        (BudgetLimits(), 0, 10, 1),
        # A call must find room for 1000 and leaves 300 of it: 2400 are three calls.
        (BudgetLimits(tenant={"day": Allowance(2400)}), 0, 3, 4),
        (BudgetLimits(tenant={"day": Allowance(2399)}), 0, 2, 5),
        (BudgetLimits(tenant={"day": Allowance(2400)}), 1401, 0, 5),
        (BudgetLimits(tenant={"day": Allowance(2400)}), 1400, 1, 4),
        (BudgetLimits(tenant={"day": Allowance(requests=4)}), 0, 4, 3),
        (BudgetLimits(tenant={"day": Allowance(10**9)}, everyone={"day": Allowance(requests=5)}), 0, 5, 2),
        (BudgetLimits(tenant={"day": Allowance(999)}), 0, 0, None),
    ],
)
def test_days_by_the_day_limit(limits: BudgetLimits, used_today: int, calls_today: int, days: int | None) -> None:
    """What is left today counts today, and the whole limit on each day that follows; the tightest window decides."""
    found = of(Work(media=10, analyses=10, analyses_at_most=10), limits, used_today=used_today)
    assert (found.calls_today, found.days) == (calls_today, days)


@pytest.mark.parametrize(("calls", "days"), [(2, 1), (3, 3), (4, 3), (7, 5), (8, 34)])
def test_days_by_the_month_limit(calls: int, days: int) -> None:
    """On 27 February two calls are left of the month and two a day; from 1 March on it is five a month."""
    limits = BudgetLimits(tenant={"day": Allowance(requests=2), "month": Allowance(5 * 1000)})
    found = days_of_budget(calls, windows(limits, used_this_month=5000 - 1700), CallTokens(1000 - 150, 850))
    assert found == days


def test_time_at_the_allowed_concurrency() -> None:
    """The mean of measured calls, as many at once as the limits allow; without any measured, an assumption."""
    work = Work(media=12, analyses=12, analyses_at_most=12)
    assert of(work).seconds == pytest.approx(12 * ASSUMED_SECONDS / 5)
    assert of(work, pace=Pace(4, 6.0)).seconds == pytest.approx(12 * 1.5 / 5)
    three = BudgetLimits(tenant={"calls": Allowance(requests=3)})
    assert of(work, three, pace=Pace(4, 6.0)).seconds == pytest.approx(12 * 1.5 / 3)
    one = BudgetLimits(everyone={"calls": Allowance(requests=1)})
    assert of(work, one, pace=Pace(4, 6.0)).seconds == pytest.approx(12 * 1.5)


def test_several_tenants() -> None:
    """Figures add up; days are those of the slowest tenant, or of the budget of all together if that takes longer."""
    limits = BudgetLimits(tenant={"day": Allowance(requests=2)}, everyone={"day": Allowance(requests=3)})
    quotes = [
        of(Work(media=5, skipped={"over_post_cap": 1}, analyses=4, analyses_at_most=4), limits),
        of(Work(media=9, in_storage=1, kept=1, skipped={"over_post_cap": 2, "not_shown": 1}, analyses=4), limits),
    ]
    everyone = [window for window in windows(limits) if window.key.scope == EVERYONE]
    found = total(quotes, everyone)
    assert found.work == Work(
        media=14,
        in_storage=1,
        kept=1,
        skipped={"over_post_cap": 3, "not_shown": 1},
        analyses=8,
        analyses_at_most=4,
    )
    assert (found.calls, found.tokens, found.cost_microunits) == (8, 5600, 2 * quotes[0].tokens * 1500.5)
    assert [one.days for one in quotes] == [2, 2]
    assert (found.calls_today, found.days) == (3, 3)
    assert total(quotes, []).days == 2
    free = quote(Work(media=4, analyses=4), call=CallTokens(), pace=Pace(), concurrency=2)
    assert (total([free, *quotes], []).cost_microunits, total([free, *quotes], []).currency) == (
        found.cost_microunits,
        "RUB",
    )
    unpriced = quote(Work(media=1, analyses=1), call=CALL, pace=Pace(), concurrency=2)
    assert total([*quotes, unpriced], []).cost_microunits is None
    assert found.seconds == pytest.approx(8 * ASSUMED_SECONDS / 5)


def test_an_expectation_is_learned_from_the_first_call_on() -> None:
    """The mean of settled calls is expected; without any it is the bound."""
    few = estimate({640: 1, 704: 2}, floor_tokens=1792)
    assert CallTokens.of(few) == CallTokens(expected=683, held=1792, settled_calls=3)
    many = estimate({3200: LEARNED_FROM_CALLS}, floor_tokens=1792)
    assert CallTokens.of(many) == CallTokens(expected=3200, held=3200, settled_calls=LEARNED_FROM_CALLS)
    none = TokenEstimate(1792, 0, learned=False)
    assert CallTokens.of(none) == CallTokens(expected=1792, held=1792, settled_calls=0)
