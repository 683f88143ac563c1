"""What a backfill will take, before a token is spent: pure arithmetic over what is to do, the budget, and past calls.

What is not here: what becomes of each picture (`quoting.py`), and the limits themselves (`budget.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from vision_assets.core.budget import TokenEstimate, Window
from vision_assets.core.price import TokenPrice

ASSUMED_SECONDS = 5.0
"""Of a call, as long as none has been measured."""

LONGEST_DAYS = 3_660


@dataclass(frozen=True, slots=True)
class Work:
    """What is to do of pictures, and what will become of each: the parts add up to `media`.

    Attributes:
        in_storage: Their results lie in S3 already, by the object ledger.
        kept: Their results are in Postgres, because the quota kept them out of S3.
        near_duplicates: Expected to take an earlier picture's result. That may be one that is itself to do: whether its
            answer may be reused is not known before.
        skipped: By the policy's reason.
        text_only: Read by the local provider, at no cost.
        analyses: Looked at by the provider.
        analyses_at_most: The same, should no answer that is still to come be reused.
    """

    media: int = 0
    in_storage: int = 0
    kept: int = 0
    near_duplicates: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    text_only: int = 0
    analyses: int = 0
    analyses_at_most: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long calls to a provider took.

    Attributes:
        calls: That were measured.
        seconds: Of all of them.
    """

    calls: int = 0
    seconds: float = 0.0

    @property
    def mean_seconds(self) -> float:
        """Of one call; ASSUMED_SECONDS as long as none has been measured."""
        return self.seconds / self.calls if self.calls else ASSUMED_SECONDS


@dataclass(frozen=True, slots=True)
class CallTokens:
    """What one call takes.

    Attributes:
        expected: Mean of the settled calls; without any the same as `held`. 0: calls cost nothing.
        held: Upper bound at which a call is held.
        settled_calls: That are known.
    """

    expected: int = 0
    held: int = 0
    settled_calls: int = 0

    @classmethod
    def of(cls, estimate: TokenEstimate) -> "CallTokens":
        """Take them from what the budget has learned."""
        return cls(estimate.mean_tokens or estimate.tokens, estimate.tokens, estimate.calls)


@dataclass(frozen=True, slots=True)
class Quote:
    """What a backfill will take, of one tenant or of several.

    Attributes:
        calls: Analyses that cost.
        calls_at_most: Should no answer that is still to come be reused.
        tokens: Expected.
        tokens_at_most: At which `calls_at_most` are held.
        cost_microunits: Of `tokens`, in millionths of the billing currency; None: no price is set, and there are some.
        calls_today: That the budget lets through of them today, one after the other.
        days: UTC days until the budget has let all of them through, today included; None: more than ten years.
        seconds: At the allowed concurrency, as if the budget were never exhausted.
        measured_calls: From which that is told; 0: ASSUMED_SECONDS is assumed of a call.
        settled_calls: From which `tokens` is told; 0: from the upper bound.
    """

    work: Work
    calls: int
    calls_at_most: int
    tokens: int
    tokens_at_most: int
    cost_microunits: int | None
    cost_at_most_microunits: int | None
    currency: str | None
    calls_today: int
    days: int | None
    seconds: float
    measured_calls: int
    settled_calls: int

    def document(self) -> dict[str, Any]:
        """Lay the figures out flat, by name, for machines."""
        work = self.work
        return {
            "media": work.media,
            "in_storage": work.in_storage,
            "kept_in_postgres": work.kept,
            "near_duplicates": work.near_duplicates,
            "skipped": dict(sorted(work.skipped.items())),
            "text_only": work.text_only,
            "analyses": work.analyses,
            "calls": self.calls,
            "calls_at_most": self.calls_at_most,
            "tokens": self.tokens,
            "tokens_at_most": self.tokens_at_most,
            "cost_microunits": self.cost_microunits,
            "cost_at_most_microunits": self.cost_at_most_microunits,
            "currency": self.currency,
            "calls_today": self.calls_today,
            "days": self.days,
            "seconds": round(self.seconds, 1),
            "measured_calls": self.measured_calls,
            "settled_calls": self.settled_calls,
        }


def quote(
    work: Work,
    *,
    call: CallTokens,
    windows: Sequence[Window] = (),
    pace: Pace,
    concurrency: int,
    price: TokenPrice | None = None,
) -> Quote:
    """Work out what it takes.

    Args:
        windows: The tenant's and those of all together, of now, with the calls at once; none if calls cost nothing.
        concurrency: Of the pass.
        price: None: not known.
    """
    costs = call.held > 0
    calls, calls_at_most = (work.analyses, work.analyses_at_most) if costs else (0, 0)
    tokens, tokens_at_most = calls * call.expected, calls_at_most * call.held
    fitting = fitting_calls(windows, call)
    return Quote(
        work=work,
        calls=calls,
        calls_at_most=calls_at_most,
        tokens=tokens,
        tokens_at_most=tokens_at_most,
        cost_microunits=_cost(tokens, price),
        cost_at_most_microunits=_cost(tokens_at_most, price),
        currency=price.currency if price else None,
        calls_today=calls if fitting is None else min(calls, fitting),
        days=days_of_budget(calls, windows, call),
        seconds=work.analyses * pace.mean_seconds / calls_at_once(windows, concurrency),
        measured_calls=pace.calls,
        settled_calls=call.settled_calls,
    )


def total(quotes: Sequence[Quote], everyone: Sequence[Window]) -> Quote:
    """Add the quotes of several tenants, one after the other; their budgets run side by side, below that of all.

    Args:
        quotes: At least one.
        everyone: Windows of all tenants together, of now.
    """
    calls, tokens = sum(one.calls for one in quotes), sum(one.tokens for one in quotes)
    held = max((one.tokens_at_most // one.calls_at_most for one in quotes if one.calls_at_most), default=0)
    call = CallTokens(-(-tokens // calls) if calls else 0, held)
    fitting = fitting_calls(everyone, call)
    calls_today = sum(one.calls_today for one in quotes)
    days = [one.days for one in quotes] + [days_of_budget(calls, everyone, call)]
    return Quote(
        work=_added([one.work for one in quotes]),
        calls=calls,
        calls_at_most=sum(one.calls_at_most for one in quotes),
        tokens=tokens,
        tokens_at_most=sum(one.tokens_at_most for one in quotes),
        cost_microunits=_sum_if_known([one.cost_microunits for one in quotes]),
        cost_at_most_microunits=_sum_if_known([one.cost_at_most_microunits for one in quotes]),
        currency=next((one.currency for one in quotes if one.currency), None),
        calls_today=calls_today if fitting is None else min(calls_today, fitting),
        days=None if None in days else max(day for day in days if day is not None),
        seconds=sum(one.seconds for one in quotes),
        measured_calls=sum(one.measured_calls for one in quotes),
        settled_calls=max(one.settled_calls for one in quotes),
    )


def fitting_calls(windows: Sequence[Window], call: CallTokens) -> int | None:
    """Count the calls, one after the other, that the windows have room for; None: any number.

    A call needs room for what it is held at, and leaves what it has not taken.
    """
    return min((fitting for window in windows for fitting in _fitting(window, call)), default=None)


def _fitting(window: Window, call: CallTokens) -> Iterator[int]:
    if window.key.period == "calls":
        return
    if window.remaining_tokens is not None and call.expected:
        left = window.remaining_tokens - call.held
        yield 0 if left < 0 else left // call.expected + 1
    if window.limit.requests is not None:
        yield max(window.limit.requests - window.used_requests - window.held_requests, 0)


def days_of_budget(calls: int, windows: Sequence[Window], call: CallTokens) -> int | None:
    """Count the UTC days, today included, on which the windows let so many calls through; None: more than ten years."""
    windows = [window for window in windows if window.key.period != "calls"]
    today = max((window.key.starts_on for window in windows), default=None)
    if not calls:
        return 0
    for days in range(LONGEST_DAYS):
        fitting = fitting_calls(windows, call)
        if fitting is None or today is None or calls <= fitting:
            return days + 1
        calls -= fitting
        tomorrow = today + timedelta(days=days + 1)
        windows = [_carried(window, call, calls=fitting, to=tomorrow) for window in windows]
    return None


def _carried(window: Window, call: CallTokens, *, calls: int, to: date) -> Window:
    """Carry a window over to the next day, after so many calls on the day before."""
    if window.key.period == "day" or to.day == 1:
        return Window(window.key._replace(starts_on=to), limit=window.limit)
    return replace(
        window,
        used_tokens=window.used_tokens + calls * call.expected,
        used_requests=window.used_requests + calls,
    )


def calls_at_once(windows: Sequence[Window], concurrency: int) -> int:
    """Tell how many calls a pass makes at once, within the limits."""
    limits = [window.limit.requests for window in windows if window.key.period == "calls"]
    return max(min([concurrency, *(limit for limit in limits if limit is not None)]), 1)


def _added(works: Sequence[Work]) -> Work:
    skipped: dict[str, int] = {}
    for work in works:
        for reason, count in work.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    return Work(
        media=sum(work.media for work in works),
        in_storage=sum(work.in_storage for work in works),
        kept=sum(work.kept for work in works),
        near_duplicates=sum(work.near_duplicates for work in works),
        skipped=skipped,
        text_only=sum(work.text_only for work in works),
        analyses=sum(work.analyses for work in works),
        analyses_at_most=sum(work.analyses_at_most for work in works),
    )


def _cost(tokens: int, price: TokenPrice | None) -> int | None:
    if price is None:
        return None if tokens else 0
    return price.microunits(tokens)


def _sum_if_known(figures: Sequence[int | None]) -> int | None:
    return None if None in figures else sum(figure for figure in figures if figure is not None)
