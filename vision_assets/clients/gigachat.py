"""GigaChat: the official SDK, and what it leaves to its user.

Request ids, batches, and uploaded files that never stay. What is not here: retries and the breaker
(`provider_calls.py`), the HTTP client itself (`gigachat_wire.py`), what an error means (`gigachat_errors.py`), prompts
and answers (`gigachat_vision.py`), and how many calls may be made at once (`core/budget.py`).
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
from pydantic import ValidationError

from vision_assets.clients.gigachat_errors import translated
from vision_assets.clients.gigachat_wire import GigaChatAccess, SdkClient
from vision_assets.clients.provider_calls import ProviderCalls
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

FILE_PREFIX = "vision-assets-"
"""Of the names of uploaded files: the janitor deletes no other."""

LEFTOVER_AGE = timedelta(hours=1)
TEXTS_A_CALL = 100
_DELETE_SECONDS = 30.0


@dataclass(slots=True)
class GigaChat:
    """One account, in one event loop. Made by `open`."""

    access: GigaChatAccess
    _sdk: SdkClient = field(repr=False)
    _calls: ProviderCalls = field(repr=False, init=False)

    def __post_init__(self) -> None:
        self._calls = ProviderCalls(
            "GigaChat",
            self.access.deadline_seconds,
            self.access.recovery_seconds,
            translated,
            answered=(sdk.ResponseError,),
            blameless=lambda cause: isinstance(cause, sdk.RateLimitError | sdk.NotFoundError),
            final=(sdk.NotFoundError,),  # a file that is gone stays gone
        )

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
        """Make a call as `ProviderCalls.call`, with a request id for each attempt."""

        async def attempt() -> Result:
            request_id_cvar.set(str(uuid4()))
            return await act()

        return await self._calls.call(what, attempt, billed=billed, lasting=lasting)
