"""A folder of pictures as a source of posts: every picture is a post without a text.

What is not here: whether a file really is a picture; its content tells that later.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from vision_assets.core.errors import ConfigurationError
from vision_assets.core.importing import Refused, Skipped
from vision_assets.core.posts import MediaReference, Message, channel_of
from vision_assets.core.tenants import TenantId

PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)


class PictureFolder:
    """All pictures below a folder.

    Attributes:
        name: The folder's resolved path.
        total_bytes: None: the folder is walked once.
        bytes_read: Size of the pictures found so far; they are not read yet.
    """

    total_bytes = None

    def __init__(self, path: Path) -> None:
        """Find the folder.

        Raises:
            ConfigurationError: There is no such folder.
        """
        if not path.is_dir():
            raise ConfigurationError(f"{path}: there is no such folder. Pass the folder that holds the pictures.")
        self._folder = path.resolve()
        self.name = str(self._folder)
        self.bytes_read = 0

    def records(self, tenant_id: TenantId) -> Iterator[Message | Skipped | Refused]:
        """Walk the folder, sorted by name. Links are refused: they may lead anywhere, and in circles."""
        # The whole path is the key: two folders may well have the same name and the same file names.
        channel = channel_of(tenant_id, f"folder:{self.name}", title=self._folder.name)
        for file in _files(self._folder):
            relative = file.relative_to(self._folder)
            if file.is_symlink():
                yield Refused(str(relative), "symbolic_link", f"{file}: a symbolic link. Put the file itself there.")
            elif file.suffix.lower() not in PICTURE_SUFFIXES or not file.is_file():
                yield Skipped("not_a_picture")
            else:
                try:
                    status = file.stat()
                except OSError as error:
                    yield Refused(str(relative), "unreadable", f"{file}: {error.strerror}. Allow reading it.")
                    continue
                self.bytes_read += status.st_size
                # 63 bits, so that it fits the signed column; from the path, so that every import finds the same post.
                message_id = int.from_bytes(sha256(os.fsencode(relative.as_posix())).digest()[:8]) >> 1
                yield Message(
                    channel=channel,
                    message_id=message_id,
                    posted_at=datetime.fromtimestamp(status.st_mtime, UTC),
                    picture=MediaReference(0, message_id, "photo", file.as_uri()),
                )


def _files(folder: Path) -> Iterator[Path]:
    """Walk a folder, and name everything in it but real folders."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in sorted(files + links):
            yield Path(place, name)
