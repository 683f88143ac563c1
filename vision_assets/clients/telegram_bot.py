"""Telegram's Bot API, as far as alerts need it: `sendMessage` to one chat.

One method is too little for a library of bots: they take long to load, bring an HTTP stack of their own, and do not
tell what certainly was not sent from what may have been. What is not here: what a message says
(`core/alert_messages.py`), and whether it is sent again (`core/alert_delivery.py`).
"""

import asyncio
import html
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import structlog
from pydantic import SecretStr

from vision_assets.clients.secret_path import SecretPath
from vision_assets.core.alert_delivery import ChannelName, Outcome
from vision_assets.core.alert_messages import AlertMessage

log = structlog.get_logger(__name__)

API_URL = "https://api.telegram.org"
MAX_UNITS = 4096
"""Of a message's text without its tags, in UTF-16 units."""

_TOO_MANY_REQUESTS, _BAD_REQUEST = 429, 400
_OF_THE_CHAT = ("chat not found", "upgraded to a supergroup", "not enough rights", "have no rights")
"""What Telegram says with 400 although the message is well."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
_TOKEN = "TOKEN"  # noqa: S105 - stands for it


@dataclass(slots=True)
class TelegramChat:
    """Implements `core.alert_delivery.Channel`. Made by `open`.

    Attributes:
        spacing_seconds: Between two messages; Telegram takes one a second in a chat, and twenty a minute in a group.
    """

    name: ClassVar[ChannelName] = "telegram"
    knows_again: ClassVar[bool] = False

    chat_id: str
    spacing_seconds: float
    _http: httpx.AsyncClient = field(repr=False)
    _sent_at: float | None = field(init=False, repr=False, default=None)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        token: SecretStr,
        chat_id: str,
        *,
        api_url: str = API_URL,
        spacing_seconds: float | None = None,
        read_seconds: float = 10,
    ) -> "AsyncIterator[TelegramChat]":
        """Open a client in the running event loop, and close it at the end; nothing is sent yet.

        Args:
            token: The bot's.
            chat_id: Of a person, a group (it begins with `-`), or `@name` of a channel.
            spacing_seconds: None: as Telegram wants it for such a chat.
        """
        if spacing_seconds is None:
            spacing_seconds = 3.0 if chat_id.startswith("-") else 1.0
        async with httpx.AsyncClient(
            base_url=api_url,
            transport=SecretPath(_TOKEN, SecretStr(token.get_secret_value().strip())),
            timeout=httpx.Timeout(read_seconds, connect=5),
            trust_env=False,
        ) as http:
            yield cls(chat_id, spacing_seconds, http)

    def parts(self, message: AlertMessage) -> int:
        """See the Protocol."""
        return len(split(_text(message)))

    async def send(self, message: AlertMessage, part: int) -> Outcome:
        """See the Protocol. What Telegram cannot read as HTML is sent again as plain text."""
        plain = split(_text(message))[part]
        outcome, is_unreadable = await self._send({"text": _marked_up(plain, message), "parse_mode": "HTML"})
        if is_unreadable:
            log.warning("telegram.unreadable", title=message.title(), error=outcome.error)
            outcome, _ = await self._send({"text": plain})
        return outcome

    async def _send(self, body: Mapping[str, Any]) -> tuple[Outcome, bool]:
        """Send, and tell whether it was refused because of its tags."""
        loop = asyncio.get_running_loop()
        if self._sent_at is not None:
            await asyncio.sleep(self._sent_at + self.spacing_seconds - loop.time())
        self._sent_at = loop.time()
        request = {"chat_id": self.chat_id, "link_preview_options": {"is_disabled": True}, **body}
        try:
            response = await self._http.post(f"/bot{_TOKEN}/sendMessage", json=request)
            answer = response.json()
        except _NOT_SENT as error:
            return Outcome("not_sent", f"Telegram cannot be reached: {error or type(error).__name__}"), False
        except (httpx.HTTPError, ValueError) as error:
            return Outcome("unknown", f"Telegram did not answer: {type(error).__name__}"), False
        answer = answer if isinstance(answer, dict) else {}
        return _outcome(response.status_code, answer), response.status_code == _BAD_REQUEST and (
            "can't parse entities" in str(answer.get("description"))
        )


def _outcome(status: int, answer: Mapping[str, Any]) -> Outcome:
    if status < 300 and answer.get("ok") is True:
        return Outcome("sent")
    text = f"Telegram says {status}: {answer.get('description')}"
    if status == _TOO_MANY_REQUESTS:
        parameters = answer.get("parameters")
        told = parameters.get("retry_after") if isinstance(parameters, dict) else None
        return Outcome("not_sent", text, told if isinstance(told, int | float) else None)
    if 400 <= status < 500:
        remedy = "check TELEGRAM_BOT_TOKEN and ALERT_TELEGRAM_CHAT_ID, and that the bot may write there"
        # Another token, another chat or a word in it may come; a message that cannot be read stays so.
        is_of_the_message = status == _BAD_REQUEST and not any(cause in text for cause in _OF_THE_CHAT)
        return Outcome("refused" if is_of_the_message else "not_sent", f"{text}; {remedy}")
    return Outcome("unknown", text)


def _text(message: AlertMessage) -> str:
    return f"{message.title()}\n{message.body()}"


def _marked_up(plain: str, message: AlertMessage) -> str:
    title = message.title()
    if plain.startswith(title):
        return f"<b>{html.escape(title, quote=False)}</b>{html.escape(plain[len(title) :], quote=False)}"
    return html.escape(plain, quote=False)


def units(text: str) -> int:
    """Count as Telegram does: UTF-16 units."""
    return len(text.encode("utf-16-le")) // 2


def split(text: str, *, limit: int = MAX_UNITS) -> Sequence[str]:
    """Cut a text into pieces that Telegram takes, at the ends of lines or words where there are any."""
    pieces: list[str] = []
    while units(text) > limit:
        fitting = text.encode("utf-16-le")[: 2 * limit].decode("utf-16-le", "ignore")
        end = max(fitting.rfind("\n"), fitting.rfind(" ") if "\n" not in fitting else -1)
        end = end if end > 0 else len(fitting)
        pieces.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [piece for piece in [*pieces, text] if piece] or [""]
