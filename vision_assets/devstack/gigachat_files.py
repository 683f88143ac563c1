"""The files of the emulated GigaChat: they stay until somebody deletes them, as at the real one.

What does not belong here: HTTP (`gigachat_plain.py`).
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from vision_assets.devstack.gigachat_sight import FORMATS, Sight

MAX_BYTES = 15 * 10**6
TYPES = frozenset(FORMATS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An uploaded picture.

    Attributes:
        account: The client id of the owner; nobody else sees it.
        tenant: The `X-Client-ID` of the upload.
        created_at: Seconds since 1970.
    """

    content: bytes = field(repr=False)
    filename: str
    sight: Sight
    account: str
    tenant: str
    created_at: int
    id: str = field(default_factory=lambda: str(uuid4()))

    @property
    def sha256(self) -> str:
        """Of the content, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    def described(self) -> dict[str, Any]:
        """Describe it as the API does."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": "general",
            "access_policy": "private",
        }

    def report(self) -> dict[str, Any]:
        """Describe it for the control API."""
        return {
            "id": self.id,
            "filename": self.filename,
            "bytes": len(self.content),
            "mime": self.sight.mime,
            "sha256": self.sha256,
            "tenant": self.tenant,
            "account": self.account,
            "created_at": self.created_at,
        }


@dataclass(slots=True)
class Files:
    """All files of all accounts."""

    _files: dict[str, StoredFile] = field(default_factory=dict)

    def add(self, file: StoredFile) -> None:
        """Keep a file."""
        self._files[file.id] = file

    def of(self, account: str) -> list[StoredFile]:
        """List an account's files, the oldest first."""
        return [file for file in self._files.values() if file.account == account]

    def find(self, account: str, file_id: str) -> StoredFile | None:
        """Give an account's file; None if it has no such one."""
        file = self._files.get(file_id)
        return file if file and file.account == account else None

    def delete(self, file: StoredFile) -> None:
        """Forget a file; one that is gone already is no matter."""
        self._files.pop(file.id, None)

    def all(self) -> list[StoredFile]:
        """List the files of everybody."""
        return list(self._files.values())
