"""The example exports are whole, licensed, small and hold every special case that their README promises."""

import hashlib
import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import imagehash
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDERS = {"City Walks": "city_walks", "Dev Digest": "dev_digest"}
PICTURE_SUFFIXES = {".jpg", ".png", ".webp"}
MOSCOW = timedelta(hours=3)
PLACEHOLDER = "(File not included. Change data exporting settings to download.)"
BROKEN = "city_walks/photos/photo_17@05-11-2026_19-00-00.jpg"


def _export(tenant: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((EXAMPLES / FOLDERS[tenant] / "result.json").read_text())
    return content


def _messages(tenant: str) -> dict[int, dict[str, Any]]:
    return {message["id"]: message for message in _export(tenant)["messages"]}


def _file(tenant: str, message_id: int) -> Path:
    message = _messages(tenant)[message_id]
    return EXAMPLES / FOLDERS[tenant] / str(message.get("photo") or message.get("file"))


def _pictures() -> set[str]:
    return {
        path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES
    }


def test_every_picture_has_a_licence_and_every_licence_a_picture() -> None:
    """A picture without a row may not be published; a row without a picture is a leftover."""
    rows = [line.split("|")[1:-1] for line in (EXAMPLES / "LICENSES.md").read_text().splitlines() if "| `" in line]
    listed = [row[0].strip(" `") for row in rows]
    assert Counter(listed) == Counter(_pictures())
    assert all(cell.strip() for row in rows for cell in row)


def test_pictures_are_few_and_small() -> None:
    """The repository stays small, and no file is one that we do not know of."""
    files = [path for path in EXAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert 25 <= len(_pictures()) <= 40
    others = {path.relative_to(EXAMPLES).as_posix() for path in files} - _pictures()
    assert others == {"README.md", "LICENSES.md", "queries.json", "city_walks/result.json", "dev_digest/result.json"}


@pytest.mark.parametrize("tenant", FOLDERS)
def test_export_is_as_telegram_desktop_writes_it(tenant: str) -> None:
    """Ids rise, both dates tell the same instant, and text and text_entities say the same."""
    export = _export(tenant)
    assert export["name"] == tenant
    assert list(export) == ["name", "type", "id", "messages"]
    ids = [message["id"] for message in export["messages"]]
    assert ids == sorted(set(ids))
    for message in export["messages"]:
        if message["type"] == "unsupported":
            assert list(message) == ["id", "type"]
            continue
        instant = datetime.fromtimestamp(int(message["date_unixtime"]), UTC)
        assert datetime.fromisoformat(message["date"] + "Z") == instant + MOSCOW
        text = message["text"] if isinstance(message["text"], list) else [message["text"]]
        plain = "".join(part if isinstance(part, str) else part["text"] for part in text)
        assert plain == "".join(entity["text"] for entity in message["text_entities"])


@pytest.mark.parametrize("tenant", FOLDERS)
def test_named_files_are_there_with_the_size_that_the_export_tells(tenant: str) -> None:
    """All but the broken and the two missing ones; and no file lies about that no message names."""
    folder = EXAMPLES / FOLDERS[tenant]
    named = set()
    for message in _messages(tenant).values():
        for key, size_key in (
            ("photo", "photo_file_size"),
            ("file", "file_size"),
            ("thumbnail", "thumbnail_file_size"),
        ):
            path = message.get(key)
            if path is None or path == PLACEHOLDER or not (folder / path).exists():
                continue
            named.add(f"{FOLDERS[tenant]}/{path}")
            if f"{FOLDERS[tenant]}/{path}" == BROKEN:
                continue
            assert (folder / path).stat().st_size == message[size_key]
            with Image.open(folder / path) as image:
                image.load()
                if key != "thumbnail":
                    assert image.size == (message["width"], message["height"])
    assert named == {picture for picture in _pictures() if picture.startswith(FOLDERS[tenant])}


@pytest.mark.parametrize("tenant", FOLDERS)
def test_photos_are_named_by_number_and_time(tenant: str) -> None:
    """`photo_<n>@<day>-<month>-<year>_<h>-<m>-<s>.jpg`, numbered in the order of the messages."""
    photos = [m for m in _messages(tenant).values() if m.get("photo", PLACEHOLDER) != PLACEHOLDER]
    for number, message in enumerate(photos, start=1):
        date = datetime.fromisoformat(message["date"])
        assert message["photo"] == f"photos/photo_{number}@{date:%d-%m-%Y_%H-%M-%S}.jpg"


def test_exactly_two_pictures_are_shared_by_the_tenants() -> None:
    """Everything else has bytes of its own: deduplication inside and between tenants can be counted."""
    holders: dict[str, list[str]] = {}
    for picture in sorted(_pictures()):
        digest = hashlib.sha256((EXAMPLES / picture).read_bytes()).hexdigest()
        holders.setdefault(digest, []).append(picture)
    shared = [pictures for pictures in holders.values() if len(pictures) > 1]
    assert sorted([Path(p).parts[0] for p in pictures] for pictures in shared) == [["city_walks", "dev_digest"]] * 2
    for city_walks, dev_digest in ((4, 7), (16, 14)):
        assert _file("City Walks", city_walks).read_bytes() == _file("Dev Digest", dev_digest).read_bytes()


@pytest.mark.parametrize(
    ("tenant", "original", "copy", "looks_alike"),
    [
        ("City Walks", 3, 18, True),
        ("City Walks", 5, 26, True),
        ("Dev Digest", 11, 16, True),
        ("Dev Digest", 6, 13, True),
        ("City Walks", 19, 27, False),
        ("Dev Digest", 19, 20, False),
    ],
    ids=["re-encoded", "scaled", "re-encoded too", "one price differs", "crop", "crop too"],
)
def test_copies_look_alike_and_crops_do_not(tenant: str, original: int, copy: int, looks_alike: bool) -> None:
    """Within six bits of pHash; so are the two price lists, which is why the hash alone must not decide."""
    with Image.open(_file(tenant, original)) as one, Image.open(_file(tenant, copy)) as other:
        distance_bits = int(imagehash.phash(one) - imagehash.phash(other))
    assert (distance_bits <= 6) is looks_alike


@pytest.mark.parametrize(("first", "last", "source"), [(7, 10, None), (21, 23, "Немецкие каникулы")])
def test_albums_can_be_inferred(first: int, last: int, source: str | None) -> None:
    """Consecutive ids, one second, one sender, one source, one caption, and neighbours that do not belong."""
    messages = _messages("City Walks")
    album = [messages[message_id] for message_id in range(first, last + 1)]
    assert len({message["date_unixtime"] for message in album}) == 1
    assert len({(message["from_id"], message.get("author")) for message in album}) == 1
    assert {message.get("forwarded_from") for message in album} == {source}
    assert [bool(message["text"]) for message in album] == [True] + [False] * (last - first)
    assert all("photo" in message for message in album)
    for neighbour in (first - 1, last + 1):
        assert messages[neighbour]["date_unixtime"] != album[0]["date_unixtime"]


def test_broken_picture_is_truncated_and_lies_in_an_album() -> None:
    """Its header can be read, its pixels cannot, and the export tells the size that it should have."""
    message = _messages("City Walks")[22]
    path = _file("City Walks", 22)
    assert path == EXAMPLES / BROKEN
    assert path.stat().st_size < message["photo_file_size"]
    with Image.open(path) as image:
        assert image.size == (message["width"], message["height"])
        with pytest.raises(OSError, match="truncated"):
            image.load()


def test_missing_pictures_are_missing() -> None:
    """One was not exported, one was lost."""
    assert _messages("City Walks")[20]["photo"] == PLACEHOLDER
    lost = _file("Dev Digest", 22)
    assert lost.suffix == ".jpg"
    assert not lost.exists()


def test_messages_that_are_not_pictures() -> None:
    """Services, a sticker, an unsupported message, text, entities, emoji, an edit and reactions."""
    city, dev = _messages("City Walks"), _messages("Dev Digest")
    assert [m["id"] for m in city.values() if m["type"] == "service"] == [1, 30]
    assert [m["id"] for m in dev.values() if m["type"] == "service"] == [1]
    assert dev[23]["type"] == "unsupported"
    assert dev[10]["media_type"] == "sticker"
    assert not {"photo", "file"} & (city[29].keys() | dev[5].keys() | dev[24].keys())
    assert not re.search(r"\w", city[13]["text"])
    kinds = {entity["type"] for message in (city[2], dev[2]) for entity in message["text_entities"]}
    assert kinds == {"plain", "bold", "text_link", "email", "hashtag", "code"}
    assert "edited_unixtime" in city[2]
    assert city[3]["reactions"] == [
        {"type": "emoji", "count": 58, "emoji": "❤"},
        {"type": "emoji", "count": 12, "emoji": "🔥"},
    ]


@pytest.mark.parametrize(("tenant", "message_id"), [("City Walks", 25), ("Dev Digest", 18)])
def test_pictures_sent_as_files(tenant: str, message_id: int) -> None:
    """An image's mime type and no media type; one of them has a thumbnail, which is not media."""
    message = _messages(tenant)[message_id]
    assert message["mime_type"] == "image/png"
    assert message["file"] == f"files/{message['file_name']}"
    assert "media_type" not in message
    assert ("thumbnail" in message) == (tenant == "Dev Digest")


def test_queries_name_posts() -> None:
    """At least three for each tenant; an album is named by its first message."""
    queries = json.loads((EXAMPLES / "queries.json").read_text())
    assert queries.keys() == FOLDERS.keys()
    for tenant, asked in queries.items():
        assert len(asked) >= 3
        messages = _messages(tenant)
        for item in asked:
            assert item.keys() - {"needs_ocr"} == {"query", "expect_message_id"}
            assert messages[item["expect_message_id"]]["text"]
