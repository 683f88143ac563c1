"""The shadow audit of reuse: about a share of the pictures that could take another's result the provider is asked.

Its answer is the picture's own then, and tells whether the other's would have done. What is not here: whose result may
be taken (`reuse.py`), and the calls (`analysis.py`).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from vision_assets.core.findings import Finding
from vision_assets.core.vision import Analysis

Difference = Literal["kind", "numbers", "text", "labels", "nsfw"]
"""In what two answers differ, the gravest first."""

TEXT_SIMILARITY = 0.8
"""Of two readings of one text, at least; engines slip in single words."""

NSFW_FROM = 0.5
"""Score from which a picture is not for everyone."""

LEAST_AUDITS = 20
"""Before a rate says anything."""

WARN_FROM = 0.02
ERROR_FROM = 0.10
"""Shares of answers that differ. Asked twice about the same picture, a model contradicts itself now and then."""

_WORDS = re.compile(r"[^\W\d_]+")
_NUMBERS = re.compile(r"\d+")
_FEW_WORDS = 3
_COMPARED_WORDS = 400


@dataclass(frozen=True, slots=True)
class Audit:
    """One answer of the provider's, held against the one that would have been taken.

    Attributes:
        differences: Empty: they say the same.
    """

    sha256: str
    donor_sha256: str
    differences: tuple[Difference, ...]

    @property
    def outcome(self) -> Literal["agrees", "differs"]:
        """For a counter."""
        return "differs" if self.differences else "agrees"


@dataclass(frozen=True, slots=True)
class Audits:
    """What audits of one tenant have found.

    Attributes:
        agreeing: Number of answers that said the same.
        differing: Number of those that did not.
        differences: How often in what; one answer may differ in several things.
    """

    agreeing: int
    differing: int
    differences: Mapping[str, int]

    @property
    def total(self) -> int:
        """All audits."""
        return self.agreeing + self.differing

    @property
    def disagreement(self) -> float | None:
        """Share of answers that differ; None without any."""
        return self.differing / self.total if self.total else None


def is_audited(sha256: str, *, fingerprint: str, share: float) -> bool:
    """Decide whether a picture is audited: always the same way, so that a run that is repeated chooses nothing anew.

    Args:
        fingerprint: Of the provider; with another one others are chosen.
        share: Of all pictures, 0 to 1.
    """
    drawn = int.from_bytes(hashlib.sha256(f"{sha256} {fingerprint}".encode()).digest()[:8], "big")
    return drawn < share * 2**64


def differences(own: Analysis, donor: Analysis) -> tuple[Difference, ...]:
    """Tell in what an answer about a picture differs from the answer that it might have taken.

    Wordings are not compared: no model describes a picture in the same words twice.
    """
    text, other_text = own.ocr.text or "", donor.ocr.text or ""
    both_read = own.ocr.status == donor.ocr.status == "ok"
    found: dict[Difference, bool] = {
        "kind": own.classification.kind is not donor.classification.kind,
        "numbers": both_read and sorted(_NUMBERS.findall(text)) != sorted(_NUMBERS.findall(other_text)),
        "text": both_read and _read_differently(text, other_text),
        "labels": _name_nothing_alike(own, donor),
        "nsfw": own.nsfw_score is not None
        and donor.nsfw_score is not None
        and (own.nsfw_score >= NSFW_FROM) != (donor.nsfw_score >= NSFW_FROM),
    }
    return tuple(name for name, holds in found.items() if holds)


def agreement(audits: Audits) -> Finding:
    """Decide the check of a tenant's audits."""
    if audits.disagreement is None:
        return Finding(None, "No reuse was audited yet.")
    rate = (
        f"{audits.differing} of {audits.total} audited reuses ({audits.disagreement:.1%}) would have said other things"
    )
    if audits.total < LEAST_AUDITS:
        return Finding(None, f"{rate}; fewer than {LEAST_AUDITS} say nothing yet.")
    in_what = ", ".join(f"{name} {count}" for name, count in sorted(audits.differences.items()))
    advice = "look at them with `vision-assets explain`, and set the policy's `reuse` to strict or never"
    if audits.disagreement >= ERROR_FROM:
        return Finding("error", f"{rate} ({in_what}): {advice}.")
    if audits.disagreement >= WARN_FROM:
        return Finding("warn", f"{rate} ({in_what}): {advice}.")
    return Finding(None, f"{rate}.")


def _read_differently(text: str, other: str) -> bool:
    words, others = (_WORDS.findall(side.casefold())[:_COMPARED_WORDS] for side in (text, other))
    if not words or not others:
        return max(len(words), len(others)) >= _FEW_WORDS
    return SequenceMatcher(None, " ".join(words), " ".join(others), autojunk=False).ratio() < TEXT_SIMILARITY


def _name_nothing_alike(own: Analysis, donor: Analysis) -> bool:
    named, other = ({name.casefold() for name in (*side.labels, *side.objects)} for side in (own, donor))
    return min(len(named), len(other)) >= _FEW_WORDS and not named & other
