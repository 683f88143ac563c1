"""`vision_results`: what is on each picture, for as little as possible."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import structlog

from vision_assets.core.analysis import VisionPass
from vision_assets.core.audit import ERROR_FROM, WARN_FROM, agreement
from vision_assets.core.budget import Window
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import TransientError
from vision_assets.core.quote import Quote
from vision_assets.core.quoting import Quoting
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision_report import VisionReport
from vision_assets.defs.failures import RETRY
from vision_assets.defs.metadata import counts_table, folder
from vision_assets.defs.outcomes import Checked, Event, Made, Metadata, Outcome
from vision_assets.defs.partitions import RANGES, TENANTS
from vision_assets.defs.progress import InfoLog, ProgressLog
from vision_assets.defs.runbooks import runbooks
from vision_assets.defs.steps import Task, Work, run_stage
from vision_assets.defs.vision_shown import Seen, vision_metadata
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

VISION_RESULTS = dg.AssetKey("vision_results")
REUSE_AGREEMENT = "reuse_agreement"
AUDITED_WITHIN = timedelta(days=30)


@dg.asset(
    deps=["phash_index"],
    output_required=False,
    partitions_def=TENANTS,
    backfill_policy=RANGES["vision_results"],
    pool="vision",
    retry_policy=RETRY,
    kinds={"s3", "postgres", "vision"},
    group_name="vision",
    owners=["team:vision"],
    tags={"stage": "analyse"},
    code_version=VISION_CODE_VERSION,
    metadata=runbooks("provider-down", "cost-spike", "prompt-change", "tenant-stuck"),
    check_specs=[
        dg.AssetCheckSpec(
            REUSE_AGREEMENT,
            asset=VISION_RESULTS,
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
) -> Iterator[Event]:
    """One result a picture, in S3 under `vision/{tenant_id}/…` and in Postgres.

    Taken from the exact cache, else from a near-duplicate of the same tenant, else from the provider, as far as policy
    and budget let it. Only pictures without a result of the present provider and fingerprint are to do.
    """
    stage = VisionStage(
        store=s3.connect(),
        bucket=s3.bucket,
        storage_quota=storage_quota,
        token_budget=token_budget,
        vision_policy=vision_policy,
        vision_provider=vision_provider,
        log=context.log,
    )
    yield from run_stage(context, postgres, stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionStage:
    """Gives a tenant's pictures their results.

    Attributes:
        share: Pictures of a tenant at most; then nothing is told beforehand of all its pictures together. None:
            everything.
    """

    store: ObjectStore
    bucket: str
    storage_quota: StorageQuotaResource
    token_budget: TokenBudgetResource
    vision_policy: VisionPolicyResource
    vision_provider: VisionProviderResource
    log: InfoLog
    share: int | None = None

    @asynccontextmanager
    async def open(self, ledgers: Ledgers) -> AsyncIterator[Work]:
        """See `steps.Stage`."""
        quota = self.storage_quota.guard(self.store, ledgers)
        async with self.vision_provider.open() as providers:

            async def work(task: Task) -> Outcome[VisionReport]:
                tenant = task.tenant
                policy = self.vision_policy.policy(tenant)
                provider, local = await providers.of(tenant.id, policy), await providers.reader(policy)
                async with aclosing(self.token_budget.gate(ledgers, provider=provider.name)) as gate:
                    one_pass = VisionPass(
                        tenant_id=tenant.id,
                        provider=provider,
                        store=self.store,
                        quota=quota,
                        ledger=ledgers.vision,
                        policy=policy,
                        gate=gate,
                        local=local,
                        concurrency=self.vision_provider.concurrency,
                        price=self.token_budget.prices().get(provider.name),
                        limit=self.share,
                    )
                    quote, report = await self._look(one_pass, ledgers)

                async def show(report: VisionReport) -> Sequence[Made]:
                    since = datetime.now(UTC) - AUDITED_WITHIN
                    audits = await ledgers.vision.audits(tenant.id, provider=provider, since=since)
                    identity = f"{provider.name} {provider.model} {provider.fingerprint}"
                    async with aclosing(self.token_budget.gate(ledgers, provider=provider.name)) as gate:
                        seen = Seen(report, quote, identity, await _budget_of(tenant, gate), audits)
                    return [_made(tenant, seen, folder(self.bucket, "vision", tenant.id))]

                return Outcome(
                    tenant,
                    report,
                    show,
                    done=report.statuses.total(),
                    since=report.since,
                    failures=report.failures,
                    hopeless=report.hopeless,
                    has_more=report.has_more,
                )

            yield work

    async def _look(self, one_pass: VisionPass, ledgers: Ledgers) -> tuple[Quote | None, VisionReport]:
        quote, to_do = None, None
        if self.share is None:
            quote = await _quote_of(one_pass, ledgers)
            to_do = await one_pass.count() if quote is None else quote.work.media
        one_pass.on_progress = ProgressLog(self.log, "vision_results: pictures", to_do)
        return quote, await one_pass.analyse_media()


def _made(tenant: Tenant, seen: Seen, where: Metadata) -> Made:
    audits = seen.audits
    figures = {
        "agreeing": dg.MetadataValue.int(audits.agreeing),
        "differing": dg.MetadataValue.int(audits.differing),
        "differences": counts_table(audits.differences, name="in"),
    }
    check = Checked(REUSE_AGREEMENT, agreement(audits), figures)
    return Made(VISION_RESULTS, {**vision_metadata(tenant, seen), **where}, [check])


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
    if quote.work.media:  # each line is a row in the event log, and most tenants of a range have nothing to do
        log.info("vision.quoted", **quote.document())
    return quote


async def _budget_of(tenant: Tenant, gate: BudgetGate) -> Sequence[Window]:
    """Read the budget for the report; what was analysed stands without it."""
    try:
        return await gate.windows(tenant.id)
    except TransientError as error:
        log.warning("budget.unreachable", error_type=type(error).__name__, outcome="not in the report")
        return ()
