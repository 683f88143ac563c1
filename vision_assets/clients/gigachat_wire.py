"""What the official SDK of GigaChat sends through: one HTTP client with time-outs of its own, and a tolerant reading.

Two forms of some fields are seen in the wild; here they become the one that the SDK reads. What is not here: retries,
errors and files (`gigachat.py`).
"""

import json
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from gigachat import GigaChatAsyncClient
from gigachat.settings import AUTH_URL, BASE_URL
from gigachat.settings import Settings as SdkSettings
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from vision_assets.clients.provider_calls import KEEPALIVE_SECONDS

__all__ = ["AUTH_URL", "BASE_URL", "GigaChatAccess", "SdkClient"]

_SECONDS_BELOW = 10**12
"""A moment below it is told in seconds, above it in milliseconds: documentation and samples differ."""

_CONTENT_HEADERS = {b"content-length", b"content-encoding", b"transfer-encoding"}

_sent_token: ContextVar[str | None] = ContextVar("sent_token", default=None)


@dataclass(frozen=True, slots=True)
class GigaChatAccess:
    """Where GigaChat is, and who we are there.

    Attributes:
        credentials: Authorization key: base64 of `client_id:client_secret`.
        scope: `GIGACHAT_API_PERS`, `GIGACHAT_API_B2B` or `GIGACHAT_API_CORP`.
        ca_file: PEM of the authorities that are trusted; None: those of the system.
        connect_seconds: To connect, and to wait for a free connection.
        read_seconds: Between two pieces of an answer, the first included.
        deadline_seconds: Of one call with all its attempts; none begins later.
        recovery_seconds: Without a call, after failures in succession; then one more failure begins them anew.
        max_connections: At once.
    """

    credentials: SecretStr
    scope: str
    base_url: str
    auth_url: str
    ca_file: Path | None = None
    connect_seconds: float = 10
    read_seconds: float = 60
    deadline_seconds: float = 120
    recovery_seconds: float = 30
    max_connections: int = 20

    def timeout(self) -> httpx.Timeout:
        """Split the time-outs."""
        return httpx.Timeout(
            connect=self.connect_seconds, pool=self.connect_seconds, read=self.read_seconds, write=self.read_seconds
        )


class _OnlyWhatIsSaid(SdkSettings):
    """The SDK's settings without its look at the environment, where `GIGACHAT_VERIFY_SSL_CERTS=false` may stand."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is passed, and nothing else."""
        return (init_settings,)


class SdkClient(GigaChatAsyncClient):
    """The SDK's client over a transport of ours. One event loop; close it."""

    def __init__(self, access: GigaChatAccess) -> None:
        """Configure it; nothing is sent yet."""
        super().__init__(max_retries=0)
        self._settings = _OnlyWhatIsSaid(
            base_url=access.base_url,
            auth_url=access.auth_url,
            credentials=access.credentials.get_secret_value(),
            scope=access.scope,
            max_retries=0,
        )
        self._access_token = None
        transport = _TolerantTransport(
            httpx.AsyncHTTPTransport(
                verify=ssl.create_default_context(cafile=access.ca_file),
                limits=httpx.Limits(max_connections=access.max_connections, keepalive_expiry=KEEPALIVE_SECONDS),
            )
        )
        self._aclient_instance = httpx.AsyncClient(
            base_url=access.base_url,
            timeout=access.timeout(),
            transport=transport,
            event_hooks={"request": [_note_token]},
        )
        self._auth_aclient_instance = httpx.AsyncClient(timeout=access.timeout(), transport=transport)

    def _reset_token(self) -> None:
        """Forget the token that was refused, not one that another call has fetched since: so one refresh serves all."""
        if self.token == _sent_token.get():
            super()._reset_token()


async def _note_token(request: httpx.Request) -> None:
    _sent_token.set(request.headers.get("Authorization", "").removeprefix("Bearer ") or None)


class _TolerantTransport(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        change = next((fix for path, fix in _FIXES.items() if request.url.path.endswith(path)), None)
        if change is None or response.status_code != httpx.codes.OK:
            return response
        response.request = request
        body = await response.aread()
        try:
            document = json.loads(body)
            change(document)
        except (ValueError, LookupError, TypeError, AttributeError):
            pass  # whoever reads it says what is wrong with it
        else:
            body = json.dumps(document).encode()
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _CONTENT_HEADERS]
        await response.aclose()
        return httpx.Response(response.status_code, headers=headers, content=body, extensions=response.extensions)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _in_milliseconds(token: Any) -> None:
    for name in ("expires_at", "exp"):
        if name in token and token[name] < _SECONDS_BELOW:
            token[name] *= 1000


def _arguments_as_object(completion: Any) -> None:
    """Read arguments told as text; text that is no JSON becomes the content, where such things are repaired."""
    for choice in completion["choices"]:
        call = choice["message"].get("function_call")
        if call and isinstance(call.get("arguments"), str):
            try:
                arguments = json.loads(call["arguments"])
            except ValueError:
                arguments = None
            if isinstance(arguments, dict):
                call["arguments"] = arguments
            else:
                choice["message"] |= {"content": call["arguments"], "function_call": None}


_FIXES = {"/oauth": _in_milliseconds, "/chat/completions": _arguments_as_object}
