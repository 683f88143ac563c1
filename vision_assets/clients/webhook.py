"""A webhook that takes what Alertmanager sends: alerts as JSON, version 4.

Each has an `Idempotency-Key`, so one whose outcome is unknown may be sent again. What is not here: what is sent
(`core/alert_messages.py`), and when again (`core/alert_delivery.py`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import httpx
from pydantic import SecretStr

from vision_assets.clients.provider_calls import retry_after_seconds
from vision_assets.clients.secret_path import SecretPath
from vision_assets.core.alert_delivery import ChannelName, Outcome
from vision_assets.core.alert_messages import AlertMessage

_PATH = "PATH"
_REFUSED = frozenset({400, 413, 422})
"""Because of what was sent, not of where, or by whom."""

_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Webhook:
    """Implements `core.alert_delivery.Channel`. Made by `open`."""

    name: ClassVar[ChannelName] = "webhook"
    knows_again: ClassVar[bool] = True

    _http: httpx.AsyncClient = field(repr=False)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: SecretStr, *, read_seconds: float = 10) -> "AsyncIterator[Webhook]":
        """Open a client in the running event loop, and close it at the end; nothing is sent yet.

        Args:
            url: A name and password in it are sent as basic authentication.
        """
        parsed = urlsplit(url.get_secret_value().strip())
        named = parsed.username or parsed.password
        auth = (unquote(parsed.username or ""), unquote(parsed.password or "")) if named else None
        path = SecretStr(f"/{parsed.path.removeprefix('/')}" + (f"?{parsed.query}" if parsed.query else ""))
        base = f"{parsed.scheme}://{parsed.netloc.rpartition('@')[2]}"
        async with httpx.AsyncClient(
            base_url=base,
            transport=SecretPath(f"/{_PATH}", path),
            timeout=httpx.Timeout(read_seconds, connect=5),
            auth=auth,
            trust_env=False,
        ) as http:
            yield cls(http)

    def parts(self, message: AlertMessage) -> int:
        """See the Protocol. Each alert goes by itself."""
        return len(message.told)

    async def send(self, message: AlertMessage, part: int) -> Outcome:
        """See the Protocol."""
        headers = {"Idempotency-Key": f"{message.id}-{part}"}
        try:
            response = await self._http.post(f"/{_PATH}", json=message.alertmanager(part), headers=headers)
        except httpx.HTTPError as error:
            return Outcome("unknown", f"The webhook did not answer: {type(error).__name__}")
        if response.is_success:
            return Outcome("sent")
        # Nothing of its words: many a server repeats the path, which is secret.
        text = f"The webhook says {response.status_code}"
        if response.status_code in _REFUSED:
            return Outcome("refused", f"{text}; it does not understand Alertmanager's version 4")
        if not response.is_server_error and response.status_code not in _AGAIN:
            text = f"{text}; check ALERT_WEBHOOK_URL"  # which may be put right while this waits
        return Outcome("not_sent", text, retry_after_seconds(response.headers))
