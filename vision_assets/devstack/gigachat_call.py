"""One call on the emulated GigaChat: who makes it, what is refused before its work begins, and how it breaks.

What does not belong here: what an endpoint does (`gigachat_chat.py`, `gigachat_embeddings.py`, `gigachat_plain.py`).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from vision_assets.devstack.abrupt_server import ABORT
from vision_assets.devstack.gigachat_access import Token, TokenExpired, TokenUnknown, TooManyStreams
from vision_assets.devstack.gigachat_faults import AnyFault, Endpoint, MalformedJson, RateLimited, ServerError
from vision_assets.devstack.gigachat_state import State

_MAX_REQUEST_BYTES = 80 * 10**6

M = TypeVar("M", bound=BaseModel)


class Refused(Exception):
    """The call is answered by an error and costs nothing."""

    def __init__(
        self, status: int, message: str, *, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Prepare the answer.

        Args:
            status: HTTP status.
            message: The API's words.
            body: In place of the usual `{"status", "message"}`.
            headers: To be sent with it.
        """
        super().__init__(message)
        self.answer = JSONResponse(body or {"status": status, "message": message}, status, headers)


class Broken(Exception):
    """The connection is gone; there is nobody to answer."""


@dataclass(slots=True)
class Call:
    """One request, read and admitted.

    Attributes:
        tenant: `X-Client-ID`, "" without one.
        request_id: `X-Request-ID` if the client sent one, else new; the answer carries it.
        session_id: `X-Session-ID` likewise; `in_session` tells whether the client sent it.
    """

    request: Request
    endpoint: Endpoint
    state: State
    tenant: str = field(init=False)
    request_id: str = field(init=False)
    session_id: str = field(init=False)
    in_session: bool = field(init=False)
    body: bytes = b""
    _token: Token | None = None

    def __post_init__(self) -> None:
        headers = self.request.headers
        self.tenant = headers.get("x-client-id", "")
        self.request_id = headers.get("x-request-id") or str(uuid4())
        self.in_session = bool(headers.get("x-session-id"))
        self.session_id = headers.get("x-session-id") or str(uuid4())

    @property
    def token(self) -> Token:
        """The token of an admitted call."""
        if self._token is None:
            raise RuntimeError(f"{self.endpoint} is open to callers without a token")
        return self._token

    @property
    def account(self) -> str:
        """The client id of the caller."""
        return self.token.account.client_id

    def fault(self, *triggers: str) -> AnyFault | None:
        """Give the fault that hits this call at this point, if any."""
        return self.state.faults.take(*triggers, endpoint=self.endpoint, tenant=self.tenant)

    async def serve(self, work: Callable[["Call"], Awaitable[Response]]) -> Response:
        """Read, admit, wait, do the work, and break whatever is to break.

        Raises:
            Refused: Nothing was done or billed.
            Broken: The connection is gone.
        """
        await self._read()
        if self.endpoint != "oauth":
            self._admit()
        with self._stream():
            await self._break_before()
            if self.endpoint in self.state.options.latency_endpoints and self.state.options.latency:
                await asyncio.sleep(self.state.options.latency.draw(self.state.latencies))
            return await self._break_after(await work(self))

    async def _read(self) -> None:
        try:
            self.body = await self.request.body()
        except ClientDisconnect:
            raise Broken from None
        if len(self.body) > _MAX_REQUEST_BYTES:
            raise Refused(413, "Payload too large")

    def _admit(self) -> None:
        if not self.request.headers.get("user-agent"):
            raise Refused(403, "Permission denied")
        if self.fault("token_expired"):
            self.state.tokens.expire_all()
        try:
            self._token = self.state.tokens.check(self.request.headers.get("authorization"))
        except TokenExpired:
            raise Refused(401, "Token has expired") from None
        except TokenUnknown:
            raise Refused(401, "Unauthorized") from None

    @contextmanager
    def _stream(self) -> Iterator[None]:
        options = self.state.options
        if self.endpoint not in options.stream_endpoints:
            yield
            return
        try:
            with self.state.streams.one(self.account, self.endpoint, options.stream_limit(self.token.scope)):
                yield
        except TooManyStreams:
            raise Refused(429, "Too many requests") from None

    async def _break_before(self) -> None:
        fault = self.fault("rate_limited", "payment_required", "server_error", "hang", "drop_before_billing")
        match fault:
            case None:
                return
            case RateLimited():
                raise Refused(429, "Too many requests", headers=retry_after(fault))
            case ServerError():
                raise Refused(fault.status, "Internal server error")
        if fault.kind == "payment_required":
            raise Refused(402, "Payment Required")
        await self._leave(fault)

    async def _break_after(self, answer: Response) -> Response:
        fault = self.fault("hang_after_billing", "drop_after_billing", "truncated_json", "malformed_json")
        match fault:
            case None:
                return answer
            case MalformedJson(shape="no_json"):
                return Response("<html>Bad gateway</html>", media_type="application/json")
            case MalformedJson():
                return JSONResponse({"choices": "none", "data": {"id": []}, "usage": None})
        if fault.kind == "truncated_json":
            return Response(answer.body[: len(answer.body) // 2], media_type=answer.media_type)
        await self._leave(fault)
        return answer

    async def _leave(self, fault: AnyFault) -> None:
        """Give no answer: close the connection now, or let the client do so some day."""
        drop = fault.kind == "drop"
        self.state.books.count(self.tenant, self.endpoint, "drop" if drop else "hang")
        if drop:
            self.request.scope["extensions"][ABORT]()
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        raise Broken


def retry_after(fault: RateLimited) -> dict[str, str]:
    """Give the header in the form that the fault wants, if any."""
    match fault.retry_after:
        case "seconds":
            return {"Retry-After": str(fault.retry_after_seconds)}
        case "http_date":
            # A date has whole seconds: the second that has begun is not cut off the time to wait.
            when = datetime.now(UTC) + timedelta(seconds=fault.retry_after_seconds + 1)
            return {"Retry-After": format_datetime(when.replace(microsecond=0), usegmt=True)}
    return {}


def validated(model: type[M], body: bytes) -> M:
    """Read the JSON body of a call.

    Raises:
        Refused: It is not JSON, or not what the endpoint takes.
    """
    try:
        return model.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise invalid(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ValueError:
        raise Refused(400, "Your request contains invalid JSON syntax.") from None


def invalid(what: str) -> Refused:
    """Make the API's refusal of a parameter."""
    return Refused(422, f"Invalid params: {what}")
