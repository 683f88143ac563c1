"""GigaChat: the official SDK, and what it leaves to its user.

Retries within a deadline, a circuit breaker, request ids, and uploaded files that never stay. What is not here: the
HTTP client itself (`gigachat_wire.py`), what an error means (`gigachat_errors.py`), prompts and answers
(`gigachat_vision.py`), and how many calls may be made at once (`core/budget.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import gigachat.exceptions as sdk
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

from vision_assets.clients.gigachat_errors import translated
from vision_assets.clients.gigachat_wire import GigaChatAccess, SdkClient
from vision_assets.core.errors import (
    ConfigurationError,
    PermanentError,
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
_DELETE_SECONDS = 30.0

_backoff = wait_random_exponential(multiplier=0.5, max=_MAX_WAIT_SECONDS)  # full jitter


def _breakers(recovery_seconds: float) -> AsyncCircuitBreakerFactory:
    """Make a breaker for what fails by the provider's fault: not for "slower, please" and "no such file"."""
    return AsyncCircuitBreakerFactory(
        default_threshold=_BREAKS_AFTER,
        default_ttl=recovery_seconds,
        exclude=[
            PermanentError,
            asyncio.CancelledError,
            (ProviderUnavailable, lambda error: isinstance(error.__cause__, sdk.RateLimitError | sdk.NotFoundError)),
        ],
    )


@dataclass(slots=True)
class GigaChat:
    """One account, in one event loop. Made by `open`."""

    access: GigaChatAccess
    _sdk: SdkClient = field(repr=False)
    _breakers: AsyncCircuitBreakerFactory = field(repr=False)

    @classmethod
    @asynccontextmanager
    async def open(cls, access: GigaChatAccess) -> "AsyncIterator[GigaChat]":
        """Open a client in the running event loop, and close it at the end; nothing is sent yet."""
        async with SdkClient(access) as client:
            yield cls(access, client, _breakers(access.recovery_seconds))

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
        completion = await self._call("chat", lambda: self._sdk.achat(dict(request)), billed=True)
        told = completion.x_headers or {}
        log.info(
            "gigachat.billed",
            model=completion.model,
            request_id=told.get("x-request-id"),
            session_id=told.get("x-session-id"),
            **completion.usage.model_dump(),  # all of it: whether the total leaves out what was cached differs
        )
        return completion

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

        async def delete() -> None:
            with suppress(sdk.NotFoundError, ValidationError, ValueError, TypeError):  # gone is gone, in whatever words
                await self._sdk.adelete_file(file_id)

        try:
            async with asyncio.timeout(_DELETE_SECONDS):
                await self._call("delete file", delete, lasting=_DELETE_SECONDS)
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
            retry=retry_if_exception(_may_be_repeated),
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
                    told = translated(error, what=what, billed=billed)
                    if isinstance(error, sdk.ResponseError):
                        raise told from error
                    raise told from None  # the text of such an error may hold a header, and with it a secret
        except OpenedState as error:
            error.with_traceback(None)  # it is one and the same each time, and would grow
            raise ProviderUnavailable(
                f"GigaChat failed {_BREAKS_AFTER} times in succession, or once more since; no call is made for "
                f"{self.access.recovery_seconds:g} s.",
                sent=False,
            ) from None


def _may_be_repeated(error: BaseException) -> bool:
    """Tell whether another attempt may succeed, and costs nothing. A file that is gone stays gone."""
    return (
        isinstance(error, ProviderUnavailable) and not error.sent and not isinstance(error.__cause__, sdk.NotFoundError)
    )


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
