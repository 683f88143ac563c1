"""The form of a result in S3 and Postgres."""

import gzip
import json
import re
from uuid import UUID

import pytest

from tests.results import MOMENT, result
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import VisionResult, vision_key

FOUND = result("a" * 64, text="Вход", labels=("photo", "text"), barcodes=("https://example.org",))


def test_document_is_flat_by_the_names_of_the_schema() -> None:
    """Other readers find each field of schema 1.0 at the top, by its name."""
    document = json.loads(gzip.decompress(FOUND.to_gzip()))
    assert document["schema_version"] == "1.0"
    assert (document["provider"], document["model"]) == ("local", "rules-1")
    assert document["classification"] == "photo"
    assert document["labels"] == ["photo", "text"]
    assert (document["is_meme"], document["description"], document["scene"], document["objects"]) == (
        False,
        None,
        None,
        [],
    )
    assert document["ocr"]["text"] == "Вход"
    assert document["dominant_colors"] == ["#102030"]
    assert document["context"]["barcodes"] == [{"format": "QRCode", "text": "https://example.org"}]
    assert document["s3_keys"] == {"image": FOUND.media_s3_key}
    assert (document["nsfw_score"], document["aesthetic_score"], document["file_id"]) == (None, None, None)
    assert (document["tokens_used"], document["cost_microunits"]) == (0, 0)
    assert (document["status"], document["analysis_reason"]) == ("ok", "new")
    assert document["analyzed_at"].startswith(MOMENT.strftime("%Y-%m-%dT%H:%M:%S"))


def test_there_and_back() -> None:
    """What was written is read again, and the same result gives the same bytes."""
    assert VisionResult.from_gzip(FOUND.to_gzip()) == FOUND
    assert FOUND.to_gzip() == FOUND.to_gzip()


def test_a_classification_may_have_no_confidence() -> None:
    """A model tells none: that is stored as it is, and a document with one is read as before."""
    unsure = FOUND.analysis.classification.model_copy(update={"confidence": None})
    stored = FOUND.model_copy(update={"analysis": FOUND.analysis.model_copy(update={"classification": unsure})})
    assert stored.to_document()["classification_details"] == {"confidence": None, "method": "rules"}
    assert VisionResult.from_gzip(stored.to_gzip()) == stored
    assert VisionResult.from_document(FOUND.to_document()).analysis.classification.confidence == 0.7


@pytest.mark.parametrize("position", range(0, len(FOUND.to_gzip()), 7))
def test_damage_is_told(position: int) -> None:
    """A flipped byte anywhere is a damaged result, or none at all; never another exception."""
    body = bytearray(FOUND.to_gzip())
    body[position] ^= 0xFF
    try:
        assert VisionResult.from_gzip(bytes(body)) == FOUND  # a byte of the header that says nothing
    except ValueError:
        return


@pytest.mark.parametrize("body", [b"", b"not gzip", *(gzip.compress(text, mtime=0) for text in (b"{}", b"[1]", b"{"))])
def test_what_is_no_result(body: bytes) -> None:
    """Empty, foreign, incomplete: each is refused."""
    with pytest.raises(ValueError, match=r"gzip|schema|Expecting"):
        VisionResult.from_gzip(body)


def test_every_model_has_a_key_of_its_own() -> None:
    """Slashes, colons and underscores of its name stand escaped; plain names stand as they are."""
    tenant = TenantId(UUID(int=7))
    names = ["a/b", "a:b", "a_b", "a!2fb", "a b", "a%2Fb", "ab", "модель"]
    keys = [vision_key(tenant, "0" * 64, provider="openai", model=name) for name in names]
    assert keys[0] == f"vision/{tenant}/{'0' * 64}_openai_a!2fb_v1.0.json"
    assert len(set(keys)) == len(names)
    for key in keys:
        assert re.fullmatch(r"vision/[0-9a-f-]{36}/0{64}_openai_[A-Za-z0-9.!-]+_v1\.0\.json", key)
    assert vision_key(tenant, "0" * 64, provider="gigachat", model="GigaChat-2-Max").endswith(
        "_GigaChat-2-Max_v1.0.json"
    )
