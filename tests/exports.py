"""Builders of synthetic Telegram Desktop exports. What is not here: assertions."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

START_UNIXTIME = 1_700_000_000
CHAT_ID = 1234


def message(message_id: int, text: Any = "", *, at: int | None = None, **fields: Any) -> dict[str, Any]:
    """Build a message; `at` is its second after the first one, by default far enough from its neighbours."""
    seconds = message_id * 60 if at is None else at
    return {
        "id": message_id,
        "type": "message",
        "date": "2023-11-14T22:13:20",
        "date_unixtime": str(START_UNIXTIME + seconds),
        "from": "Канал",
        "from_id": f"channel{CHAT_ID}",
        "text": text,
        **fields,
    }


def photo(message_id: int, text: Any = "", *, at: int | None = None, **fields: Any) -> dict[str, Any]:
    """Build a message with a photo, which need not be on disk."""
    return message(message_id, text, at=at) | {"photo": f"photos/photo_{message_id}.jpg"} | fields


def video(message_id: int, text: Any = "", *, at: int | None = None, **fields: Any) -> dict[str, Any]:
    """Build a message with a video."""
    path = f"video_files/{message_id}.mp4"
    return message(message_id, text, at=at, file=path, media_type="video_file", mime_type="video/mp4", **fields)


def chat(messages: Iterable[Any], *, chat_id: int = CHAT_ID, **fields: Any) -> dict[str, Any]:
    """Build the export of one chat."""
    return {"name": "Канал", "type": "public_channel", "id": chat_id, **fields, "messages": list(messages)}


def account(chats: Iterable[dict[str, Any]], *, left: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    """Build a full export."""
    return {
        "about": "…",
        "personal_information": {"user_id": 1, "first_name": "Иван"},
        "contacts": {"about": "…", "list": [{"first_name": "Пётр", "user_id": 2}]},
        "chats": {"about": "…", "list": list(chats)},
        "left_chats": {"about": "…", "list": list(left)},
    }


def write_export(folder: Path, content: dict[str, Any]) -> Path:
    """Write an export as Telegram Desktop does, and tell its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "result.json"
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return file


def write_large_export(file: Path, *, messages: int = 200_000) -> None:
    """Write the export of a busy channel as a stream: texts with entities, reactions, albums of five photos."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write(f'{{"name": "Большой канал", "type": "public_channel", "id": {CHAT_ID}, "messages": [\n')
        for number in range(1, messages + 1):
            paragraph = f"Новость {number}: завтра в районе отключат воду, запасайтесь заранее. "
            text = [paragraph * 3, {"type": "link", "text": f"https://example.org/{number}"}, " ", paragraph]
            reactions = [{"type": "emoji", "count": number % 7 + 1, "emoji": "👍"}]
            fields: dict[str, Any] = {
                "text_entities": [{"type": "plain", "text": paragraph * 4}],
                "reactions": reactions,
            }
            item = (
                photo(number, "" if number % 5 else text, at=number // 5 * 600, **fields)
                if number % 25 < 5
                else message(number, text, **fields)
            )
            stream.write((",\n" if number > 1 else "") + json.dumps(item, ensure_ascii=False))
        stream.write("\n]}")
