"""GigaChat: the official SDK, and what it leaves to its user.

Retries within a deadline, a circuit breaker, the project's errors with whether a call may have been billed, request ids
in the log, and uploaded files that never stay. What is not here: the HTTP client itself (`gigachat_wire.py`), prompts
and answers (`gigachat_vision.py`), and how many calls may be made at once (`core/budget.py`).
"""

import asyncio
import email.utils
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import gigachat.exceptions as sdk
import httpx
import structlog
from gigachat.context import client_id_cvar, request_id_cvar
from gigachat.models import ChatCompletion
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState
from pydantic import ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)

from vision_assets.clients.gigachat_wire import GigaChatAccess, SdkClient
from vision_assets.core.errors import (
    ConfigurationError,
    InputRejected,
    PermanentError,
    ProviderBudgetGone,
    ProviderUnavailable,
    VisionAssetsError,
)
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

FILE_PREFIX = "vision-assets-"
"""Of the names of uploaded files: the janitor deletes no other."""

LEFTOVER_AGE = timedelta(hours=1)
TEXTS_A_CALL = 100
_MAX_ATTEMPTS = 6
_MAX_WAIT_SECONDS = 20.0
_BREAKS_AFTER = 5
_BREAK_SECONDS = 30.0
_DELETE_SECONDS = 30.0

_ADVICE: Mapping[int, str] = {
    httpx.codes.UNAUTHORIZED: "Check GIGACHAT_CREDENTIALS and GIGACHAT_SCOPE.",
    httpx.codes.FORBIDDEN: "The account may not do this: check GIGACHAT_SCOPE.",
}

_backoff = wait_random_exponential(multiplier=0.5, max=_MAX_WAIT_SECONDS)  # full jitter


def _breakers() -> AsyncCircuitBreakerFactory:
    """Make a breaker for what fails by the provider's fault; who is asked to be slower has not failed."""
    return AsyncCircuitBreakerFactory(
        default_threshold=_BREAKS_AFTER,
        default_ttl=_BREAK_SECONDS,
        exclude=[
            PermanentError,
            asyncio.CancelledError,
            (ProviderUnavailable, lambda error: isinstance(error.__cause__, sdk.RateLimitError)),
        ],
    )


@dataclass(slots=True)
class GigaChat:
    """One account, in one event loop. Made by `open`."""

    access: GigaChatAccess
    _sdk: SdkClient = field(repr=False)
    _breakers: AsyncCircuitBreakerFactory = field(repr=False, default_factory=_breakers)

    @classmethod
    @asynccontextmanager
    async def open(cls, access: GigaChatAccess) -> "AsyncIterator[GigaChat]":
        """Open a client in the running event loop, and close it at the end; nothing is sent yet."""
        async with SdkClient(access) as client:
            yield cls(access, client)

    async def chat(self, tenant_id: TenantId, request: Mapping[str, Any]) -> ChatCompletion:
        """Have the model answer. An attempt that may have been billed is not made again.

        Args:
            tenant_id: Told to the provider, for its own accounts.
            request: By the fields of the SDK's `Chat`; the SDK drops others without a word.

        Raises:
            InputRejected: The request will never be answered.
            ProviderBudgetGone, ConfigurationError: No request will be, as things are.
            ProviderUnavailable: Transient; tells whether it may have been billed.
        """
        client_id_cvar.set(str(tenant_id))
        return await self._call("chat", lambda: self._sdk.achat(dict(request)), billed=True)

    @asynccontextmanager
    async def uploaded(self, content: bytes, *, mime: str) -> AsyncIterator[str]:
        """Upload a picture, give the file's id, and delete it at the end, whatever happens.

        Raises:
            As `chat`; nothing is billed.
        """
        name = f"{FILE_PREFIX}{uuid4()}.{mime.rsplit('/', 1)[1]}"
        uploaded = await self._call("upload", lambda: self._sdk.aupload_file((name, content, mime)))
        try:
            yield uploaded.id_
        finally:
            await self._delete(uploaded.id_)

    async def embed(self, texts: Sequence[str], *, model: str) -> list[list[float]]:
        """Embed texts, in batches, in their order.

        Raises:
            As `chat`.
        """
        vectors: list[list[float]] = []
        for start in range(0, len(texts), TEXTS_A_CALL):
            batch = list(texts[start : start + TEXTS_A_CALL])
            answer = await self._call("embed", partial(self._sdk.aembeddings, batch, model), billed=True)
            vectors += [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]
        return vectors

    async def balance(self) -> Mapping[str, float] | None:
        """Tell the tokens left by model; None where the account is billed by use."""
        try:
            told = await self._call("balance", self._sdk.aget_balance)
        except ConfigurationError as error:
            if isinstance(error.__cause__, sdk.ForbiddenError):
                return None
            raise
        return {one.usage: one.value for one in told.balance}

    async def delete_leftovers(self, *, now: datetime | None = None) -> int:
        """Delete files of ours that a killed worker has left; those of calls under way are younger.

        Returns:
            Number of files deleted.
        """
        before = ((now or datetime.now(UTC)) - LEFTOVER_AGE).timestamp()
        files = (await self._call("list files", self._sdk.aget_files)).data
        left = [one.id_ for one in files if one.filename.startswith(FILE_PREFIX) and one.created_at < before]
        return sum([await self._delete(file_id) for file_id in left])

    async def _delete(self, file_id: str) -> bool:
        """Delete a file, also while the caller is being cancelled; one that stays is left to the janitor."""
        try:
            async with asyncio.timeout(_DELETE_SECONDS):
                await self._call("delete file", lambda: self._sdk.adelete_file(file_id), lasting=_DELETE_SECONDS)
        except (VisionAssetsError, TimeoutError) as error:
            log.warning("gigachat.file_left", file_id=file_id, error_type=type(error).__name__, error=str(error))
            return False
        return True

    async def _call(
        self,
        what: str,
        act: Callable[[], Awaitable[Result]],
        *,
        billed: bool = False,
        lasting: float | None = None,
    ) -> Result:
        """Make a call until it succeeds, fails for good, may have been billed, or its time is up."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ProviderUnavailable) and not error.sent),
            stop=stop_any(
                stop_before_delay(self.access.deadline_seconds if lasting is None else lasting),
                stop_after_attempt(_MAX_ATTEMPTS),
            ),
            wait=_wait_seconds,
            before_sleep=lambda state: _log_retry(what, state),
            reraise=True,
        )
        return await retrying(self._attempt, what, act, billed)

    async def _attempt(self, what: str, act: Callable[[], Awaitable[Result]], billed: bool) -> Result:
        request_id_cvar.set(str(uuid4()))
        try:
            async with await self._breakers.get_breaker("gigachat"):
                try:
                    return await act()
                except Exception as error:
                    raise translated(error, what=what, billed=billed) from error
        except OpenedState as error:
            error.with_traceback(None)  # it is one and the same each time, and would grow
            raise ProviderUnavailable(
                f"GigaChat failed {_BREAKS_AFTER} times in succession; the next call goes after {_BREAK_SECONDS:g} s.",
                sent=False,
            ) from None


def translated(error: Exception, *, what: str, billed: bool) -> VisionAssetsError:
    """Tell an error of the SDK in the project's terms.

    An answer with an error's status carries no usage, so it was not billed; where there was no answer, or one that
    cannot be read, nobody knows.

    Args:
        what: Was done.
        billed: It costs tokens.
    """
    match error:
        case sdk.ResponseError():
            return _refused(error, what)
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return ProviderUnavailable(f"GigaChat cannot be reached ({what}): {_said(error)}", sent=False)
        case httpx.HTTPError():
            return ProviderUnavailable(f"GigaChat broke off ({what}): {_said(error)}", sent=billed)
        case ValidationError() | ValueError() | TypeError() | LookupError():
            return ProviderUnavailable(
                f"GigaChat's answer cannot be read ({what}): {type(error).__name__}", sent=billed
            )
    raise error


def _refused(error: sdk.ResponseError, what: str) -> VisionAssetsError:
    headers, status = error.headers or httpx.Headers(), error.status_code
    message = _message(error)
    text = f"GigaChat answered {status} ({what}, request {headers.get('x-request-id', '-')}): {message}"
    if status == httpx.codes.NOT_FOUND and "model" in message.lower():
        return ConfigurationError(f"{text}. Check GIGACHAT_MODEL.")
    if status == httpx.codes.BAD_REQUEST and str(error.url).endswith("/oauth"):
        status = httpx.codes.UNAUTHORIZED
    if status in _ADVICE:
        return ConfigurationError(f"{text}. {_ADVICE[status]}")
    if status == httpx.codes.PAYMENT_REQUIRED:
        return ProviderBudgetGone(f"{text}. Top the account up; until then no call is made.")
    # A file that is gone makes 404: the next attempt uploads it anew.
    if status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.NOT_FOUND) or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return ProviderUnavailable(text, sent=False, retry_after_seconds=_retry_after_seconds(headers))
    too_large = status == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    return InputRejected("too_large_for_provider" if too_large else "refused_by_provider", text)


def _message(error: sdk.ResponseError) -> str:
    try:
        return str(httpx.Response(200, content=error.content or b"").json()["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return (error.content or b"")[:300].decode(errors="replace")


def _retry_after_seconds(headers: httpx.Headers, *, now: datetime | None = None) -> float | None:
    """Read `Retry-After` in either form: seconds, or a date."""
    told = headers.get("retry-after", "")
    try:
        return max(float(told), 0.0)
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(told)
    except ValueError:
        return None
    return max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0)


def _wait_seconds(state: RetryCallState) -> float:
    """Wait as told, with jitter on top so that not all come at once; what is told too long ends the call's time."""
    error = state.outcome.exception() if state.outcome else None
    told = error.retry_after_seconds if isinstance(error, ProviderUnavailable) else None
    return _backoff(state) + (told or 0.0)


def _log_retry(what: str, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning(
        "gigachat.retried", what=what, attempt=state.attempt_number, wait_seconds=state.upcoming_sleep, error=str(error)
    )


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
