"""What a pass over a tenant's pictures tells in the end."""

from collections import Counter
from dataclasses import dataclass, field

from vision_assets.core.budget import TokenEstimate
from vision_assets.core.errors import InputRejected
from vision_assets.core.neighbours import Fingerprint
from vision_assets.core.reports import added
from vision_assets.core.reuse import Judged, Reuse
from vision_assets.core.turns import NO_POST
from vision_assets.core.vision import Kind, VisionResult
from vision_assets.core.vision_ledger import Medium, Tally

THUMBNAILS_KEPT = 24

PAIRS_KEPT = 12
"""Of pictures that took a result, and of those that did not take the nearest one's."""


@dataclass(frozen=True, slots=True)
class Looked:
    """One picture for the report: its thumbnail and what was said of it."""

    sha256: str
    thumbnail: bytes | None
    width: int
    height: int
    kind: Kind
    labels: tuple[str, ...]
    method: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures that were compared, for the report."""

    own: Fingerprint
    judged: Judged


@dataclass(slots=True)
class VisionReport:
    """What a pass did.

    Attributes:
        methods: Results by how they came: `new`, `cache_hit`, `near_duplicate`, `fallback`.
        statuses: Results by status: `ok`, `partial`, `error`.
        media: Results by (status, how they came); errors by reason.
        kinds: Results by kind of picture.
        reasons: Pictures that have no result, or none in S3, by reason.
        decisions: Of the policy, by (verdict, reason).
        reuse: What was decided about candidates for a reuse, by (verdict, reason).
        quarantined: Pictures whose hash so many different ones share that it is never matched from now on.
        taken_back: Results that an operator's denial made to do again.
        audits: Of reuse, by outcome.
        deferred: Pictures that wait, by reason: for the budget, for a call of somebody else, for the provider.
        estimate: What a call was held at; None: calls cost nothing, or the ledger could not be reached.
        durations: Calls that brought a result by what each took, in the buckets `durations.CALLS`.
        failures: Faults that are no picture's own; the pictures stay to do.
        hopeless: One of them will not pass by itself.
        since: Seq of the first post that shows a picture of the pass.
        has_more: The pass ended at its limit, and not all of its pictures wait; or a decision was overtaken.
    """

    methods: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    media: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    reuse: Counter[tuple[str, str]] = field(default_factory=Counter)
    quarantined: int = 0
    taken_back: int = 0
    audits: Counter[str] = field(default_factory=Counter)
    deferred: Counter[str] = field(default_factory=Counter)
    estimate: TokenEstimate | None = None
    analyses: int = 0
    call_milliseconds: int = 0
    durations: Counter[str] = field(default_factory=Counter)
    puts: int = 0
    put_bytes: int = 0
    tokens: int = 0
    failures: list[str] = field(default_factory=list)
    hopeless: bool = False
    since: int = NO_POST
    has_more: bool = False
    looked: list[Looked] = field(default_factory=list)
    reused_pairs: list[Pair] = field(default_factory=list)
    refused_pairs: list[Pair] = field(default_factory=list)

    def __add__(self, later: "VisionReport") -> "VisionReport":
        """Tell of two passes as of one; of both, as many pictures are kept as of one."""
        return added(
            self,
            later,
            estimate=later.estimate or self.estimate,
            hopeless=self.hopeless or later.hopeless,
            since=min(self.since, later.since),
            has_more=later.has_more,
            looked=[*self.looked, *later.looked][:THUMBNAILS_KEPT],
            reused_pairs=[*self.reused_pairs, *later.reused_pairs][:PAIRS_KEPT],
            refused_pairs=[*self.refused_pairs, *later.refused_pairs][:PAIRS_KEPT],
        )

    def tally(self) -> Tally:
        """Tell what the counters are to be raised by for all that was done so far."""
        return Tally(
            Counter(self.media),
            Counter(self.decisions),
            Counter(self.reuse),
            Counter(self.audits),
            Counter(self.deferred),
            self.analyses,
            self.call_milliseconds,
            Counter(self.durations),
        )

    def count_reuse(self, own: Fingerprint, reuse: Reuse) -> None:
        """Count what was decided about a picture's candidates, and keep a pair as long as there is room."""
        self.reuse.update((one.verdict, one.reason) for one in (reuse.donor, *reuse.refused) if one is not None)
        self.quarantined += reuse.quarantined
        if reuse.donor is not None:
            if len(self.reused_pairs) < PAIRS_KEPT:
                self.reused_pairs.append(Pair(own, reuse.donor))
        elif reuse.refused and len(self.refused_pairs) < PAIRS_KEPT:
            self.refused_pairs.append(Pair(own, reuse.refused[0]))

    def count_error(self, error: InputRejected) -> None:
        """Count a picture that can never be analysed."""
        self.statuses["error"] += 1
        self.media["error", error.reason] += 1

    def count(self, medium: Medium, result: VisionResult, *, method: str) -> None:
        """Count a result, and keep the picture for the contact sheet as long as there is room."""
        kind = result.analysis.classification.kind
        self.methods[method] += 1
        self.media[result.analysis.status, method] += 1
        self.statuses[result.analysis.status] += 1
        self.kinds[kind] += 1
        if len(self.looked) < THUMBNAILS_KEPT:
            measurement = result.analysis.measurement
            self.looked.append(
                Looked(
                    sha256=medium.sha256,
                    thumbnail=medium.fingerprint.thumbnail if medium.fingerprint else None,
                    width=measurement.width,
                    height=measurement.height,
                    kind=kind,
                    labels=tuple(result.analysis.labels),
                    method=method,
                )
            )
