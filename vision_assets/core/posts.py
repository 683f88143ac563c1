"""What a post and its picture references are, and how they are made from single messages: pure functions.

Every source brings `Message`s; albums are inferred from their order, and each group becomes one `Post`.
What is not here: reading a source (`clients/`), and the flow of an import (`importing.py`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid5

from vision_assets.core.tenants import TenantId

ALBUM_MAX_ITEMS = 10
ALBUM_MAX_SPREAD = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Channel:
    """Where posts stand: a Telegram chat, or a folder of pictures.

    Attributes:
        source_key: Identity inside its source, for example `telegram:1234`.
        title: For people; may change.
        username: Public name without `@`; an export does not tell it.
    """

    id: UUID
    source_key: str
    title: str
    username: str | None = None


@dataclass(frozen=True, slots=True)
class MediaReference:
    """A picture that a post refers to; whether it can be read shows later.

    Attributes:
        position: Place among the post's pictures, from 0.
        message_id: The album item's own message.
        source_uri: Where the bytes are; `telegram:<chat>/<message>` where the source did not give them.
        reason: Machine-readable code of a state other than `pending`.
        error: The same for people.
    """

    position: int
    message_id: int
    role: Literal["photo", "document"]
    source_uri: str
    state: Literal["pending", "missing", "rejected"] = "pending"
    reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message as a source has it, before albums are inferred.

    Attributes:
        posted_at: Aware UTC.
        author: Whatever tells one author from another.
        forwarded_from: Whatever tells one forward source from another.
        picture: Its picture, if it has one.
        album_item: A photo or a video: what Telegram groups into albums.
    """

    channel: Channel
    message_id: int
    posted_at: datetime
    text: str = ""
    author: str | None = None
    forwarded_from: str | None = None
    picture: MediaReference | None = None
    album_item: bool = False
    engagement: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Post:
    """A message, or the messages of one album.

    Attributes:
        message_id: Of the first message.
        grouped_id: Of an album: the first message's id, because an export does not tell Telegram's own.
        engagement: `reactions` and `reactions_by_emoji`, or empty.
    """

    id: UUID
    channel: Channel
    message_id: int
    posted_at: datetime
    text: str
    media: tuple[MediaReference, ...]
    grouped_id: int | None = None
    album_inferred: bool = False
    engagement: dict[str, Any] = field(default_factory=dict)


def channel_of(tenant_id: TenantId, source_key: str, *, title: str) -> Channel:
    """Make a channel with an id that is the same in every import of this tenant, and in no other tenant."""
    source_key = storable(source_key)
    return Channel(uuid5(tenant_id, f"channel:{source_key}"), source_key, storable(title).strip() or source_key)


def post_id(channel: Channel, message_id: int) -> UUID:
    """Tell the id of a post: the same in every import, and through its channel the tenant's own."""
    return uuid5(channel.id, f"post:{message_id}")


def storable(text: str) -> str:
    """Replace what Postgres refuses in a text, NUL and lone surrogates, so that one character cannot break a batch."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def flatten_text(text: object) -> str:
    """Join a message's text as Telegram Desktop writes it: a string, or a list of strings and entities.

    Raises:
        ValueError: It is neither.
    """
    plain: list[str] = []
    for part in text if isinstance(text, list) else [text]:
        content = part.get("text") if isinstance(part, dict) else part
        if not isinstance(content, str):
            raise ValueError("text: neither a string nor a list of strings and entities")
        plain.append(content)
    return storable("".join(plain))


def engagement_of(reactions: object) -> dict[str, Any]:
    """Count a message's reactions, together and by emoji; whatever cannot be understood is left out.

    Custom emoji have no character: they count as `custom_emoji`, paid stars as `paid`.
    """
    by_emoji: Counter[str] = Counter()
    for reaction in reactions if isinstance(reactions, list) else []:
        if isinstance(reaction, dict) and isinstance(count := reaction.get("count"), int) and count > 0:
            by_emoji[storable(str(reaction.get("emoji") or reaction.get("type")))] += count
    return _engagement(by_emoji)


def infer_albums(messages: Iterable[Message]) -> Iterator[tuple[Message, ...]]:
    """Group messages, in their order, by the album that they belong to; most groups have one message."""
    group: list[Message] = []
    for message in messages:
        if group and not _continues_album(group, message):
            yield tuple(group)
            group = []
        group.append(message)
    if group:
        yield tuple(group)


def post_of(group: Sequence[Message]) -> Post | None:
    """Make one post of a group; None when there is neither a text nor a picture."""
    first = group[0]
    text = next((message.text for message in group if message.text.strip()), "")
    pictures = [message.picture for message in group if message.picture]
    if not text and not pictures:
        return None
    is_album = len(group) > 1
    by_emoji: Counter[str] = Counter()
    for message in group:
        by_emoji.update(message.engagement.get("reactions_by_emoji", {}))
    return Post(
        id=post_id(first.channel, first.message_id),
        channel=first.channel,
        message_id=first.message_id,
        posted_at=first.posted_at,
        text=text,
        media=tuple(replace(picture, position=position) for position, picture in enumerate(pictures)),
        grouped_id=first.message_id if is_album else None,
        album_inferred=is_album,
        engagement=_engagement(by_emoji),
    )


def _continues_album(group: Sequence[Message], message: Message) -> bool:
    """Apply the rule: an export has no album id, so neighbours must agree in everything that an album shares."""
    first, last = group[0], group[-1]
    return (
        first.album_item
        and message.album_item
        and len(group) < ALBUM_MAX_ITEMS
        and message.channel.id == first.channel.id
        and message.message_id == last.message_id + 1
        and message.author == first.author
        and message.forwarded_from == first.forwarded_from
        and abs(message.posted_at - first.posted_at) <= ALBUM_MAX_SPREAD
        and not (message.text.strip() and any(item.text.strip() for item in group))
    )


def _engagement(by_emoji: Counter[str]) -> dict[str, Any]:
    return {"reactions": by_emoji.total(), "reactions_by_emoji": dict(by_emoji)} if by_emoji else {}
