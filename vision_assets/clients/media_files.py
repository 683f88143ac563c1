"""Pictures on this machine's disk, as imports refer to them.

What is not here: which files an import may refer to (`telegram_export.py`, `picture_folder.py`).
"""

import asyncio
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vision_assets.core.errors import InputRejected, MediaMissing


class LocalFiles:
    """Reads `file://` references; implements `core.media.MediaSource`."""

    async def read(self, source_uri: str, *, limit_bytes: int) -> bytes:
        """See `core.media.MediaSource.read`."""
        return await asyncio.to_thread(_read, source_uri, limit_bytes)


def _read(source_uri: str, limit_bytes: int) -> bytes:
    path = _path(source_uri)
    try:
        # The importer resolved the path; a link that came later must not lead out of the export.
        if Path(os.path.realpath(path)) != path:
            raise MediaMissing(
                f"{path} is or lies behind a symbolic link; put the file itself there", reason="symbolic_link"
            )
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise IsADirectoryError
            if status.st_size > limit_bytes:
                raise InputRejected(
                    "too_many_bytes",
                    f"{path} has {status.st_size} bytes, at most {limit_bytes} are taken; send it smaller",
                )
            return file.read(limit_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaMissing(f"{path} is not there; put it there and run again") from error
    except IsADirectoryError as error:  # or a pipe, a device, a socket
        raise MediaMissing(f"{path} is not a regular file; put the file itself there", reason="not_a_file") from error
    except OSError as error:
        raise MediaMissing(
            f"{path} cannot be read: {error.strerror}; make it readable and run again", reason="unreadable"
        ) from error


def _path(source_uri: str) -> Path:
    try:
        parts = urlsplit(source_uri)
    except ValueError:
        parts = urlsplit("")
    path = url2pathname(parts.path)
    if parts.scheme != "file" or parts.netloc or not path or "\0" in path:
        raise InputRejected("not_a_file", f"{source_uri} is not a file:// reference to a file of this machine")
    return Path(path)
