"""Telegram Desktop exports go into the real Postgres."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.exports import account, chat, message, photo, video, write_export
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import PostgresPosts, ensure_tenant, find_tenant, list_tenants
from vision_assets.clients.telegram_export import TelegramExport
from vision_assets.core.errors import ExportInvalid, TenantUnknown
from vision_assets.core.importing import MAX_DEAD_LETTERS, ImportReport, import_posts
from vision_assets.core.tenants import Tenant


@dataclass(frozen=True)
class Importer:
    """One tenant, and an export's folder."""

    db: Database
    tenant: Tenant
    folder: Path

    async def run(self, content: dict[str, Any] | str, *, batch_size: int = 3) -> ImportReport:
        """Write an export and import it; the small batch lets every test cross its border."""
        if isinstance(content, str):
            (self.folder / "result.json").write_text(content, encoding="utf-8")
        else:
            write_export(self.folder, content)
        return await import_posts(
            self.tenant.id, TelegramExport(self.folder), store=PostgresPosts(self.db), batch_size=batch_size
        )

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database."""
        return [tuple(row) for row in await self.db.pool.fetch(query)]

    async def texts(self) -> list[str]:
        """Tell the texts of all posts, in the order of `seq`."""
        return [text for (text,) in await self.rows("SELECT text FROM posts ORDER BY seq")]

    async def media(self) -> list[tuple[Any, ...]]:
        """Tell message, position, role, state and reason of all references."""
        return await self.rows(
            "SELECT m.message_id, position, role, state, reason FROM post_media m JOIN posts p ON p.id = post_id"
            " ORDER BY seq, position"
        )


@pytest.fixture
async def importer(database: str, tmp_path: Path) -> AsyncIterator[Importer]:
    """Give a tenant in an empty database."""
    async with Database.open(database) as db:
        folder = tmp_path / "export"
        folder.mkdir()
        yield Importer(db, await ensure_tenant(db, "Ромашка"), folder)


async def test_posts_are_in_the_order_of_the_export(importer: Importer) -> None:
    """Texts of every form come in, in the export's order; what is no post is counted by its reason."""
    report = await importer.run(
        chat(
            [
                {"id": 1, "type": "service", "action": "create_channel", "text": ""},
                message(9, "девятое"),
                message(2, ["см. ", {"type": "text_link", "text": "сюда", "href": "https://example.org"}]),
                message(3, "🔥"),
                message(4, file="stickers/s.webp", media_type="sticker", mime_type="image/webp"),
                message(5, "голос", file="voice.ogg", media_type="voice_message", mime_type="audio/ogg"),
                {"id": 6, "type": "unsupported"},
                {"id": 7, "type": "hologram"},
                message(8, "нул\0евой", reactions=[{"type": "emoji", "count": 2, "emoji": "👍"}]),
                photo(10),
                message(11, file="files/скан.png", mime_type="image/png"),
            ]
        )
    )
    assert await importer.texts() == ["девятое", "см. сюда", "🔥", "голос", "нул\N{REPLACEMENT CHARACTER}евой", "", ""]
    assert await importer.media() == [(10, 0, "photo", "pending", None), (11, 0, "document", "pending", None)]
    assert report.skipped == {"service": 1, "no_text_or_picture": 1, "unsupported": 1, "unknown type hologram": 1}
    assert (report.messages_read, report.posts_new, report.media_new) == (11, 7, 2)
    assert await importer.rows("SELECT engagement FROM posts WHERE message_id = 8") == [
        ({"reactions": 2, "reactions_by_emoji": {"👍": 2}},)
    ]
    (uri,) = await importer.rows("SELECT source_uri FROM post_media WHERE message_id = 11")
    assert uri == ((importer.folder.resolve() / "files/скан.png").as_uri(),)


async def test_an_album_across_batches_is_one_post(importer: Importer) -> None:
    """Photos of one second become one post; a video in between carries no picture; the next photo stands alone."""
    report = await importer.run(
        chat([photo(1, at=0), video(2, at=0), photo(3, "подпись", at=1), photo(4, at=1, from_id="channel99")]),
        batch_size=1,
    )
    assert await importer.rows("SELECT message_id, grouped_id, album_inferred, text FROM posts ORDER BY seq") == [
        (1, 1, True, "подпись"),
        (4, None, False, ""),
    ]
    assert [row[:2] for row in await importer.media()] == [(1, 0), (3, 1), (4, 0)]
    assert report.albums_inferred == 1


async def test_the_second_import_changes_nothing(importer: Importer) -> None:
    """Everything is found again: nothing new, nothing updated, no row written twice."""
    content = chat([message(1, "раз"), photo(2, "два", at=0), photo(3, at=0), photo(4, photo="(File not included)")])
    await importer.run(content)
    everything = "SELECT * FROM posts p LEFT JOIN post_media m ON m.post_id = p.id ORDER BY seq, position"
    before = await importer.rows(everything)
    report = await importer.run(content)
    assert (report.posts_new, report.posts_updated, report.media_new, report.media_relocated) == (0, 0, 0, 0)
    assert report.posts_unchanged == 3
    assert await importer.rows(everything) == before


async def test_a_later_export_brings_edits_and_album_items(importer: Importer) -> None:
    """An edited text and new reactions are taken over, added album items are inserted, the rest is left."""
    await importer.run(chat([message(1, "было"), photo(2, at=0), message(5, "как есть")], name="Старое имя"))
    likes = [{"type": "emoji", "count": 1, "emoji": "👍"}]
    report = await importer.run(
        chat([message(1, "стало", reactions=likes), photo(2, at=0), photo(3, "подпись", at=0), message(5, "как есть")])
    )
    assert (report.posts_new, report.posts_updated, report.posts_unchanged, report.media_new) == (0, 2, 1, 1)
    assert await importer.texts() == ["стало", "подпись", "как есть"]
    assert await importer.rows("SELECT title FROM channels") == [("Канал",)]


async def test_a_full_export_has_all_chats(importer: Importer) -> None:
    """Chats stay apart although their messages share ids, and equal ids of a person and a channel are two chats."""
    report = await importer.run(
        account(
            [
                chat([message(1, "личное")], chat_id=7, type="personal_chat", name=None),
                chat([message(1, "канал")], chat_id=7),
                {"type": "personal_chat", "messages": [message(1, "ничьё")]},
            ],
            left=[chat([message(1, "покинутый")], chat_id=8)],
        )
    )
    assert await importer.rows(
        "SELECT source_key, title, text FROM posts p JOIN channels c ON c.id = channel_id ORDER BY seq"
    ) == [
        ("telegram:user7", "telegram:user7", "личное"),
        ("telegram:7", "Канал", "канал"),
        ("telegram:8", "Канал", "покинутый"),
    ]
    assert report.skipped == {"chat_without_id": 1}


@pytest.mark.parametrize(
    ("path", "state", "reason"),
    [
        ("(File not included. Change data exporting settings to download.)", "missing", "not_exported"),
        ("../secret.jpg", "rejected", "path_outside_export"),
        ("photos/../../secret.jpg", "rejected", "path_outside_export"),
        ("photos\\..\\..\\secret.jpg", "rejected", "path_outside_export"),
        ("/etc/passwd", "rejected", "path_outside_export"),
        ("C:\\secret.jpg", "rejected", "path_outside_export"),
        ("", "rejected", "path_outside_export"),
        ("link.jpg", "rejected", "symbolic_link"),
        ("linked/1.jpg", "rejected", "symbolic_link"),
        ("a\0b.jpg", "rejected", "invalid_path"),
        ("x" * 300, "rejected", "invalid_path"),
        ("photos/нет.jpg", "pending", None),
    ],
)
async def test_paths(importer: Importer, path: str, state: str, reason: str | None) -> None:
    """Only a path inside the export's folder, through no link, is ever to be read; the post comes in anyway."""
    (importer.folder / "inside.jpg").write_bytes(b"x")
    (importer.folder / "link.jpg").symlink_to(importer.folder / "inside.jpg")
    (importer.folder / "linked").symlink_to(importer.folder)
    await importer.run(chat([photo(1, "подпись", photo=path)]))
    assert await importer.media() == [(1, 0, "photo", state, reason)]
    (scheme,) = await importer.rows("SELECT split_part(source_uri, ':', 1) FROM post_media")
    assert scheme == ("file" if state == "pending" else "telegram",)


async def test_a_later_export_with_pictures_gives_the_missing_ones(importer: Importer) -> None:
    """What the first export left out is to do after the second, but what is stored already stays as it is."""
    left_out = "(File exceeds maximum size.)"
    await importer.run(chat([photo(1, photo=left_out), photo(2)]))
    await importer.db.pool.execute(
        "UPDATE post_media SET state = 'stored', sha256 = repeat('a', 64) WHERE message_id = 2"
    )
    report = await importer.run(chat([photo(1), photo(2, photo="elsewhere/2.jpg")]))
    assert await importer.media() == [(1, 0, "photo", "pending", None), (2, 0, "photo", "stored", None)]
    assert (report.media_new, report.media_relocated) == (0, 1)
    # An export without pictures takes nothing away again.
    assert (await importer.run(chat([photo(1, photo=left_out), photo(2, photo=left_out)]))).media_relocated == 0
    assert await importer.media() == [(1, 0, "photo", "pending", None), (2, 0, "photo", "stored", None)]


@pytest.mark.parametrize("damage", ["]", "\0", '"\\udc00"', ""], ids=["brackets", "NUL", "surrogate", "truncated"])
async def test_everything_before_invalid_json_is_kept(importer: Importer, damage: str) -> None:
    """The file breaks off inside an album: what was read is committed, and the failure is a dead letter with its place.

    The whole file imported later heals it: the album gets its items and the dead letter is resolved.
    """
    content = chat([message(1, "раз"), photo(2, at=0), photo(3, at=0), photo(4, "подпись", at=0), message(5, "пять")])
    text = json.dumps(content, ensure_ascii=False)
    cut = text.index('"id": 4')
    broken = text[:cut] + damage + (text[cut:] if damage else "")
    report = await importer.run(broken)
    assert report.failure is not None
    assert report.failure.reason == "invalid_json"
    assert [row[0] for row in await importer.media()] == [2, 3]
    file = str((importer.folder / "result.json").resolve())
    ((item, error_class, reason, explanation),) = await importer.rows(
        "SELECT item, error_class, reason, message FROM dead_letters WHERE stage = 'import' AND resolved_at IS NULL"
    )
    assert (item, error_class, reason) == (file, "ExportInvalid", "invalid_json")
    first, last = [int(word) for word in explanation.split() if word.isdigit()][:2]
    assert first <= len(broken[:cut].encode()) <= last
    assert file in explanation

    report = await importer.run(text)
    assert (report.failure, report.posts_new, report.posts_updated, report.media_new) == (None, 1, 1, 1)
    assert await importer.rows("SELECT 1 FROM dead_letters WHERE resolved_at IS NULL") == []


async def test_malformed_messages_go_to_the_dead_letters(importer: Importer) -> None:
    """Each becomes a dead letter that names it, and the import goes on; corrected later, they are resolved."""
    malformed = [
        message(1, {"not": "a list"}),
        message(2) | {"date": None, "date_unixtime": "soon"},
        {"type": "message", "date_unixtime": "1", "text": "без номера"},
        message(2**63, "слишком велик"),
        message(5, photo=["нет"]),
        message(6) | {"date_unixtime": "9" * 30},
        "не сообщение",
        message(7) | {"id": True},
        message(8) | {"type": 8},
    ]
    report = await importer.run(chat([*malformed, message(9, "годное")]))
    assert (report.dead_letters, report.failure) == (9, None)
    assert await importer.texts() == ["годное"]
    items = await importer.rows("SELECT split_part(item, '#', 2) FROM dead_letters ORDER BY id")
    assert [item for (item,) in items] == [
        "telegram:1234/1",
        "telegram:1234/2",
        "record 2",
        f"telegram:1234/{2**63}",
        "telegram:1234/5",
        "telegram:1234/6",
        "record 6",
        "record 7",
        "telegram:1234/8",
    ]
    await importer.run(chat([message(1, "исправлено"), *malformed[1:]]))
    ((resolved,),) = await importer.rows("SELECT item FROM dead_letters WHERE resolved_at IS NOT NULL")
    assert resolved.endswith("#telegram:1234/1")


async def test_dead_letters_are_bounded(importer: Importer) -> None:
    """A file that is wrong throughout is counted, but does not fill the table."""
    report = await importer.run(chat([message(number, 5) for number in range(1, 151)]))
    assert report.dead_letters == 150
    assert await importer.rows("SELECT count(*) FROM dead_letters") == [(MAX_DEAD_LETTERS,)]


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"a": 1}', '{"messages": []}', '{"id": "x", "messages": 5}'])
async def test_files_that_are_no_export(importer: Importer, content: str) -> None:
    """Other files are refused with a reason, and nothing is written but the dead letter."""
    report = await importer.run(content)
    assert report.failure is not None
    assert report.failure.reason in {"invalid_json", "not_an_export"}
    assert await importer.rows("SELECT 1 FROM posts") == []
    assert len(await importer.rows("SELECT 1 FROM dead_letters")) == 1


def test_a_folder_without_an_export(tmp_path: Path) -> None:
    """A wrong path is refused before anything is written."""
    with pytest.raises(ExportInvalid, match=r"result\.json"):
        TelegramExport(tmp_path)


async def test_two_tenants_import_the_same_export(importer: Importer, database: str) -> None:
    """Each tenant has posts of its own."""
    content = chat([photo(1, "общее")])
    await importer.run(content)
    other = Importer(importer.db, await ensure_tenant(importer.db, "Другой"), importer.folder)
    assert (await other.run(content)).posts_new == 1
    assert await importer.rows("SELECT count(DISTINCT id), count(DISTINCT tenant_id) FROM posts") == [(2, 2)]


async def test_tenants_are_made_once_and_found_by_name_or_id(importer: Importer) -> None:
    """A name in any form leads to the one tenant; an inactive one takes no imports."""
    db, odd = importer.db, "a'; DROP TABLE posts -- %s {x} $1 👩‍👩‍👧"
    made = await ensure_tenant(db, odd)
    assert await ensure_tenant(db, f"  {odd} ") == made == await find_tenant(db, odd)
    assert await find_tenant(db, str(made.id).upper()) == made
    assert [tenant.name for tenant in await list_tenants(db)] == sorted([odd, importer.tenant.name])
    await db.pool.execute("UPDATE tenants SET active = false WHERE id = $1", made.id)
    assert await list_tenants(db) == [importer.tenant]
    for call in (ensure_tenant(db, odd), find_tenant(db, odd), find_tenant(db, "нет такого"), find_tenant(db, "\0")):
        with pytest.raises(TenantUnknown):
            await call
