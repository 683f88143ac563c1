"""What the checks of a tenant's storage and budget say: whether all is well, and if not, what to do.

What is not here: how they are shown and stored (`defs/tenant_storage_usage.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vision_assets.core.levels import ERROR_FROM, WARN_FROM, Gauge, Severity
from vision_assets.core.reconcile import DriftClass, ReconciliationReport


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        severity: None: all is well.
        message: For people.
    """

    severity: Severity | None
    message: str


def below_limits(gauges: Sequence[Gauge]) -> Finding:
    """Check levels against their limits: a word from 85 %, an error from 93 %. The fullest comes first."""
    bounded = sorted((gauge for gauge in gauges if gauge.share is not None), key=lambda gauge: -(gauge.share or 0))
    full = [gauge for gauge in bounded if gauge.severity is not None]
    if not full:
        highest = f"; the fullest: {_level(bounded[0])}" if bounded else ": there is none"
        return Finding(None, f"Every level is below {WARN_FROM:.0%} of its limit{highest}.")
    severity: Severity = "error" if any(gauge.severity == "error" for gauge in full) else "warn"
    lines = [f"{_level(gauge)}: {gauge.remedy}." for gauge in full]
    return Finding(severity, f"From {ERROR_FROM if severity == 'error' else WARN_FROM:.0%} on: {' '.join(lines)}")


def _level(gauge: Gauge) -> str:
    return f"{gauge.what} has taken {gauge.share:.1%} of {gauge.limit:,} {gauge.unit}"


def matches_storage(report: ReconciliationReport) -> Finding:
    """Check that the books agreed with S3. What did not is put right already; it tells of a writer that does not book.

    Objects that are gone from S3 are an error: somebody's data is lost. Stale holds have a check of their own.
    """
    said: dict[DriftClass, str] = {
        "missing": "gone from S3: whoever deletes must do so by the guarded store, and lost pictures are stored again "
        "from their source",
        "untracked": "in S3 and not in the books: whoever puts must do so by the guarded store, or book it",
        "wrong_size": "of another size in S3: whoever overwrites must do so by the guarded store, or book it",
    }
    off = [
        f"{report.drift[name].objects:,} objects ({report.drift[name].bytes:+,} bytes) {text}, for example "
        f"{report.drift[name].examples[0]}."
        for name, text in said.items()
        if report.drift[name].objects
    ]
    off += [
        f"The usage figure of {sums.content_type} was {sums.bytes:+,} bytes off the sum of the object ledger: only its "
        "triggers may write it."
        for sums in report.off_sums
    ]
    if not off:
        return Finding(None, f"The books agreed with S3, {report.listed_objects:,} objects.")
    return Finding("error" if report.drift["missing"].objects else "warn", f"Put right: {' '.join(off)}")


def without_stale_holds(report: ReconciliationReport, *, lost_calls: int, lost_tokens: int) -> Finding:
    """Check that every operation on an object, and every call that costs, came back.

    Args:
        lost_calls: Of late, without a trace.
        lost_tokens: What they were charged.
    """
    stale = report.drift["stale_hold"]
    off = []
    if stale.objects:
        off.append(
            f"{stale.objects:,} operations on objects never came back ({stale.bytes:,} bytes were held), for example "
            f"on {stale.examples[0]}; what lies in S3 is booked."
        )
    if lost_calls:
        off.append(
            f"{lost_calls:,} calls to providers were never settled, and are charged at their estimates "
            f"({lost_tokens:,} tokens)."
        )
    if not off:
        return Finding(None, "Every operation and every call came back.")
    return Finding(
        "warn", f"{' '.join(off)} Workers were killed or hung: look at the runs that failed or were cancelled."
    )
