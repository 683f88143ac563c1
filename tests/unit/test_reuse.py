"""Which earlier picture's result a picture may take, and why not another's."""

import pytest

from tests.results import result
from vision_assets.core.neighbours import Fingerprint
from vision_assets.core.reuse import (
    MOST_REMEMBERED,
    QUARANTINE_FROM,
    Asking,
    Denials,
    Denier,
    Neighbour,
    Reuse,
    ReuseRules,
    decide_reuse,
    why_no_donor,
)
from vision_assets.core.vision import Kind, VisionResult

THUMBNAIL = bytes(range(256)) * 16
OTHER = bytes(4096)


def fingerprint(phash: int = 0, thumbnail: bytes = THUMBNAIL) -> Fingerprint:
    """A fingerprint that differs from others in the hash or the thumbnail alone."""
    return Fingerprint(phash, bytes(32), thumbnail, 640, 480)


def neighbour(
    sha256: str, *, phash: int = 0, thumbnail: bytes = THUMBNAIL, order: int = 1, found: VisionResult | None = None
) -> Neighbour:
    """An earlier picture, with its own result unless told otherwise."""
    return Neighbour(sha256, (order, 0), fingerprint(phash, thumbnail), found or result(sha256))


def decide(*neighbours: Neighbour, text: str | None = None, rules: ReuseRules | None = None) -> Reuse:
    """What becomes of a picture that looks like these."""
    return decide_reuse(Asking("own", fingerprint(), text), neighbours, rules or ReuseRules())


def donor(reuse: Reuse) -> str | None:
    """Whose result is taken."""
    return reuse.donor.candidate.sha256 if reuse.donor else None


def reasons(reuse: Reuse) -> dict[str, str]:
    """Why the others' are not."""
    return {one.candidate.sha256: one.reason for one in reuse.refused}


def test_nearest_then_earliest() -> None:
    """The nearest hash wins; among equals the picture that appeared first."""
    far, late, early = neighbour("a", phash=0b11), neighbour("b", order=5), neighbour("c", order=2)
    assert donor(decide(far, late, early)) == "c"
    found = decide(far)
    assert donor(found) == "a"
    assert found.donor is not None
    assert (found.donor.verdict, found.donor.reason) == ("reused", "same_picture")
    assert found.donor.likeness.distance_bits == 2


def test_those_that_stood_nearer_are_told() -> None:
    """Beside a donor it is told why no nearer candidate was taken; farther ones decided nothing."""
    near, digits, taken = neighbour("a", thumbnail=OTHER), neighbour("b", found=result("b", text="5 ₽")), neighbour("c")
    found = decide(neighbour("d", phash=0b11, thumbnail=OTHER), taken, digits, near)
    assert (donor(found), reasons(found)) == ("c", {"a": "cells", "b": "digits"})


def test_no_chain_of_reuse() -> None:
    """A result that was itself reused, or is a fallback, is never given on."""
    reused, read = result("a", method="near_duplicate"), result("b", method="fallback")
    found = decide(neighbour("a", found=reused), neighbour("b", found=read))
    assert (donor(found), reasons(found)) == (None, {"a": "donor_is_reuse", "b": "donor_is_fallback"})
    assert found.awaited == ("b",)


def test_neighbours_without_a_result_are_no_donors() -> None:
    """One that is to do yet is waited for; one that took another's result, or has an error, is not."""
    without = [
        Neighbour(sha256, (1, 0), fingerprint(), None, method)
        for sha256, method in (("a", None), ("b", "near_duplicate"), ("c", "fallback"), ("d", "new"))
    ]
    found = decide(*without)
    assert reasons(found) == {
        "a": "no_result",
        "b": "donor_is_reuse",
        "c": "donor_is_fallback",
        "d": "donor_failed",
    }
    assert found.awaited == ("a", "c")


def test_digits_stay_with_their_picture() -> None:
    """A text with digits may differ where the pictures look alike; other texts may be shared."""
    assert why_no_donor(result("a", text="Добро пожаловать").analysis) is None
    assert why_no_donor(result("a", text="Итого 1 250 ₽").analysis) == "digits"


def test_without_ocr_only_photos() -> None:
    """As long as nothing is known of the text, only photographs are reused; a broken OCR allows nothing."""
    assert why_no_donor(result("a", ocr_status="unavailable").analysis) is None
    assert why_no_donor(result("a", ocr_status="unavailable", kind=Kind.SCREENSHOT).analysis) == "text_unknown"
    assert why_no_donor(result("a", ocr_status="failed").analysis) == "donor_not_ok"
    undescribed = result("a", text="без цифр").analysis.model_copy(update={"status": "partial"})
    assert why_no_donor(undescribed) == "donor_not_ok"


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (None, None),
        ("", None),
        ("Всё\nв   порядке", None),
        ("«Все — в порядке!»", None),
        ("Всё не в порядке", "text_differs"),
        ("Всё в порядке, 5", "digits"),
    ],
)
def test_a_text_that_is_known_confirms(text: str | None, refusal: str | None) -> None:
    """Whatever was read in the picture itself must be what was read in the other, but for case and punctuation."""
    found = decide(neighbour("a", found=result("a", text="Всё в порядке.")), text=text)
    assert reasons(found).get("a") == refusal
    assert donor(found) == (None if refusal else "a")


def test_how_strict_is_the_tenants() -> None:
    """Cells that differ by ten of 255 are too much for one and not for another; never is never."""
    cells = bytearray(THUMBNAIL)
    cells[100] += 10
    alike = neighbour("a", thumbnail=bytes(cells))
    assert reasons(decide(alike)) == {"a": "cells"}
    assert donor(decide(alike, rules=ReuseRules("normal"))) == "a"
    assert decide(neighbour("a"), rules=ReuseRules(None)) == Reuse()


@pytest.mark.parametrize(("denier", "reason"), [("operator", "denied"), ("quarantine", "quarantined")])
def test_what_is_denied_neither_gives_nor_takes(denier: Denier, reason: str) -> None:
    """By its name or by its hash, whichever of the two it is."""
    alike = neighbour("a", phash=0b11)
    for denials in (
        Denials({"a": denier}, {}),
        Denials({"own": denier}, {}),
        Denials({}, {0b11: denier}),
        Denials({}, {0: denier}),
    ):
        found = decide(alike, rules=ReuseRules(denials=denials))
        assert (donor(found), reasons(found)) == (None, {"a": reason})
    assert donor(decide(alike, rules=ReuseRules(denials=Denials({"b": denier}, {0b1: denier})))) == "a"


def others(count: int) -> list[Neighbour]:
    """Pictures that share the hash and look otherwise."""
    return [neighbour(f"{number:02}", thumbnail=OTHER) for number in range(count)]


def test_a_hash_of_too_many_pictures_quarantines_itself() -> None:
    """One different picture more, and not even the same one is taken; from then on it is denied by its hash."""
    copy = neighbour("copy", phash=0b11)
    found = decide(copy, *others(QUARANTINE_FROM))
    assert (donor(found), found.quarantined, found.different) == ("copy", False, QUARANTINE_FROM)
    found = decide(copy, *others(QUARANTINE_FROM + 1))
    assert (donor(found), found.quarantined, found.awaited) == (None, True, ())
    denials = Denials({"own": "operator"}, {})
    denials.quarantine("own", 0)
    assert denials == Denials({"own": "operator"}, {0: "quarantine"})
    assert not decide(*others(QUARANTINE_FROM + 1), rules=ReuseRules(denials=denials)).quarantined


def test_few_decisions_are_remembered() -> None:
    """However many there are: the same picture before others, then the nearest."""
    far = neighbour("far", phash=0b11, thumbnail=OTHER)
    copy = neighbour("copy", phash=0b1111, found=result("copy", text="5"))
    found = decide(far, *others(QUARANTINE_FROM - 1), copy)
    assert list(reasons(found)) == ["copy", *(f"{number:02}" for number in range(MOST_REMEMBERED - 1))]
