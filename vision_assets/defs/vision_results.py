"""`vision_results`: what is on each picture, for as little as possible."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import structlog

from vision_assets.core.analysis import VisionPass
from vision_assets.core.audit import ERROR_FROM, WARN_FROM, Audits, agreement
from vision_assets.core.budget import EVERYONE, TokenEstimate, Window
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import TransientError
from vision_assets.core.quote import Quote
from vision_assets.core.quoting import Quoting
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision_report import VisionReport
from vision_assets.defs.failures import RETRY, raise_if_any
from vision_assets.defs.metadata import contact_sheet, counts_table, megabytes, pair_sheet, table
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.progress import ProgressLog
from vision_assets.defs.steps import run_for_tenant
from vision_assets.resources import (
    VISION_CODE_VERSION,
    Ledgers,
    PostgresResource,
    S3Resource,
    StorageQuotaResource,
    TokenBudgetResource,
    VisionPolicyResource,
    VisionProviderResource,
)

log = structlog.get_logger(__name__)

REUSE_AGREEMENT = "reuse_agreement"
AUDITED_WITHIN = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a pass did, and what stands in the books after it."""

    report: VisionReport
    quote: Quote | None
    provider: str
    budget: Sequence[Window]
    audits: Audits


@dg.asset(
    deps=["phash_index"],
    partitions_def=TENANTS,
    retry_policy=RETRY,
    kinds={"s3", "postgres", "vision"},
    group_name="vision",
    owners=["team:vision"],
    tags={"stage": "analyse"},
    code_version=VISION_CODE_VERSION,
    check_specs=[
        dg.AssetCheckSpec(
            REUSE_AGREEMENT,
            asset="vision_results",
            description="What the provider says of pictures that could have taken another's result agrees with it: a "
            f"warning from {WARN_FROM:.0%} of the last {AUDITED_WITHIN.days} days' audits, an error from "
            f"{ERROR_FROM:.0%}.",
            partitions_def=TENANTS,
        )
    ],
)
def vision_results(
    context: dg.AssetExecutionContext,
    *,
    postgres: PostgresResource,
    s3: S3Resource,
    storage_quota: StorageQuotaResource,
    token_budget: TokenBudgetResource,
    vision_policy: VisionPolicyResource,
    vision_provider: VisionProviderResource,
) -> Iterator[dg.MaterializeResult[None]]:
    """One result a picture, in S3 under `vision/{tenant_id}/…` and in Postgres.

    Taken from the exact cache, else from a near-duplicate of the same tenant, else from the provider, as far as policy
    and budget let it. Only pictures without a result of the present provider and fingerprint are to do.
    """

    async def work(tenant: Tenant, ledgers: Ledgers) -> _Seen:
        store, policy = s3.connect(), vision_policy.policy(tenant)
        async with (
            vision_provider.open(tenant.id, policy) as provider,
            vision_provider.open_reader(policy) as local,
            aclosing(token_budget.gate(ledgers, provider=provider.name)) as gate,
        ):
            one_pass = VisionPass(
                tenant_id=tenant.id,
                provider=provider,
                store=store,
                quota=storage_quota.guard(store, ledgers),
                ledger=ledgers.vision,
                policy=policy,
                gate=gate,
                local=local,
                concurrency=vision_provider.concurrency,
                price=token_budget.price(),
            )
            quote = await _quote_of(one_pass, ledgers)
            to_do = await one_pass.count() if quote is None else quote.work.media
            one_pass.on_progress = ProgressLog(context.log, "vision_results: pictures", to_do)
            report = await one_pass.analyse_media()
            since = datetime.now(UTC) - AUDITED_WITHIN
            audits = await ledgers.vision.audits(tenant.id, provider=provider, since=since)
            identity = f"{provider.name} {provider.model} {provider.fingerprint}"
            return _Seen(report, quote, identity, await _budget_of(tenant, gate), audits)

    tenant, seen = run_for_tenant(context, postgres, work)
    report = seen.report
    raise_if_any(report.failures, hopeless=report.hopeless)
    yield dg.MaterializeResult(
        metadata={
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
        },
        check_results=[_agreement_check(seen.audits)],
    )


def _trend(audits: Audits) -> dict[str, int | float]:
    """Give the figures that Dagster draws over time; none before the first audit."""
    if audits.disagreement is None:
        return {}
    return {"audited_reuses": audits.total, "audits_disagreeing_percent": round(100 * audits.disagreement, 2)}


def _agreement_check(audits: Audits) -> dg.AssetCheckResult:
    finding = agreement(audits)
    return dg.AssetCheckResult(
        check_name=REUSE_AGREEMENT,
        passed=finding.severity is None,
        severity=dg.AssetCheckSeverity.ERROR if finding.severity == "error" else dg.AssetCheckSeverity.WARN,
        description=finding.message,
        metadata={
            "agreeing": audits.agreeing,
            "differing": audits.differing,
            "differences": counts_table(audits.differences, name="in"),
        },
    )


async def _quote_of(one_pass: VisionPass, ledgers: Ledgers) -> Quote | None:
    """Tell what a pass will take before it begins; what is free is done without it."""
    quoting = Quoting(
        tenant_id=one_pass.tenant_id,
        provider=one_pass.provider,
        ledger=ledgers.quote,
        policy=one_pass.policy,
        gate=one_pass.gate,
        has_local=one_pass.local is not None,
        concurrency=one_pass.concurrency,
        price=one_pass.price,
        with_budget=(await one_pass.begin()).with_budget,
    )
    try:
        quote = await quoting.quote()
    except TransientError as error:
        log.warning("quote.unreachable", error_type=type(error).__name__, outcome="the pass goes on without it")
        return None
    log.info("vision.quoted", **quote.document())
    return quote


def _quote_table(quote: Quote | None) -> dg.MetadataValue:
    """Show what stood before the pass."""
    if quote is None:
        return dg.MetadataValue.md("The ledger could not be reached.")
    figures = quote.document()
    skipped = {f"skipped: {reason}": count for reason, count in figures.pop("skipped").items()}
    figures |= skipped
    if quote.cost_microunits is None:
        figures |= dict.fromkeys(("cost_microunits", "cost_at_most_microunits", "currency"), "no price set")
    if quote.days is None:
        figures["days"] = "more than ten years"
    return table(["figure", "before the pass"], [[name.replace("_", " "), value] for name, value in figures.items()])


async def _budget_of(tenant: Tenant, gate: BudgetGate) -> Sequence[Window]:
    """Read the budget for the report; what was analysed stands without it."""
    try:
        return await gate.windows(tenant.id)
    except TransientError as error:
        log.warning("budget.unreachable", error_type=type(error).__name__, outcome="not in the report")
        return ()


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
