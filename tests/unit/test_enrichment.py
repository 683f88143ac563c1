"""How the results of a post's pictures become one row."""

from uuid import UUID

from tests.results import MOMENT, result
from vision_assets.core.enrichment import PictureOfPost, PostToEnrich, enrich
from vision_assets.core.vision import Kind, VisionResult

POST = UUID(int=7)


def picture(position: int, found: VisionResult | None, **states: str | None) -> PictureOfPost:
    """One picture of the post, stored and analysed unless told otherwise."""
    sha256 = found.sha256 if found else None
    values = {"state": "stored", "reason": None, "s3_key": f"vision/{sha256}" if found else None} | states
    return PictureOfPost(
        position=position,
        state=str(values["state"]),
        reason=values["reason"],
        sha256=sha256,
        result=found,
        s3_key=values["s3_key"],
    )


def post(*pictures: PictureOfPost) -> PostToEnrich:
    """A post with these pictures."""
    return PostToEnrich(POST, 7 if len(pictures) > 1 else None, "hash", pictures)


def test_album_merges_into_the_first() -> None:
    """The first result is the base; labels, texts and barcodes of the others are merged in, each once."""
    first = result("a", labels=("photo", "text"), text="Вход")
    second = result("b", kind=Kind.DOCUMENT, labels=("document", "text"), text="Выход", barcodes=("qr!",))
    third = result("c", labels=("photo",), text="Вход")
    row = enrich(post(picture(0, first), picture(1, second), picture(2, third)), provider="local")
    assert row.status == "ok"
    assert row.data["classification"] == "photo"
    assert row.data["labels"] == row.data["vision_labels_agg"] == ["photo", "text", "document"]
    assert row.data["ocr_text"] == row.data["ocr"]["text"] == "Вход\nВыход"
    assert row.data["ocr_present"] is True
    assert row.data["barcodes"] == ["qr!"]
    assert row.data["album_size"] == 3
    assert row.data["s3_keys"] == {"image": "vision/a"}
    assert row.data["s3_keys_list"] == [
        {"sha256": sha256, "s3_key": f"vision/{sha256}", "analyzed_at": MOMENT.isoformat()} for sha256 in "abc"
    ]


def test_one_bad_picture_holds_nobody_up() -> None:
    """A rejected first picture is listed with its reason, and the next one becomes the base."""
    row = enrich(
        post(picture(0, None, state="rejected", reason="truncated"), picture(1, result("b", text="Текст"))),
        provider="local",
    )
    assert row.status == "partial"
    assert row.error == "picture 1: truncated"
    assert row.data["ocr_text"] == "Текст"
    assert [medium["state"] for medium in row.data["media"]] == ["rejected", "stored"]


def test_nothing_to_show_is_an_error_with_reasons() -> None:
    """A post none of whose pictures has a result says why, and invents nothing."""
    row = enrich(post(picture(0, None, state="missing", reason="not_exported")), provider="local")
    assert (row.status, row.error) == ("error", "picture 1: not_exported")
    assert row.data["s3_keys"] == {}
    assert "classification" not in row.data


def test_result_kept_out_of_s3_has_no_key() -> None:
    """A result that the quota kept out of S3 counts for the post; only its key is left out."""
    row = enrich(post(picture(0, result("a"), s3_key=None)), provider="local")
    assert row.data["classification"] == "photo"
    assert row.data["s3_keys_list"] == []


def test_partial_result_makes_a_partial_post() -> None:
    """Without OCR the post is partial: "no text" is not claimed."""
    row = enrich(post(picture(0, result("a", ocr_status="unavailable"))), provider="local")
    assert row.status == "partial"
    assert row.data["ocr"]["text"] is None
