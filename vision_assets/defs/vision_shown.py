"""What a pass over a tenant's pictures shows in Dagster's UI. What is not here: the pass (`vision_results.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from vision_assets.core.audit import Audits
from vision_assets.core.budget import EVERYONE, TokenEstimate, Window
from vision_assets.core.quote import Quote
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision_report import VisionReport
from vision_assets.defs.metadata import contact_sheet, counts_table, megabytes, pair_sheet, table
from vision_assets.defs.outcomes import Metadata


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pass did, and what stands in the books after it."""

    report: VisionReport
    quote: Quote | None
    provider: str
    budget: Sequence[Window]
    audits: Audits


def vision_metadata(tenant: Tenant, seen: Seen) -> Metadata:
    """Show a pass."""
    report = seen.report
    return {
        "tenant": tenant.name,
        "provider": seen.provider,
        "quote": _quote_table(seen.quote),
        "analyses": report.analyses,
        "reused_from_near_duplicates": report.methods["near_duplicate"],
        "reuses": pair_sheet([*report.reused_pairs, *report.refused_pairs]),
        "reuse_decisions": table(
            ["verdict", "reason", "candidates"],
            [[verdict, reason, count] for (verdict, reason), count in sorted(report.reuse.items())],
        ),
        "hashes_quarantined": report.quarantined,
        "reuses_taken_back": report.taken_back,
        "taken_from_cache": report.methods["cache_hit"],
        "kinds": counts_table(report.kinds, name="kind"),
        "statuses": counts_table(report.statuses, name="status"),
        "not_analysed_because": counts_table(report.reasons, name="reason"),
        "policy": table(
            ["decision", "reason", "pictures"],
            [[verdict, reason, count] for (verdict, reason), count in sorted(report.decisions.items())],
        ),
        "texts_read_meanwhile": report.methods["fallback"],
        "tokens": report.tokens,
        "deferred": report.deferred.total(),
        "deferred_because": counts_table(report.deferred, name="reason"),
        "token_estimate": _estimate_text(report.estimate),
        "token_budget": _budget_table(seen.budget),
        "puts": report.puts,
        "put_megabytes": megabytes(report.put_bytes),
        "pictures": contact_sheet(report.looked),
        **_trend(seen.audits),
    }


def _trend(audits: Audits) -> dict[str, int | float]:
    """Give the figures that Dagster draws over time; none before the first audit."""
    if audits.disagreement is None:
        return {}
    return {"audited_reuses": audits.total, "audits_disagreeing_percent": round(100 * audits.disagreement, 2)}


def _quote_table(quote: Quote | None) -> dg.MetadataValue:
    """Show what stood before the pass."""
    if quote is None:
        return dg.MetadataValue.md(
            "None was made: a run of `new_posts` makes none, and any other could not reach the ledger."
        )
    figures = quote.document()
    skipped = {f"skipped: {reason}": count for reason, count in figures.pop("skipped").items()}
    figures |= skipped
    if quote.currency is None:
        costs = "cost_microunits", "cost_at_most_microunits", "currency"
        figures |= {name: "no price set" for name in costs if not figures[name]}
    if quote.days is None:
        figures["days"] = "more than ten years"
    return table(["figure", "before the pass"], [[name.replace("_", " "), value] for name, value in figures.items()])


def _estimate_text(estimate: TokenEstimate | None) -> str:
    if estimate is None:
        return "none: calls cost nothing, or the ledger could not be reached"
    source = "learned from" if estimate.learned else "a fixed bound: too little is learned from"
    return f"{estimate.tokens} tokens a call, {source} {estimate.calls} calls"


def _budget_table(windows: Sequence[Window]) -> dg.MetadataValue:
    """Show what is spent, held and left of the tokens of the present UTC day and month."""
    return table(
        ["window", "used", "of it expired holds", "held", "limit"],
        [
            [
                f"{'all tenants' if window.key.scope == EVERYONE else 'tenant'}, {window.key.period} of "
                f"{window.key.starts_on}",
                window.used_tokens,
                window.phantom_tokens,
                window.held_tokens,
                "none" if window.limit.tokens is None else f"{window.limit.tokens:,}",
            ]
            for window in windows
        ],
    )
