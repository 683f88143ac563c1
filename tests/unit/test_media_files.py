"""What may be read of this machine's disk, and how what may not is told."""

import os
from pathlib import Path

import pytest

from vision_assets.clients.media_files import LocalFiles
from vision_assets.core.errors import InputRejected, MediaMissing


async def read(uri: str, *, limit_bytes: int = 100) -> bytes:
    """Read a reference."""
    return await LocalFiles().read(uri, limit_bytes=limit_bytes)


async def test_reads_a_file_of_any_name(tmp_path: Path) -> None:
    """Spaces, percent signs and Cyrillic are part of the name."""
    path = tmp_path / "фото 100%.jpg"
    path.write_bytes(b"picture")
    assert await read(path.as_uri()) == b"picture"


async def test_what_may_come_later(tmp_path: Path) -> None:
    """No file, a link, a link on the way, a folder: nothing usable now, and each says why."""
    (tmp_path / "real.jpg").write_bytes(b"picture")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "real.jpg")
    (tmp_path / "way").symlink_to(tmp_path)
    reasons = {
        "none.jpg": "missing",
        "real.jpg/below.jpg": "missing",
        "link.jpg": "symbolic_link",
        "way/real.jpg": "symbolic_link",
        "folder": "not_a_file",
    }
    for name, reason in reasons.items():
        with pytest.raises(MediaMissing, match=str(tmp_path)) as caught:
            await read((tmp_path / name).as_uri())
        assert caught.value.reason == reason


async def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    """A named pipe without a writer is refused at once."""
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(MediaMissing) as caught:
        await read((tmp_path / "pipe.jpg").as_uri())
    assert caught.value.reason == "not_a_file"


async def test_too_large_is_not_read(tmp_path: Path) -> None:
    """The size is looked at before the bytes; at the limit it is taken."""
    path = tmp_path / "large.jpg"
    path.write_bytes(bytes(101))
    with pytest.raises(InputRejected, match="101 bytes"):
        await read(path.as_uri())
    path.write_bytes(bytes(100))
    assert len(await read(path.as_uri())) == 100


@pytest.mark.parametrize(
    "uri",
    ["https://example.org/a.jpg", "file://host/a.jpg", "file:///a%00b.jpg", "file://[x/a.jpg", "telegram:1/2", ""],
)
async def test_no_reference_to_a_file(uri: str) -> None:
    """Whatever else stands in the database is refused, not tried."""
    with pytest.raises(InputRejected) as caught:
        await read(uri)
    assert caught.value.reason == "not_a_file"
