"""Results in Postgres. What is not here: which pictures look alike (`neighbours.py`), and which one is a donor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.ledger import Counts, identity, raise_counter, record_dead_letters
from vision_assets.clients.postgres.media import record_object_lost
from vision_assets.clients.postgres.neighbours import fingerprint_of, near
from vision_assets.clients.postgres.reuse import (
    read_denials,
    record_quarantine,
    record_refusals,
    record_reuse,
    take_back_denied,
)
from vision_assets.core.audit import Audit, Audits
from vision_assets.core.errors import AnswerRefused, InputRejected, MediaMissing
from vision_assets.core.measured import VERSION
from vision_assets.core.phash import ALGORITHM
from vision_assets.core.policy import PolicyMedium, PolicyPost
from vision_assets.core.quoting import Near
from vision_assets.core.reuse import Denials, Judged, Neighbour
from vision_assets.core.storable_text import storable
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import Measured, ProviderIdentity, VisionProvider, VisionResult
from vision_assets.core.vision_ledger import SOON_REASONS, Decided, Medium, Tally, ToDo

sql = statements("vision")

STAGE = "vision_results"

MAX_POSTS = 50
"""That are asked about one picture, the newest: those of a picture that thousands of posts show are of one mind."""

TEXT_CHARACTERS = 2_000
"""Of a post, to tell its language by."""

RAW_REPLY_CHARACTERS = 20_000

_BUDGET_REASONS = ("daily_limit", "monthly_limit", "global_limit", "ocr_only_type_over_budget", "over_budget_ocr")
"""Of decisions that are taken back as soon as there is room in the budget."""


def _conditions(todo: ToDo) -> dict[str, Any]:
    return identity(todo.provider) | {
        "rules": todo.rules,
        "now": todo.now,
        "open_reasons": (*SOON_REASONS, *(_BUDGET_REASONS if todo.with_budget else ())),
    }


def _pairs(counts: Mapping[tuple[str, str], int], first: str, second: str) -> Counts:
    """Name the two labels of a counter, which come in the order of their names."""
    return {tuple(sorted(((first, one), (second, other)))): count for (one, other), count in counts.items()}


def _post(found: Mapping[str, Any]) -> PolicyPost:
    return PolicyPost(found["channel_username"], found["text"], tuple(PolicyMedium(**one) for one in found["media"]))


def _measured(found: Mapping[str, Any] | None) -> Measured | None:
    """Read figures that are still up to date."""
    return Measured.model_validate(found) if found and found["version"] == VERSION else None


@dataclass(frozen=True, slots=True)
class PostgresVision:
    """Implements `core.analysis.VisionLedger`."""

    database: Database

    async def count_unanalysed(self, tenant_id: TenantId, todo: ToDo) -> int:
        """See the Protocol."""
        async with self.database.connection() as connection:
            count: int = await sql.count_unanalysed(connection, tenant_id=tenant_id, **_conditions(todo))
            return count

    async def unanalysed(
        self, tenant_id: TenantId, todo: ToDo, *, after: tuple[int, int, str], limit: int
    ) -> Sequence[Medium]:
        """See the Protocol."""
        after_seq, after_position, after_sha256 = after
        async with self.database.connection() as connection:
            rows = sql.unanalysed(
                connection,
                tenant_id=tenant_id,
                algorithm=ALGORITHM,
                after_seq=after_seq,
                after_position=after_position,
                after_sha256=after_sha256,
                row_limit=limit,
                post_limit=MAX_POSTS,
                text_characters=TEXT_CHARACTERS,
                part=todo.part,
                **_conditions(todo),
            )
            return [
                Medium(
                    sha256=row["sha256"],
                    mime=row["mime"],
                    s3_key=row["s3_key"],
                    order=(row["first_post_seq"], row["first_position"]),
                    fingerprint=None if row["phash"] is None else fingerprint_of(row),
                    kept=None if row["kept"] is None else VisionResult.from_document(row["kept"]),
                    measured=_measured(row["measured"]),
                    posts=tuple(map(_post, row["posts"])),
                    seen=row["seen"],
                    attempts=row["attempts"],
                    has_stopgap=row["has_stopgap"],
                    own_text=row["own_text"],
                )
                async for row in rows
            ]

    async def earlier_neighbours(
        self, tenant_id: TenantId, medium: Medium, *, provider: VisionProvider
    ) -> Sequence[Neighbour]:
        """See the Protocol."""
        found = await near(self.database, tenant_id, [medium], provider=provider)
        return found.get(medium.sha256, Near()).earlier

    async def record_result(
        self,
        tenant_id: TenantId,
        result: VisionResult,
        *,
        s3_key: str | None,
        s3_bytes: int | None,
        reason: str | None,
        decided: Sequence[Judged] = (),
    ) -> None:
        """See the Protocol."""
        provenance = result.provenance
        # One statement commits by itself, without the round trips of a transaction.
        lend = self.database.transaction if decided else self.database.connection
        async with lend() as connection:
            await sql.record_result(
                connection,
                tenant_id=tenant_id,
                sha256=result.sha256,
                provider=provenance.provider,
                model=provenance.model,
                schema_version=provenance.schema_version,
                fingerprint=provenance.fingerprint,
                status=result.analysis.status,
                method=provenance.method,
                reason=reason,
                error=None,
                donor_sha256=provenance.donor_sha256,
                distance_bits=provenance.distance_bits,
                result=result.to_document(),
                provenance=provenance.model_dump(mode="json"),
                s3_key=s3_key,
                s3_bytes=s3_bytes,
                tokens_used=result.analysis.tokens_used,
                cost_microunits=result.analysis.cost_microunits,
                analyzed_at=result.analyzed_at,
            )
            if decided:
                await record_reuse(connection, tenant_id, decided, provider=provenance.provider, model=provenance.model)

    async def take_back_denied(self, tenant_id: TenantId) -> int:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            return await take_back_denied(connection, tenant_id)

    async def denials(self, tenant_id: TenantId) -> Denials:
        """See the Protocol."""
        return await read_denials(self.database, tenant_id)

    async def record_refusals(
        self,
        tenant_id: TenantId,
        refused: Sequence[Judged],
        *,
        quarantined: Mapping[str, str],
        provider: ProviderIdentity,
    ) -> None:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await record_refusals(connection, tenant_id, refused, **identity(provider))
            await record_quarantine(connection, tenant_id, quarantined)

    async def record_fallback(
        self, tenant_id: TenantId, result: VisionResult, *, provider: VisionProvider, reason: str
    ) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.record_fallback(
                connection,
                tenant_id=tenant_id,
                sha256=result.sha256,
                status=result.analysis.status,
                reason=reason,
                result=result.to_document(),
                provenance=result.provenance.model_dump(mode="json"),
                analyzed_at=result.analyzed_at,
                **identity(provider),
            )

    async def record_error(
        self,
        tenant_id: TenantId,
        medium: Medium,
        error: InputRejected,
        *,
        provider: VisionProvider,
        cost_microunits: int = 0,
    ) -> None:
        """See the Protocol."""
        provenance, tokens_used = identity(provider), 0
        if isinstance(error, AnswerRefused):
            tokens_used = error.tokens_used
            if error.raw_reply is not None:
                provenance["raw_reply"] = storable(error.raw_reply[:RAW_REPLY_CHARACTERS])
        async with self.database.transaction() as connection:
            await sql.record_result(
                connection,
                tenant_id=tenant_id,
                sha256=medium.sha256,
                status="error",
                method="new",
                reason=error.reason,
                error=storable(str(error)),
                donor_sha256=None,
                distance_bits=None,
                result=None,
                provenance=provenance,
                s3_key=None,
                s3_bytes=None,
                tokens_used=tokens_used,
                cost_microunits=cost_microunits,
                analyzed_at=datetime.now(UTC),
                **identity(provider),
            )
            await record_dead_letters(
                connection, tenant_id, [(STAGE, medium.sha256, type(error).__name__, error.reason, str(error))]
            )

    async def record_object_lost(self, tenant_id: TenantId, sha256: str, error: MediaMissing, *, stage: str) -> None:
        """See the Protocol."""
        await record_object_lost(self.database, tenant_id, sha256, error, stage=stage)

    async def is_analysed(self, tenant_id: TenantId, sha256: str, *, provider: VisionProvider) -> bool:
        """See the Protocol."""
        async with self.database.connection() as connection:
            known: bool = await sql.is_analysed(connection, tenant_id=tenant_id, sha256=sha256, **identity(provider))
            return known

    async def record_decisions(self, tenant_id: TenantId, decided: Sequence[Decided], *, todo: ToDo) -> int:
        """See the Protocol."""
        async with self.database.connection() as connection:
            written: int = await sql.record_decisions(
                connection,
                tenant_id=tenant_id,
                rules=todo.rules,
                sha256s=[one.medium.sha256 for one in decided],
                verdicts=[one.verdict for one in decided],
                reasons=[one.reason for one in decided],
                messages=[storable(one.message) for one in decided],
                due_at=[one.due_at for one in decided],
                attempts=[one.attempts for one in decided],
                seen=[one.medium.seen for one in decided],
                **identity(todo.provider),
            )
            return written

    async def record_audit(self, tenant_id: TenantId, audit: Audit, *, provider: ProviderIdentity) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.record_audit(
                connection,
                tenant_id=tenant_id,
                sha256=audit.sha256,
                donor_sha256=audit.donor_sha256,
                provider=provider.name,
                model=provider.model,
                differences=list(audit.differences),
            )

    async def audits(self, tenant_id: TenantId, *, provider: ProviderIdentity, since: datetime) -> Audits:
        """See the Protocol."""
        async with self.database.connection() as connection:
            row = await sql.audits(
                connection, tenant_id=tenant_id, provider=provider.name, model=provider.model, since=since
            )
            return Audits(row["agreeing"], row["differing"], row["differences"])

    async def record_progress(self, tenant_id: TenantId, *, todo: ToDo, tally: Tally) -> None:
        """See the Protocol."""
        name, model = todo.provider.name, todo.provider.model
        of_model = (("model", model), ("provider", name))
        counters: dict[str, Counts] = {
            "vision_media_total": _pairs(tally.media, "result", "reason"),
            "vision_policy_decisions_total": _pairs(tally.decisions, "decision", "reason"),
            "vision_reuse_decisions_total": _pairs(tally.reuse, "verdict", "reason"),
            "vision_reuse_audits_total": {(("outcome", outcome),): n for outcome, n in tally.audits.items()},
            "vision_budget_gate_blocks_total": {(("reason", reason),): n for reason, n in tally.deferred.items()},
        }
        if tally.calls:
            counters["vision_analyses_total"] = {of_model: tally.calls}
            counters["vision_analysis_duration_milliseconds_total"] = {of_model: tally.call_milliseconds}
            counters["vision_analysis_duration_seconds"] = {(("le", le),): n for le, n in tally.durations.items()}
        async with self.database.transaction() as connection:
            for counter, counts in counters.items():
                await raise_counter(connection, tenant_id, counter, counts)

    async def forget_decisions(self, tenant_id: TenantId, *, todo: ToDo) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.forget_decisions(connection, tenant_id=tenant_id, now=todo.now, **identity(todo.provider))
