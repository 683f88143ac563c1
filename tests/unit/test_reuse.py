"""Which earlier picture's result a picture may take."""

from tests.results import result
from vision_assets.core.neighbours import Fingerprint
from vision_assets.core.reuse import Neighbour, choose_donor, may_be_donor
from vision_assets.core.vision import Kind, VisionResult

THUMBNAIL = bytes(range(256)) * 16


def fingerprint(phash: int = 0) -> Fingerprint:
    """A fingerprint that differs from others in the hash alone."""
    return Fingerprint(phash, bytes(32), THUMBNAIL, 640, 480)


def neighbour(sha256: str, *, phash: int = 0, order: int = 1, found: VisionResult | None = None) -> Neighbour:
    """An earlier picture, with its own result unless told otherwise."""
    return Neighbour(sha256, (order, 0), fingerprint(phash), found or result(sha256))


def test_nearest_then_earliest() -> None:
    """The nearest hash wins; among equals the picture that appeared first."""
    far, late, early = neighbour("a", phash=0b11), neighbour("b", order=5), neighbour("c", order=2)
    assert choose_donor(fingerprint(), [far, late, early]) is early
    assert choose_donor(fingerprint(), [far]) is far


def test_no_chain_of_reuse() -> None:
    """A result that was itself reused, or is a fallback, is never given on."""
    assert choose_donor(fingerprint(), [neighbour("a", found=result("a", method="near_duplicate"))]) is None
    assert choose_donor(fingerprint(), [neighbour("a", found=result("a", method="fallback"))]) is None


def test_flagged_hash_is_never_matched() -> None:
    """A picture whose hash is flagged or absent takes no one's result."""
    assert choose_donor(None, [neighbour("a")]) is None


def test_neighbour_without_result_is_no_donor() -> None:
    """A neighbour whose own analysis failed gives nothing."""
    assert choose_donor(fingerprint(), [Neighbour("a", (1, 0), fingerprint(), None)]) is None


def test_digits_stay_with_their_picture() -> None:
    """A text with digits may differ where the pictures look alike; other texts may be shared."""
    assert may_be_donor(result("a", text="Добро пожаловать").analysis)
    assert not may_be_donor(result("a", text="Итого 1 250 ₽").analysis)


def test_without_ocr_only_photos() -> None:
    """As long as nothing is known of the text, only photographs are reused; a broken OCR allows nothing."""
    assert may_be_donor(result("a", ocr_status="unavailable").analysis)
    assert not may_be_donor(result("a", ocr_status="unavailable", kind=Kind.SCREENSHOT).analysis)
    assert not may_be_donor(result("a", ocr_status="failed").analysis)
