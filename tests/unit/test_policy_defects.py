"""What was wrong with the policy that this one replaces."""

import pytest

from vision_assets.core.pictures import MIME_TYPES
from vision_assets.core.policy import OcrOnly, PolicyMedium, Verdict, VisionPolicy, evaluate_media_for_vision


def verdict(mime: str, *, quota_exhausted: bool, policy: VisionPolicy | None = None) -> Verdict:
    """The verdict on a picture of a type, alone in its post."""
    medium = PolicyMedium(sha256="0" * 64, mime=mime, bytes=10**6, width=800, height=600, position=0)
    [decision] = evaluate_media_for_vision(
        policy or VisionPolicy(), [medium], channel_username="news", quota_exhausted=quota_exhausted
    )
    return decision.verdict


@pytest.mark.parametrize("mime", MIME_TYPES)
def test_ocr_only_if_sent_every_png_and_jpeg_to_ocr(mime: str) -> None:
    """`ocr_only_if` was read as "of these types, or over budget": no PNG and no JPEG was ever analysed.

    It is both: within the budget every type is analysed, and over it only the listed ones go to OCR.
    """
    assert verdict(mime, quota_exhausted=False) == "analyse"
    listed = mime in {"image/jpeg", "image/png"}
    assert verdict(mime, quota_exhausted=True) == ("ocr_only" if listed else "defer")


def test_ocr_only_always_is_said_and_not_implied() -> None:
    """A policy that wants its listed types to go to OCR whatever the budget says so, and the others are untouched."""
    policy = VisionPolicy(ocr_only=OcrOnly(mime_types=frozenset({"image/png"}), when="always"))
    assert verdict("image/png", quota_exhausted=False, policy=policy) == "ocr_only"
    assert verdict("image/jpeg", quota_exhausted=False, policy=policy) == "analyse"


@pytest.mark.parametrize("mime", MIME_TYPES)
@pytest.mark.parametrize("over_budget", ["ocr", "defer"])
@pytest.mark.parametrize("when", ["quota_exhausted", "always", "never"])
def test_an_exhausted_budget_dropped_pictures(mime: str, over_budget: str, when: str) -> None:
    """Over budget a picture is read or waits; it is never skipped, whatever the policy."""
    policy = VisionPolicy.model_validate({"over_budget": over_budget, "ocr_only": {"when": when}})
    assert verdict(mime, quota_exhausted=True, policy=policy) in {"ocr_only", "defer"}
