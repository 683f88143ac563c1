"""Results of one tenant's pictures by one provider: made of its answers, put to S3 under the quota, found there again.

What is not here: when a picture gets which result (`analysis.py`), and what a result is (`vision.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import structlog

from vision_assets.core.errors import QuotaExceeded, StorageBusy, StorageUnavailable
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.reuse import Judged
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import (
    SCHEMA_VERSION,
    Analysis,
    Provenance,
    ProviderIdentity,
    VisionResult,
    vision_key,
)
from vision_assets.core.vision_ledger import Medium, VisionLedger
from vision_assets.core.vision_report import VisionReport

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Results:
    """Where the results of a pass go.

    Attributes:
        report: Counts each result that is put or found.
    """

    tenant_id: TenantId
    provider: ProviderIdentity
    store: ObjectStore
    quota: QuotaGuardedStore
    ledger: VisionLedger
    report: VisionReport

    def make(
        self,
        medium: Medium,
        analysis: Analysis,
        *,
        provider: ProviderIdentity | None = None,
        method: Literal["new", "near_duplicate", "fallback"] = "new",
        reason: Literal["new", "cache_hit", "fallback"] = "new",
        donor: Judged | None = None,
    ) -> VisionResult:
        """Put an answer under the picture's name.

        Args:
            provider: Who gave it, if it is not the provider that was to.
            donor: Whose answer it is, if it is not the picture's own.
        """
        provider = provider or self.provider
        return VisionResult(
            sha256=medium.sha256,
            tenant_id=str(self.tenant_id),
            media_s3_key=medium.s3_key,
            analysis=analysis,
            provenance=Provenance(
                provider=provider.name,
                model=provider.model,
                fingerprint=provider.fingerprint,
                method=method,
                donor_sha256=donor.candidate.sha256 if donor else None,
                distance_bits=donor.likeness.distance_bits if donor else None,
                distance_256_bits=donor.likeness.distance_256_bits if donor else None,
                cell_difference=donor.likeness.cell_difference if donor else None,
            ),
            analysis_reason=reason,
            analyzed_at=datetime.now(UTC),
        )

    async def restore(self, medium: Medium) -> bool:
        """Write the row of a result that lies in S3 already, as after a crash between the put and the row.

        What was taken from another picture is decided anew, at no cost: no such row stands without its decision, and
        the donor may have been denied since.

        Returns:
            False: There is none of its own to the present question.
        """
        key = self._key(medium)
        body = await self.store.get(key)
        if body is None:
            return False
        try:
            result = VisionResult.from_gzip(body)
        except ValueError as error:
            log.warning(
                "vision.cache_unreadable", s3_key=key, error_type=type(error).__name__, error=str(error), exc_info=True
            )
            return False
        provenance = result.provenance
        if provenance.fingerprint != self.provider.fingerprint or provenance.method == "near_duplicate":
            return False
        await self.ledger.record_result(self.tenant_id, result, s3_key=key, s3_bytes=len(body), reason=None)
        self.report.count(medium, result, method="cache_hit")
        return True

    async def put(self, medium: Medium, result: VisionResult, *, how: str, decided: Sequence[Judged] = ()) -> None:
        """Put a result to S3; what the quota keeps out stands in Postgres alone, and each run tries again.

        Args:
            how: For the report: `new`, `cache_hit` or `near_duplicate`.
            decided: Of a reuse: about its donor, and about those that stood nearer.

        Raises:
            StorageUnavailable: It stands in Postgres alone.
        """
        key: str | None = self._key(medium)
        body = result.to_gzip()
        reason, fault = None, None
        try:
            await self.quota.put(
                self.tenant_id, str(key), body, content_type="vision", mime="application/json", encoding="gzip"
            )
            self.report.puts += 1
            self.report.put_bytes += len(body)
        except (QuotaExceeded, StorageBusy) as error:
            key, reason = None, error.reason
            self.report.reasons[reason] += 1
        except StorageUnavailable as error:
            key, reason, fault = None, "storage_unavailable", error
        await self.ledger.record_result(
            self.tenant_id,
            result,
            s3_key=key,
            s3_bytes=len(body) if key else None,
            reason=reason,
            decided=decided,
        )
        if fault is not None:
            raise fault
        self.report.count(medium, result, method=how)

    def _key(self, medium: Medium) -> str:
        return vision_key(
            self.tenant_id,
            medium.sha256,
            provider=self.provider.name,
            model=self.provider.model,
            schema_version=SCHEMA_VERSION,
        )
