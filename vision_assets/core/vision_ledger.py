"""What is to do of a tenant's pictures, and what the registry of results must offer.

What is not here: the order of the work (`analysis.py`), and the registry itself (`clients/postgres/vision.py`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from vision_assets.core.audit import Audit, Audits
from vision_assets.core.errors import InputRejected, MediaMissing
from vision_assets.core.neighbours import Fingerprint
from vision_assets.core.policy import PolicyPost
from vision_assets.core.reuse import Denials, Judged, Neighbour
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import Measured, ProviderIdentity, VisionProvider, VisionResult

SOON_REASONS = (
    "rate_limited",
    "in_flight",
    "ledger_busy",
    "ledger_unavailable",
    "provider_busy",
    "provider_refuses",
)
"""Of deferrals that keep no run from trying again; a run is started when they are due, should there be none before."""

Part: TypeAlias = Literal["all", "new", "due"]
"""Everything; or, without what the quota keeps out of S3, pictures that have no answer to any question so far, whoever
was asked, or those that have one and whose next one was deferred."""


@dataclass(frozen=True, slots=True)
class ToDo:
    """Which pictures are to do: those without a result of the provider at its fingerprint, unless a decision stands.

    Attributes:
        rules: Fingerprint of the policy's rules; what was decided under others is decided anew.
        now: Aware UTC; what was deferred until later is left out,
        with_budget: except for what waits for the budget, if that has room.
        part: Of all that.
    """

    provider: ProviderIdentity
    rules: str
    now: datetime
    with_budget: bool
    part: Part = "all"


@dataclass(frozen=True, slots=True)
class Medium:
    """A stored picture that is to do.

    Attributes:
        order: Of first appearance: (post_seq, position). Donors come earlier, so a repeated run decides alike.
        fingerprint: None when its hash is absent or must not be matched.
        kept: Its result of this provider at this fingerprint, which the quota has kept out of S3 so far.
        measured: As it was when it was stored; None: not then, or by other rules than now.
        posts: That show it; the newest, if there are very many.
        seen: Where it stands in posts, and in which version of them: what is decided holds for that alone.
        attempts: Calls about it that were charged and brought no answer.
        has_stopgap: Something stands for the answer already: its text, or the answer to an earlier question.
        own_text: That was read in this very picture for it; None: nothing was.
    """

    sha256: str
    mime: str
    s3_key: str
    order: tuple[int, int]
    fingerprint: Fingerprint | None
    kept: VisionResult | None = None
    measured: Measured | None = None
    posts: tuple[PolicyPost, ...] = ()
    seen: str = ""
    attempts: int = 0
    has_stopgap: bool = False
    own_text: str | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """Why a picture gets no answer of the provider, or not now.

    Attributes:
        reason: Stable code: of the policy's rule, of the budget's denial, or `provider_failed`.
        message: For people.
        due_at: Aware UTC: it is to do again from then on. None: not before the rules change.
        attempts: Calls about it that were charged and brought no answer.
    """

    medium: Medium
    verdict: Literal["skip", "ocr_only", "defer"]
    reason: str
    message: str
    due_at: datetime | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """What the counters are raised by.

    Attributes:
        media: Pictures by (status of the result, how it came).
        decisions: Of the policy, by (verdict, reason).
        reuse: What was decided about candidates, by (verdict, reason).
        audits: Of reuse, by outcome.
        deferred: Calls that were not made, or in vain, by reason.
        calls: To the provider that brought a result.
        call_milliseconds: They took, together.
        durations: The same calls by what each took, in the buckets `durations.CALLS`.
    """

    media: Counter[tuple[str, str]]
    decisions: Counter[tuple[str, str]]
    reuse: Counter[tuple[str, str]]
    audits: Counter[str]
    deferred: Counter[str]
    calls: int
    call_milliseconds: int
    durations: Counter[str]

    def __sub__(self, earlier: "Tally") -> "Tally":
        return Tally(
            self.media - earlier.media,
            self.decisions - earlier.decisions,
            self.reuse - earlier.reuse,
            self.audits - earlier.audits,
            self.deferred - earlier.deferred,
            self.calls - earlier.calls,
            self.call_milliseconds - earlier.call_milliseconds,
            self.durations - earlier.durations,
        )


class VisionLedger(Protocol):
    """The registry of results."""

    async def count_unanalysed(self, tenant_id: TenantId, todo: ToDo) -> int:
        """Count the pictures that are to do, for the progress."""
        ...

    async def unanalysed(
        self, tenant_id: TenantId, todo: ToDo, *, after: tuple[int, int, str], limit: int
    ) -> Sequence[Medium]:
        """List pictures that are to do, after (order, sha256), with the posts that show them: one query."""
        ...

    async def earlier_neighbours(
        self, tenant_id: TenantId, medium: Medium, *, provider: VisionProvider
    ) -> Sequence[Neighbour]:
        """List this tenant's pictures within the radius that appeared earlier, nearest first.

        Of those that took another's result a few will do: they are never donors.
        """
        ...

    async def take_back_denied(self, tenant_id: TenantId) -> int:
        """Make results to do again that were taken from pictures which an operator has denied since, or by them.

        Returns:
            Of how many pictures.
        """
        ...

    async def denials(self, tenant_id: TenantId) -> Denials:
        """Tell which pictures take no result and give none."""
        ...

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
        """Write a result; what was decided about its picture ends.

        Args:
            s3_key: None when the quota kept it out of S3; `reason` says so.
            decided: Of a reuse: about its donor, and about those that stood nearer; written with it or not at all.
        """
        ...

    async def record_fallback(
        self, tenant_id: TenantId, result: VisionResult, *, provider: VisionProvider, reason: str
    ) -> None:
        """Write a result of the local provider where one of `provider` is wanted; none of that is ever overwritten."""
        ...

    async def record_error(
        self,
        tenant_id: TenantId,
        medium: Medium,
        error: InputRejected,
        *,
        provider: VisionProvider,
        cost_microunits: int = 0,
    ) -> None:
        """Write that a picture can never be analysed, with its dead letter; what was decided about it ends.

        Args:
            cost_microunits: Of an answer that was billed and is none: millionths of the billing currency.
        """
        ...

    async def record_object_lost(self, tenant_id: TenantId, sha256: str, error: MediaMissing, *, stage: str) -> None:
        """Forget a picture whose object is gone from S3, so that its references are to do again."""
        ...

    async def is_analysed(self, tenant_id: TenantId, sha256: str, *, provider: VisionProvider) -> bool:
        """Tell whether there is a result, or an error, of this provider at this fingerprint."""
        ...

    async def record_decisions(self, tenant_id: TenantId, decided: Sequence[Decided], *, todo: ToDo) -> int:
        """Write decisions, one a picture, but for those that a further or edited post, or a result, has overtaken.

        Returns:
            How many were written.
        """
        ...

    async def record_refusals(
        self,
        tenant_id: TenantId,
        refused: Sequence[Judged],
        *,
        quarantined: Mapping[str, str],
        provider: ProviderIdentity,
    ) -> None:
        """Write why pictures took no candidate's result; the newest about a picture stand, but none beside a reuse.

        Args:
            quarantined: Pictures that deny themselves, with the reason for people; what an operator said stands.
        """
        ...

    async def record_audit(self, tenant_id: TenantId, audit: Audit, *, provider: ProviderIdentity) -> None:
        """Write what an audit has found; the newest one of a picture stands."""
        ...

    async def audits(self, tenant_id: TenantId, *, provider: ProviderIdentity, since: datetime) -> Audits:
        """Sum up the audits of a provider's answers.

        Args:
            since: Aware UTC.
        """
        ...

    async def record_progress(self, tenant_id: TenantId, *, todo: ToDo, tally: Tally) -> None:
        """Raise the counters."""
        ...

    async def forget_decisions(self, tenant_id: TenantId, *, todo: ToDo) -> None:
        """Take back what is about another provider than the tenant has now, or due though its picture is done."""
        ...
