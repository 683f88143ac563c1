"""Whose result a picture may take, and why not another's; pure functions.

What is not here: how alike two pictures are (`neighbours.py`), and what is done with a decision (`analysis.py`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from vision_assets.core.neighbours import (
    Criterion,
    Fingerprint,
    Likeness,
    Strictness,
    compare,
    distance_bits,
    keeps_text,
)
from vision_assets.core.vision import Analysis, Kind, VisionResult

Denier = Literal["operator", "quarantine"]
"""Who said that a picture takes no result and gives none."""

Refusal = Literal[
    Criterion,
    "denied",
    "quarantined",
    "no_result",
    "donor_failed",
    "donor_is_reuse",
    "donor_is_fallback",
    "donor_not_ok",
    "text_unknown",
    "digits",
    "text_differs",
    "text_too_small",
    "pixels_unknown",
    "pixels_differ",
    "audited",
]
"""Why a candidate's result is not taken: stable codes, in the order in which they are asked."""

QUARANTINE_FROM = 20
"""More different pictures than this within the radius of one hash quarantine it. Of 499,500 pairs of photographs none
lay within it, of 200,661 pairs of screenshots 94: so many at once have a template in common (a form, an empty chat),
and what is written into one is easily taken for a copy of another."""

MOST_DONORS = 3
"""Of one picture: if the pixels of these do not agree with it, those of others will hardly do."""

MOST_REMEMBERED = 8
"""Refusals that are kept of one picture: of the same picture before those of others, then of the nearest."""

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An earlier picture of the same tenant whose hash is near.

    Attributes:
        order: Of first appearance: (post_seq, position).
        result: Its own result of this provider at this fingerprint; None while it has none.
        method: How what it has at this fingerprint came about, be it a result or an error; None: it has nothing.
    """

    sha256: str
    order: tuple[int, int]
    fingerprint: Fingerprint
    result: VisionResult | None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Denials:
    """Pictures of a tenant that take nobody's result and give none, and whatever has exactly their hash.

    Attributes:
        by_sha256: Who said so.
        by_phash: The same by 64-bit hash.
    """

    by_sha256: dict[str, Denier] = field(default_factory=dict)
    by_phash: dict[int, Denier] = field(default_factory=dict)

    def of(self, sha256: str, phash: int | None) -> Denier | None:
        """Tell who denied a picture; None as its hash: it has none."""
        return self.by_sha256.get(sha256) or (None if phash is None else self.by_phash.get(phash))

    def quarantine(self, sha256: str, phash: int) -> None:
        """Deny a picture from now on; what an operator said of it stands."""
        self.by_sha256.setdefault(sha256, "quarantine")
        self.by_phash.setdefault(phash, "quarantine")


@dataclass(frozen=True, slots=True)
class ReuseRules:
    """What a tenant lets be reused.

    Attributes:
        strictness: None: nothing is.
        denials: As they stood when the pass began, and those it added.
    """

    strictness: Strictness | None = "strict"
    denials: Denials = field(default_factory=Denials)


@dataclass(frozen=True, slots=True)
class Asking:
    """A picture that is to have a result.

    Attributes:
        text: That is known to stand in it, though it has no answer of the provider; None: not known.
    """

    sha256: str
    fingerprint: Fingerprint
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What was decided about one candidate.

    Attributes:
        sha256: Of the picture that asked.
        refusal: Why the candidate's result is not taken; None: it may be.
    """

    sha256: str
    candidate: Neighbour
    likeness: Likeness
    strictness: Strictness
    refusal: Refusal | None

    @property
    def verdict(self) -> Literal["reused", "refused"]:
        """Of a candidate that was decided by."""
        return "refused" if self.refusal else "reused"

    @property
    def reason(self) -> str:
        """Stable code, for a table and a counter."""
        return self.refusal or "same_picture"


@dataclass(frozen=True, slots=True)
class Reuse:
    """What was decided about a picture.

    Attributes:
        donor: Whose result it takes; None: nobody's.
        spare: Whose it takes should the donor be refused after all, in this order.
        refused: Some candidates whose result is not taken; with a donor, of those that stood nearer.
        different: Candidates that are other pictures, though their hashes are within the radius.
        quarantined: They are so many that the picture quarantines itself.
        awaited: Pictures that are to have a result of their own first, which might be taken then.
    """

    donor: Judged | None = None
    spare: tuple[Judged, ...] = ()
    refused: tuple[Judged, ...] = ()
    different: int = 0
    quarantined: bool = False
    awaited: tuple[str, ...] = ()

    def with_next_donor(self, reason: Refusal) -> "Reuse":
        """Refuse the donor after all, and turn to the next one."""
        refused = self.without_donor(reason).refused
        donor, *spare = self.spare or (None,)
        return replace(self, donor=donor, spare=tuple(spare), refused=refused)

    def without_donor(self, reason: Refusal) -> "Reuse":
        """Refuse the donor after all, and take nobody's result."""
        refused = () if self.donor is None else (replace(self.donor, refusal=reason),)
        return replace(self, donor=None, spare=(), refused=(*self.refused, *refused))


def decide_reuse(own: Asking, neighbours: Sequence[Neighbour], rules: ReuseRules) -> Reuse:
    """Choose the earlier picture whose result a picture takes: the nearest, then the earliest.

    A donor's result is its own (no chains of reuse), and the two must be the same picture.

    Args:
        own: Its hash is free of flags.
        neighbours: Of the same tenant, earlier than the picture, within the radius.
        rules: Of the tenant.
    """
    if rules.strictness is None:
        return Reuse()
    nearest_first = sorted(
        neighbours, key=lambda n: (distance_bits(own.fingerprint.phash, n.fingerprint.phash), n.order, n.sha256)
    )
    compared = [compare(own.fingerprint, neighbour.fingerprint) for neighbour in nearest_first]
    differences = [likeness.exceeds(rules.strictness) for likeness in compared]
    different = len(differences) - differences.count(None)
    quarantined = different > QUARANTINE_FROM and not rules.denials.of(own.sha256, own.fingerprint.phash)
    judged = [
        Judged(
            sha256=own.sha256,
            candidate=neighbour,
            likeness=likeness,
            strictness=rules.strictness,
            refusal=difference
            or ("quarantined" if quarantined else _denial(own, neighbour, rules.denials))
            or _of_the_result(own, neighbour),
        )
        for neighbour, likeness, difference in zip(nearest_first, compared, differences, strict=True)
    ]
    donors = [place for place, one in enumerate(judged) if one.refusal is None][:MOST_DONORS]
    return Reuse(
        donor=judged[donors[0]] if donors else None,
        spare=tuple(judged[place] for place in donors[1:]),
        refused=_remembered(judged[: donors[0]] if donors else judged),
        different=different,
        quarantined=quarantined,
        awaited=tuple(one.candidate.sha256 for one in judged if one.refusal in ("no_result", "donor_is_fallback")),
    )


def why_no_donor(analysis: Analysis) -> Refusal | None:
    """Tell why a result is not given to a copy of its picture; None: it may be.

    Digits in a text (a price, a date, a clock) may differ where pictures look alike, so such a result stays its own.
    Without OCR nothing is known of the text: then only photographs are reused, though their results are partial.
    """
    if analysis.ocr.status == "unavailable":
        return None if analysis.classification.kind is Kind.PHOTO else "text_unknown"
    if analysis.status != "ok":
        return "donor_not_ok"
    return "digits" if _has_digits(analysis.ocr.text) else None


def _remembered(refused: Sequence[Judged]) -> tuple[Judged, ...]:
    def rank(one: Judged) -> tuple[bool, int, float]:
        likeness = one.likeness
        return likeness.exceeds(one.strictness) is not None, likeness.distance_bits, likeness.cell_difference

    return tuple(sorted(refused, key=rank)[:MOST_REMEMBERED])


def _denial(own: Asking, neighbour: Neighbour, denials: Denials) -> Refusal | None:
    deniers = (
        denials.of(own.sha256, own.fingerprint.phash),
        denials.of(neighbour.sha256, neighbour.fingerprint.phash),
    )
    if "operator" in deniers:
        return "denied"
    return "quarantined" if "quarantine" in deniers else None


def _of_the_result(own: Asking, neighbour: Neighbour) -> Refusal | None:
    method = neighbour.method if neighbour.result is None else neighbour.result.provenance.method
    if method == "near_duplicate":
        return "donor_is_reuse"
    if method == "fallback":
        return "donor_is_fallback"
    if neighbour.result is None:
        return "no_result" if method is None else "donor_failed"
    return why_no_donor(neighbour.result.analysis) or _of_the_texts(own, neighbour, neighbour.result.analysis.ocr.text)


def _of_the_texts(own: Asking, neighbour: Neighbour, text: str | None) -> Refusal | None:
    if _has_digits(own.text):
        return "digits"
    texts = _words(own.text), _words(text)
    if all(texts) and texts[0] != texts[1]:
        return "text_differs"
    may_have_text = text is None or bool(texts[1])
    return "text_too_small" if may_have_text and not keeps_text(own.fingerprint, neighbour.fingerprint) else None


def _has_digits(text: str | None) -> bool:
    return any(character.isdigit() for character in text or "")


def _words(text: str | None) -> list[str]:
    """Bring a text to the form in which two are compared: its words, without case and punctuation."""
    return _WORDS.findall((text or "").casefold().replace("ё", "е"))
