"""The error tree of the project. Every error is permanent or transient; `defs/failures.py` maps them to Dagster.

    VisionAssetsError
    ├── PermanentError               a retry will not help
    │   ├── InputRejected            one bad input: it goes to the dead letters, its batch goes on
    │   │   ├── MediaMissing         nothing usable at the source now (it may come later)
    │   │   ├── ExportInvalid        a Telegram export that cannot be read
    │   │   ├── AnswerRefused        the provider billed the call and will not answer
    │   │   └── TooManyAttempts      calls about it ended without a trace too often
    │   ├── ReplyUnusable            a model's reply holds no answer; another call may bring one
    │   ├── ConfigurationError       a setting is absent or wrong
    │   ├── PartFailed               an embedded part did not start or stop (`devstack/processes.py`)
    │   ├── TenantUnknown            no such tenant, or it is not active
    │   ├── PictureUnknown           no such picture of the tenant, or several are meant
    │   ├── KeyMisplaced             the object's key is not the tenant's, or not of its type
    │   ├── ProviderBudgetGone       the account at the provider is empty
    │   ├── QuotaExceeded            the put would break a storage limit
    │   └── BudgetExceeded           the call would break a token budget; not before the window resets
    └── TransientError               the same call may work later
        ├── StorageUnavailable       S3 did not answer, or answered with a fault of its own
        ├── StorageBusy              an operation has the object
        ├── CleanupUnderWay          another clean-up of the storage runs
        ├── DecoderUnavailable       the process that decodes a picture did not start, or was ended
        ├── DatabaseUnavailable      Postgres did not answer
        ├── DatabaseConflict         Postgres gave way to another transaction: deadlock, serialisation, time-out
        ├── IndexUnavailable         Qdrant did not answer
        ├── ProviderUnavailable      a vision provider did not answer
        ├── TurnsFailed              the work on one tenant after the other fails: something is down for all of them
        ├── CallInFlight             somebody else makes the same call
        └── CallDeferred             the budget has no room, or cannot be asked: the call stays to be made

What does not belong here: anything that decides what to do about an error.
"""

from collections.abc import Iterator
from datetime import datetime

EXAMPLES = 3
"""Errors that are named where there are many."""


def leaves(error: Exception) -> Iterator[Exception]:
    """Give the errors of a group, however deep; or the error itself."""
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


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

    @classmethod
    def in_storage(cls, s3_key: str) -> "MediaMissing":
        """Tell of a stored picture whose object is gone."""
        return cls(f"{s3_key} is not in S3 any more; the next run stores it again from its source")


class ExportInvalid(InputRejected):
    """A Telegram export cannot be read, or not to its end."""


class AnswerRefused(InputRejected):
    """The provider looked at the input, billed the call and will not answer.

    Attributes:
        tokens_used: As billed.
        raw_reply: What it said instead of an answer, for whoever looks into it; None: nothing.
    """

    def __init__(self, reason: str, message: str, *, tokens_used: int, raw_reply: str | None = None) -> None:
        """Keep what it cost beside the text.

        Args:
            reason: Machine-readable code.
            message: For people.
            tokens_used: As billed.
            raw_reply: What it said.
        """
        super().__init__(reason, message)
        self.tokens_used = tokens_used
        self.raw_reply = raw_reply


class TooManyAttempts(InputRejected):
    """Calls about one subject ended without a trace too often: they may bring their workers down, or never answer."""

    def __init__(self, subject: str, attempts: int) -> None:
        """Say what it is about.

        Args:
            subject: As in the hold.
            attempts: Calls whose holds expired.
        """
        super().__init__(
            "too_many_attempts",
            f"{attempts} calls about {subject} ended without a trace, and none is made any more. Look in the log "
            "for what happened to them.",
        )


class ReplyUnusable(PermanentError):
    """A model's reply holds no answer. Reading it again will not help; whether to call again is the caller's decision.

    Attributes:
        reason: `empty`, `too_long`, `no_answer` (no object with the required keys) or `invalid` (wrong values).
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the code beside the text.

        Args:
            reason: Machine-readable code.
            message: What is wrong, for people and for the model that is asked to put it right.
        """
        super().__init__(message)
        self.reason = reason


class ConfigurationError(PermanentError):
    """A setting is absent or wrong; the text says which and what to write."""


class TenantUnknown(PermanentError):
    """There is no such tenant, or it is not active."""


class PictureUnknown(PermanentError):
    """There is no such picture of the tenant, or what was written fits several."""


class KeyMisplaced(PermanentError):
    """An operation was asked for on a key outside the tenant's folders of that content type."""


class ProviderBudgetGone(PermanentError):
    """The account at the provider is empty: no call is answered until somebody tops it up."""


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


class BudgetExceeded(PermanentError):
    """The call would break a token budget; nothing was held.

    Attributes:
        reason: `daily_limit`, `monthly_limit`, `global_limit` or `rate_limited`.
        remaining_tokens: In the tightest window; None without any limit on tokens.
        reset_at: Aware UTC; the same call is not let through before. None when that hangs on calls under way.
    """

    def __init__(
        self, reason: str, *, needed_tokens: int, remaining_tokens: int | None, reset_at: datetime | None
    ) -> None:
        """Keep the figures beside the text.

        Args:
            reason: `daily_limit`, `monthly_limit`, `global_limit` or `rate_limited`.
            needed_tokens: Estimate of the call.
            remaining_tokens: In the tightest window; None without any limit on tokens.
            reset_at: Aware UTC; None when it hangs on calls under way.
        """
        left = "no limit on tokens" if remaining_tokens is None else f"{remaining_tokens} left"
        when = "as soon as a call under way ends" if reset_at is None else f"at {reset_at:%Y-%m-%d %H:%M} UTC"
        super().__init__(f"The token budget refuses a call of {needed_tokens} tokens ({reason}, {left}); again {when}.")
        self.reason = reason
        self.remaining_tokens = remaining_tokens
        self.reset_at = reset_at


class StorageUnavailable(TransientError):
    """S3 did not answer, or answered with a fault of its own."""


class StorageBusy(TransientError):
    """An operation has the object, or had it and never came back; or the caller's own got its turn too late.

    Attributes:
        reason: `busy`.
    """

    reason = "busy"

    def __init__(self, key: str, until: datetime) -> None:
        """Say which and how long.

        Args:
            key: Of the object.
            until: Aware UTC; afterwards the operation is taken over, should it never come back.
        """
        super().__init__(f"{key} is held by an operation until {until:%H:%M:%S} UTC at the latest.")
        self.until = until


class CleanupUnderWay(TransientError):
    """Another clean-up of the storage runs."""


class DecoderUnavailable(TransientError):
    """The process that decodes a picture did not start, or was ended from outside."""


class DatabaseUnavailable(TransientError):
    """Postgres did not answer."""


class DatabaseConflict(TransientError):
    """Postgres gave way to another transaction: deadlock, serialisation failure, lock or statement time-out."""


class IndexUnavailable(TransientError):
    """Qdrant did not answer."""


class CollectionMissing(IndexUnavailable):
    """There is no collection or alias of that name; whoever makes sure of it again has one."""


class ProviderUnavailable(TransientError):
    """A vision provider did not answer.

    Attributes:
        sent: The call may have been billed; False: it certainly was not.
        tokens_used: Certainly billed for earlier questions of the same call.
        retry_after_seconds: As the provider asked for; None: it did not.
    """

    def __init__(
        self, message: str, *, sent: bool = True, tokens_used: int = 0, retry_after_seconds: float | None = None
    ) -> None:
        """Keep whether it may have cost beside the text.

        Args:
            message: For people.
            sent: The call may have been billed; False: it certainly was not.
            tokens_used: Certainly billed before.
            retry_after_seconds: As the provider asked for.
        """
        super().__init__(message)
        self.sent = sent
        self.tokens_used = tokens_used
        self.retry_after_seconds = retry_after_seconds


class TurnsFailed(TransientError):
    """The work on one tenant after the other fails: something is down for all of them. They rest, and stay to do."""


class CallInFlight(TransientError):
    """Somebody else makes the same call now, or what became of it is not known yet.

    Attributes:
        until: Aware UTC; afterwards the call may be made again.
    """

    def __init__(self, until: datetime, subject: str | None) -> None:
        """Keep the moment beside the text.

        Args:
            until: Aware UTC; afterwards the call may be made again.
            subject: What the call is about.
        """
        super().__init__(f"The call about {subject} is made by somebody else until {until:%H:%M:%S} UTC at the latest.")
        self.until = until


class CallDeferred(TransientError):
    """A call that costs is not made now, and stays to be made.

    Attributes:
        reason: That of the denial (`daily_limit` …), or `in_flight`, `ledger_busy`, `ledger_unavailable`,
            `provider_refuses`, `provider_busy`.
        until: Aware UTC: the budget is exhausted, and is reset then. None: the next run may try again.
    """

    def __init__(self, reason: str, *, until: datetime | None = None) -> None:
        """Keep the code beside the text.

        Args:
            reason: That of the denial (`daily_limit` …), or another one as above.
            until: Aware UTC; of an exhausted budget.
        """
        when = "later" if until is None else f"at {until:%Y-%m-%d %H:%M} UTC"
        super().__init__(f"The call is made {when} ({reason}).")
        self.reason = reason
        self.until = until
