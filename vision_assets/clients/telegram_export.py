"""Telegram Desktop's JSON export, read as a stream: one chat, or the whole account.

A message is held in memory, never the file. What is not here: albums and ids (`core/posts.py`), the pictures' bytes.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import ijson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vision_assets.core.errors import ExportInvalid
from vision_assets.core.importing import Refused, Skipped
from vision_assets.core.posts import (
    Channel,
    MediaReference,
    Message,
    channel_of,
    engagement_of,
    flatten_text,
    storable,
)
from vision_assets.core.tenants import TenantId

READ_BYTES = 512
"""Fed to the parser at once: no slower than larger pieces, and it bounds where an error is."""

CHATS = ("", "chats.list.item", "left_chats.list.item")
"""Where a chat may stand: the whole file, or a member of the full export's lists."""

KINDS = {"personal_chat": "user", "bot_chat": "user", "saved_messages": "user", "private_group": "chat"}
"""Ids of people, basic groups and channels are counted apart, so equal numbers need not be the same chat."""

EXPORT_AGAIN = "In Telegram Desktop choose Export chat history, format Machine-readable JSON"


class _Message(BaseModel):
    """The fields in use. `from_id` was a number in old exports; reactions are read leniently."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: int = Field(ge=-(2**63), lt=2**63)
    date: str | None = None
    date_unixtime: str | int | None = None
    from_id: str | int | None = None
    author: str | None = None
    forwarded_from: str | None = None
    forwarded_from_id: str | int | None = None
    text: Any = ""
    reactions: Any = None
    photo: str | None = None
    file: str | None = None
    media_type: str | None = None
    mime_type: str | None = None

    def posted_at(self) -> datetime:
        """Tell when it was posted. `date` has no zone and is taken as UTC: only very old exports lack the other.

        Raises:
            ValueError: Neither field tells a time.
        """
        try:
            if self.date_unixtime is not None:
                return datetime.fromtimestamp(int(self.date_unixtime), UTC)
            date = datetime.fromisoformat(self.date or "")
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError("date: neither date_unixtime nor date tells a time") from error
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)


class TelegramExport:
    """One export on disk.

    Attributes:
        name: The file's resolved path.
        total_bytes: Its size.
        bytes_read: How far the reading is.
    """

    def __init__(self, path: Path) -> None:
        """Find the export's file.

        Args:
            path: `result.json`, or the folder that holds it.

        Raises:
            ExportInvalid: There is no such file.
        """
        file = path / "result.json" if path.is_dir() else path
        if not file.is_file():
            raise ExportInvalid("not_found", f"{file}: there is no such file. {EXPORT_AGAIN}, and pass its folder.")
        self._file = file.resolve()
        self.name = str(self._file)
        self.total_bytes = self._file.stat().st_size
        self.bytes_read = 0

    def records(self, tenant_id: TenantId) -> Iterator[Message | Skipped | Refused]:
        """Read all chats from the beginning, in the export's order.

        Raises:
            ExportInvalid: It is no JSON to its end (`invalid_json`), or no export of Telegram (`not_an_export`).
        """
        chats = _Chats(tenant_id)
        with self._file.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":  # a byte order mark, as some editors write
                file.seek(0)
            try:
                events = chats.follow(ijson.parse(file, buf_size=READ_BYTES))
                for index, raw in enumerate(ijson.items(events, "message")):
                    self.bytes_read = file.tell()
                    yield self._record(raw, channel=chats.current, index=index)
            except (ijson.JSONError, UnicodeDecodeError) as error:
                end = file.tell()
                raise ExportInvalid(
                    "invalid_json",
                    f"{self.name}: not valid JSON between bytes {max(0, end - READ_BYTES)} and {end} of"
                    f" {self.total_bytes} ({_first_line(error)}). What comes before is imported. {EXPORT_AGAIN}, and"
                    " import it again: what is there already is not doubled.",
                ) from error
            self.bytes_read = self.total_bytes
        if not chats.found:
            raise ExportInvalid(
                "not_an_export",
                f"{self.name}: JSON, but no export of Telegram: there is no chat with id and messages. {EXPORT_AGAIN}.",
            )

    def _record(self, raw: Any, *, channel: Channel | None, index: int) -> Message | Skipped | Refused:
        if channel is None:
            return Skipped("chat_without_id")
        kind = raw.get("type") if isinstance(raw, dict) else None
        if isinstance(kind, str) and kind != "message":
            return Skipped(kind if kind in {"service", "unsupported"} else f"unknown type {storable(kind)[:40]}")
        try:
            if kind != "message":
                raise ValueError("not an object with a type")
            message = _Message.model_validate(raw)
            return Message(
                channel=channel,
                message_id=message.id,
                posted_at=message.posted_at(),
                text=flatten_text(message.text),
                author=f"{message.from_id} {message.author}",
                forwarded_from=f"{message.forwarded_from_id} {message.forwarded_from}",
                picture=self._picture(message, channel),
                album_item=message.photo is not None or message.media_type == "video_file",
                engagement=engagement_of(message.reactions),
            )
        except ValueError as error:
            number = raw.get("id") if isinstance(raw, dict) else None
            # Without an id the place in the file is what tells it from the others.
            item = f"{channel.source_key}/{number}" if type(number) is int else f"record {index}"
            return Refused(
                item[:200], "malformed_message", f"{self.name}: {item[:200]}: {_first_line(error)}. {EXPORT_AGAIN}."
            )

    def _picture(self, message: _Message, channel: Channel) -> MediaReference | None:
        """Tell the message's picture. A sticker, a video and the like have a `media_type`: they are none."""
        role: Literal["photo", "document"] = "photo"
        path = message.photo
        if path is None and message.media_type is None and (message.mime_type or "").startswith("image/"):
            role, path = "document", message.file
        if path is None:
            return None

        def unusable(state: Literal["missing", "rejected"], reason: str, error: str) -> MediaReference:
            # The path is not to be read, so it is no part of the URI.
            identity = f"{channel.source_key}/{message.id}"
            text = storable(f"{identity}: {path[:200]!r}: {error}")
            return MediaReference(0, message.id, role, identity, state, reason, text)

        if path.startswith("(File "):
            return unusable(
                "missing", "not_exported", "not part of the export. Export again with photos and a higher size limit."
            )
        refusal = self._refusal(path)
        if refusal:
            return unusable("rejected", *refusal)
        return MediaReference(0, message.id, role, (self._file.parent / path).as_uri())

    def _refusal(self, path: str) -> tuple[str, str] | None:
        """Tell why a path must not be read; None where it may. Whether there is a file shows at reading time."""
        posix, windows = PurePosixPath(path), PureWindowsPath(path)
        if posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts) or not posix.parts:
            return "path_outside_export", "the path leaves the export's folder. Put the file into it."
        invalid = "invalid_path", "no file can have this name."
        if "\0" in path:
            return invalid
        place = self._file.parent
        try:
            for part in posix.parts:
                place /= part
                if place.is_symlink():
                    return "symbolic_link", "the path goes through a symbolic link. Put the file itself there."
        except OSError:  # too long
            return invalid
        return None


class _Chats:
    """Follows the parser through the chats, and gives all messages one prefix."""

    def __init__(self, tenant_id: TenantId) -> None:
        """Begin outside of any chat.

        Args:
            tenant_id: Whose channels they become.
        """
        self.current: Channel | None = None
        self.found = False
        self._tenant_id = tenant_id
        self._header: dict[str, Any] = {}

    def follow(self, events: Iterable[tuple[str, str, Any]]) -> Iterator[tuple[str, str, Any]]:
        """Pass the parser's events on; those of messages begin with the prefix `message`."""
        roles = {".".join(filter(None, (chat, key))): key for chat in CHATS for key in ("id", "name", "type")}
        roles |= dict.fromkeys(CHATS, "chat")
        roles |= {f"{chat}.messages".lstrip("."): "messages" for chat in CHATS}
        roles |= {f"{chat}.messages.item".lstrip("."): "message" for chat in CHATS}
        for prefix, event, value in events:
            role = roles.get(prefix)
            if role == "message":
                yield role, event, value
                continue
            if role == "chat" and event == "start_map":
                self._header = {}
            elif role == "messages" and event == "start_array":
                self._open()
            elif role is not None:
                self._header[role] = value
            yield prefix, event, value

    def _open(self) -> None:
        chat_id, name, kind = (self._header.get(key) for key in ("id", "name", "type"))
        self.current = None
        if type(chat_id) is int:  # a bool is an int, too
            self.found = True
            key = f"telegram:{KINDS.get(str(kind), '')}{chat_id}"
            self.current = channel_of(self._tenant_id, key, title=name if isinstance(name, str) else "")


def _first_line(error: Exception) -> str:
    """Tell what is wrong, without the parser's excerpt of the file and without the validator's links."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return re.sub(r"^b['\"]", "", str(error)).replace("\\n", "\n").splitlines()[0].strip()
