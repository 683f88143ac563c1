"""Posts are made of messages by pure functions."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_assets.core.errors import ConfigurationError
from vision_assets.core.importing import tenant_name
from vision_assets.core.posts import (
    MediaReference,
    Message,
    channel_of,
    engagement_of,
    flatten_text,
    infer_albums,
    post_id,
    post_of,
)
from vision_assets.core.tenants import TenantId

TENANT = TenantId(UUID(int=1))
CHANNEL = channel_of(TENANT, "telegram:1", title="Канал")
START = datetime(2024, 3, 1, tzinfo=UTC)


def item(message_id: int, text: str = "", *, seconds: int = 0, author: str = "a", forwarded: str = "") -> Message:
    """Build a message with a photo."""
    picture = MediaReference(0, message_id, "photo", f"file:///{message_id}.jpg")
    at = START + timedelta(seconds=seconds)
    return Message(CHANNEL, message_id, at, text, author, forwarded, picture, album_item=True)


def grouped(*messages: Message) -> list[list[int]]:
    """Tell the message ids of each group."""
    return [[message.message_id for message in group] for group in infer_albums(messages)]


@pytest.mark.parametrize(
    ("text", "flat"),
    [
        ("просто", "просто"),
        ("", ""),
        ("🔥🔥", "🔥🔥"),
        (["см. ", {"type": "link", "text": "example.org"}, {"type": "bold", "text": "!"}], "см. example.org!"),
        ([], ""),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
    ],
)
def test_flatten_text(text: object, flat: str) -> None:
    """A text is a string or a list of strings and entities; what Postgres refuses is replaced."""
    assert flatten_text(text) == flat


@pytest.mark.parametrize("text", [None, 5, {"type": "bold"}, ["a", 5], [{"text": None}]])
def test_flatten_text_refuses_other_types(text: object) -> None:
    """Any other type is refused, never turned into its `repr`."""
    with pytest.raises(ValueError, match="text"):
        flatten_text(text)


def test_one_album_becomes_one_post() -> None:
    """Consecutive photos of one second are one post with the one caption, the first id and all reactions."""
    first, second = item(7), item(8, "подпись", seconds=1)
    (group,) = infer_albums([first, second])
    post = post_of(group)
    assert post is not None
    assert (post.message_id, post.grouped_id, post.album_inferred, post.text) == (7, 7, True, "подпись")
    assert [(picture.position, picture.message_id) for picture in post.media] == [(0, 7), (1, 8)]


@pytest.mark.parametrize(
    "second",
    [
        item(2, seconds=2),
        item(3),
        item(2, "вторая подпись"),
        item(2, author="b"),
        item(2, forwarded="c"),
        Message(CHANNEL, 2, START, "текст", "a", ""),
        Message(channel_of(TENANT, "telegram:2", title=""), 2, START, "", "a", "", None, album_item=True),
    ],
    ids=["time gap", "id gap", "two captions", "other author", "other forward source", "no picture", "other chat"],
)
def test_neighbours_that_are_no_album(second: Message) -> None:
    """Messages that differ in what an album shares stay apart."""
    assert len(grouped(item(1, "подпись"), second)) == 2


def test_an_album_has_at_most_ten_items() -> None:
    """The eleventh photo begins a new post."""
    assert grouped(*(item(number) for number in range(1, 13))) == [list(range(1, 11)), [11, 12]]


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2), st.booleans(), st.sampled_from(["", "x"]))))
def test_grouping_loses_nothing(steps: list[tuple[int, int, bool, str]]) -> None:
    """Whatever comes in, every message is in exactly one group, in order, and no group has two captions."""
    messages, message_id, seconds = [], 0, 0
    for id_step, second_step, is_item, text in steps:
        message_id, seconds = message_id + id_step, seconds + second_step
        at = START + timedelta(seconds=seconds)
        messages.append(Message(CHANNEL, message_id, at, text, album_item=is_item))
    groups = list(infer_albums(messages))
    assert [message for group in groups for message in group] == messages
    assert all(len(group) <= 10 and sum(bool(message.text) for message in group) <= 1 for group in groups)


def test_nothing_to_say_is_no_post() -> None:
    """A sticker without a text becomes nothing; white space is no text."""
    assert post_of([Message(CHANNEL, 1, START, " \n")]) is None


def test_ids_are_the_same_in_every_import_and_differ_between_tenants() -> None:
    """Another import finds its posts again; another tenant's import of the same chat never meets them."""
    other = channel_of(TenantId(UUID(int=2)), "telegram:1", title="Канал")
    renamed = channel_of(TENANT, "telegram:1", title="Новое имя")
    assert CHANNEL.id == renamed.id != other.id
    assert post_id(CHANNEL, 5) == post_id(renamed, 5) != post_id(other, 5)


def test_engagement_counts_by_emoji() -> None:
    """Reactions are summed; what is not one is left out."""
    reactions = [
        {"type": "emoji", "count": 3, "emoji": "👍"},
        {"type": "custom_emoji", "count": 2, "document_id": "stickers/1.webp"},
        {"type": "paid", "count": 1},
        {"type": "emoji", "count": "many", "emoji": "👎"},
        "?",
    ]
    assert engagement_of(reactions) == {
        "reactions": 6,
        "reactions_by_emoji": {"👍": 3, "custom_emoji": 2, "paid": 1},
    }
    assert engagement_of(None) == {}


@pytest.mark.parametrize("name", ["ООО «Ромашка»", "a/b:c'; DROP TABLE posts --", "👩‍👩‍👧", "%s {x} $1", "х" * 200])
def test_odd_tenant_names_are_taken(name: str) -> None:
    """Any visible characters may stand in a tenant's name."""
    assert tenant_name(f"  {name}\n") == name


def test_tenant_names_have_one_form() -> None:
    """The same name in two Unicode forms is one tenant."""
    assert tenant_name("Кафе\u0301 й") == tenant_name("Кафе\u0301 и\u0306")


@pytest.mark.parametrize(
    "name",
    ["00000000-0000-4000-8000-000000000001", "", " \t", "\u200b", "a\0b", "a\nb", "a\u2028b", "\ud800x", "х" * 201],
)
def test_impossible_tenant_names(name: str) -> None:
    """Names that cannot be seen or stored are refused."""
    with pytest.raises(ConfigurationError):
        tenant_name(name)
