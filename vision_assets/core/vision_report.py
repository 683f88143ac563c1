"""What a pass over a tenant's pictures tells in the end."""

from collections import Counter
from dataclasses import dataclass, field

from vision_assets.core.budget import TokenEstimate
from vision_assets.core.errors import InputRejected
from vision_assets.core.vision import Kind, VisionResult
from vision_assets.core.vision_ledger import Medium, Tally

THUMBNAILS_KEPT = 24


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
        deferred: Pictures that wait, by reason: for the budget, for a call of somebody else, for the provider.
        estimate: What a call was held at; None: calls cost nothing, or the ledger could not be reached.
        failures: Faults that are no picture's own; the pictures stay to do.
        hopeless: One of them will not pass by itself.
    """

    methods: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    media: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    deferred: Counter[str] = field(default_factory=Counter)
    estimate: TokenEstimate | None = None
    analyses: int = 0
    call_milliseconds: int = 0
    puts: int = 0
    put_bytes: int = 0
    tokens: int = 0
    failures: list[str] = field(default_factory=list)
    hopeless: bool = False
    looked: list[Looked] = field(default_factory=list)

    def tally(self) -> Tally:
        """Tell what the counters are to be raised by for all that was done so far."""
        return Tally(
            Counter(self.media), Counter(self.decisions), Counter(self.deferred), self.analyses, self.call_milliseconds
        )

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
