"""Posts of channels whose names are known, for tests of what depends on them. What is not here: assertions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vision_assets.core.importing import Refused, Skipped
from vision_assets.core.posts import MediaReference, Message, channel_of
from vision_assets.core.tenants import TenantId


@dataclass(frozen=True, slots=True)
class Posted:
    """One post as a `PostSource`; several pictures are an album.

    Attributes:
        channel: Its public name.
        message_id: The same again is an edit.
    """

    pictures: tuple[Path, ...]
    text: str = ""
    channel: str = "news"
    message_id: int = 1
    total_bytes: int | None = None
    bytes_read: int = 0

    @property
    def name(self) -> str:
        return f"{self.channel}/{self.message_id}"

    def records(self, tenant_id: TenantId) -> Iterator[Message | Skipped | Refused]:
        """Give the messages of the post."""
        channel = replace(channel_of(tenant_id, f"test:{self.channel}", title=self.channel), username=self.channel)
        for position, picture in enumerate(self.pictures):
            message_id = self.message_id + position
            yield Message(
                channel=channel,
                message_id=message_id,
                posted_at=datetime(2026, 11, 1, tzinfo=UTC),
                text="" if position else self.text,
                picture=MediaReference(0, message_id, "photo", picture.as_uri()),
                album_item=True,
            )
