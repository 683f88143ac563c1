"""The error tree of the project. Every error is permanent or transient; `defs/failures.py` maps them to Dagster.

    VisionAssetsError
    ├── PermanentError               a retry will not help
    │   ├── InputRejected            one bad input: it goes to the dead letters, its batch goes on
    │   │   ├── MediaMissing         nothing usable at the source now (it may come later)
    │   │   └── ExportInvalid        a Telegram export that cannot be read
    │   ├── ConfigurationError       a setting is absent or wrong
    │   ├── PartFailed               an embedded part did not start or stop (`devstack/processes.py`)
    │   ├── TenantUnknown            no such tenant, or it is not active
    │   └── QuotaExceeded            the put would break a storage limit
    └── TransientError               the same call may work later
        ├── StorageUnavailable       S3 did not answer, or answered with a fault of its own
        ├── DatabaseUnavailable      Postgres did not answer
        ├── DatabaseConflict         Postgres gave way to another transaction: deadlock, serialisation, lock time-out
        ├── IndexUnavailable         Qdrant did not answer
        └── ProviderUnavailable      a vision provider did not answer

What does not belong here: anything that decides what to do about an error.
"""


class VisionAssetsError(Exception):
    """Base of all errors that this project raises on purpose."""


class PermanentError(VisionAssetsError):
    """A retry will not help."""


class TransientError(VisionAssetsError):
    """The same call may work later."""


class InputRejected(PermanentError):
    """One input cannot be used; the others of its batch can.

    Attributes:
        reason: Machine-readable code, stable, for example `truncated` or `too_many_bytes`.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the code beside the text.

        Args:
            reason: Machine-readable code.
            message: For people: names the input, says what is wrong and what to do.
        """
        super().__init__(message)
        self.reason = reason


class MediaMissing(InputRejected):
    """There is nothing usable at the source now. That may change, so every run looks again."""

    def __init__(self, message: str, *, reason: str = "missing") -> None:
        """Keep the code beside the text.

        Args:
            message: For people: names the file and what to do.
            reason: Machine-readable code.
        """
        super().__init__(reason, message)


class ExportInvalid(InputRejected):
    """A Telegram export cannot be read, or not to its end."""


class ConfigurationError(PermanentError):
    """A setting is absent or wrong; the text says which and what to write."""


class TenantUnknown(PermanentError):
    """There is no such tenant, or it is not active."""


class QuotaExceeded(PermanentError):
    """The put would break a storage limit.

    Attributes:
        reason: `bucket_full`, `tenant_limit` or `type_limit`.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the code beside the text.

        Args:
            reason: `bucket_full`, `tenant_limit` or `type_limit`.
            message: For people: the figures, and what to do.
        """
        super().__init__(message)
        self.reason = reason


class StorageUnavailable(TransientError):
    """S3 did not answer, or answered with a fault of its own."""


class DatabaseUnavailable(TransientError):
    """Postgres did not answer."""


class DatabaseConflict(TransientError):
    """Postgres gave way to another transaction: deadlock, serialisation failure or lock time-out."""


class IndexUnavailable(TransientError):
    """Qdrant did not answer."""


class ProviderUnavailable(TransientError):
    """A vision provider did not answer."""
