"""A folder of pictures goes into the real Postgres."""

import os
from pathlib import Path

import pytest

from vision_assets.clients.picture_folder import PictureFolder
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import PostgresPosts, ensure_tenant
from vision_assets.core.errors import ConfigurationError
from vision_assets.core.importing import import_posts


async def test_every_picture_is_a_post(database: str, tmp_path: Path) -> None:
    """Pictures come in sorted, without a text, dated by the file; links and other files do not."""
    folder = tmp_path / "кадры"
    (folder / "b").mkdir(parents=True)
    for name in ("z.PNG", "a.jpg", "b/один.webp", "notes.txt"):
        (folder / name).write_bytes(b"not looked at")
    os.utime(folder / "a.jpg", (1_700_000_000, 1_700_000_000))
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    (folder / "loop").symlink_to(folder)
    async with Database.open(database) as db:
        tenant = await ensure_tenant(db, "Ромашка")
        for posts_new in (3, 0):
            report = await import_posts(tenant.id, PictureFolder(folder), store=PostgresPosts(db))
            assert (report.posts_new, report.posts_updated, report.dead_letters) == (posts_new, 0, 2)
            assert report.skipped == {"not_a_picture": 1}
        posts = await db.pool.fetch(
            "SELECT source_uri, text, extract(epoch FROM posted_at)::bigint AS at, source_key, title FROM posts p"
            " JOIN channels c ON c.id = p.channel_id JOIN post_media m ON m.post_id = p.id ORDER BY seq"
        )
        letters = await db.pool.fetch("SELECT item, reason, attempts FROM dead_letters ORDER BY item")
    root = folder.resolve()
    assert [post["source_uri"] for post in posts] == [
        (root / name).as_uri() for name in ("a.jpg", "z.PNG", "b/один.webp")
    ]
    assert (posts[0]["text"], posts[0]["at"]) == ("", 1_700_000_000)
    assert (posts[0]["source_key"], posts[0]["title"]) == (f"folder:{root}", "кадры")
    assert [tuple(letter) for letter in letters] == [
        (f"{root}#{name}", "symbolic_link", 2) for name in ("link.jpg", "loop")
    ]


def test_no_folder(tmp_path: Path) -> None:
    """A wrong path is refused before anything is written."""
    with pytest.raises(ConfigurationError, match="no such folder"):
        PictureFolder(tmp_path / "нет")
