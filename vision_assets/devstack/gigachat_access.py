"""Who may call the emulated GigaChat: accounts, OAuth tokens, calls at once.

What does not belong here: HTTP (`gigachat_call.py`, `gigachat_plain.py`).
"""

import base64
import binascii
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import get_args

from vision_assets.devstack.gigachat_faults import Endpoint
from vision_assets.devstack.gigachat_options import Scope


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody with credentials.

    Attributes:
        scopes: Those that the account has.
    """

    client_id: str
    client_secret: str
    scopes: frozenset[Scope]

    @property
    def credentials(self) -> str:
        """What stands after `Basic` and in `GIGACHAT_CREDENTIALS`."""
        return base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()


PERSONAL = Account("personal", "emulated", frozenset({"GIGACHAT_API_PERS"}))
BUSINESS = Account("business", "emulated", frozenset({"GIGACHAT_API_B2B", "GIGACHAT_API_CORP"}))
_ACCOUNTS = (PERSONAL, BUSINESS)


class OAuthRefused(Exception):
    """No token is given.

    Attributes:
        status: HTTP status.
        code: The API's own.
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        """Keep the figures beside the text."""
        super().__init__(message)
        self.status = status
        self.code = code


class TokenUnknown(Exception):
    """No such token was given out."""


class TokenExpired(Exception):
    """The token was good once."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token.

    Attributes:
        expires_at: Seconds since 1970.
    """

    value: str
    account: Account
    scope: Scope
    expires_at: float


@dataclass(slots=True)
class Tokens:
    """The tokens that were given out."""

    _tokens: dict[str, Token] = field(default_factory=dict)
    _expired: set[str] = field(default_factory=set)
    _asked: dict[str, deque[float]] = field(default_factory=dict)

    def give(
        self, authorization: str | None, rquid: str | None, scope: str, *, lifetime_seconds: float, per_second: int
    ) -> Token:
        """Check an OAuth request and give a token.

        Args:
            authorization: The header.
            rquid: The header `RqUID`.
            scope: From the form; "" without one.
            lifetime_seconds: How long the token is good.
            per_second: Requests of one account in a second; over that they are refused.

        Raises:
            OAuthRefused: With the API's code for what is wrong.
        """
        if not rquid:
            raise OAuthRefused(400, 2, "RqUID header is missing")  # the code for this is not known
        given = _decoded(authorization)
        if not scope:
            raise OAuthRefused(400, 5, "scope is empty")
        wanted: Scope | None = next((one for one in get_args(Scope) if one == scope), None)
        if wanted is None:
            raise OAuthRefused(400, 1, "scope data format invalid")
        account = next((one for one in _ACCOUNTS if f"{one.client_id}:{one.client_secret}" == given), None)
        if account is None:
            raise OAuthRefused(401, 6, "credentials doesn't match db data")
        if wanted not in account.scopes:
            raise OAuthRefused(400, 7, "scope from db not fully includes consumed scope")
        if self._too_often(account, per_second):
            raise OAuthRefused(429, 429, "Too many requests")  # the body of this one is not known
        token = Token(secrets.token_urlsafe(48), account, wanted, time.time() + lifetime_seconds)
        self._tokens[token.value] = token
        return token

    def _too_often(self, account: Account, per_second: int) -> bool:
        now = time.monotonic()
        asked = self._asked.setdefault(account.client_id, deque())
        while asked and asked[0] <= now - 1:
            asked.popleft()
        if len(asked) >= per_second:
            return True
        asked.append(now)
        return False

    def check(self, authorization: str | None) -> Token:
        """Give the token of a call.

        Raises:
            TokenExpired: It was good once.
            TokenUnknown: There is none in the header, or it was never given out.
        """
        scheme, _, value = (authorization or "").partition(" ")
        token = self._tokens.get(value)
        if scheme != "Bearer" or token is None:
            raise TokenUnknown
        if value in self._expired or time.time() >= token.expires_at:
            raise TokenExpired
        return token

    def expire_all(self) -> None:
        """Let every token that was given out so far be good no more."""
        self._expired.update(self._tokens)


def _decoded(authorization: str | None) -> str:
    """Give `id:secret` from a Basic header."""
    if authorization is None:
        raise OAuthRefused(401, 4, "Can't decode 'Authorization' header")
    scheme, _, value = authorization.partition(" ")
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    if scheme != "Basic" or ":" not in text:
        raise OAuthRefused(400, 4, "Can't decode 'Authorization' header")
    return text


class TooManyStreams(Exception):
    """The account has as many calls at once as it may."""


@dataclass(slots=True)
class Streams:
    """Calls under way, by account and by endpoint."""

    _accounts: Counter[str] = field(default_factory=Counter)
    _now: Counter[str] = field(default_factory=Counter)
    _most: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def one(self, account: str, endpoint: Endpoint, limit: int) -> Iterator[None]:
        """Have one stream more while the block runs.

        Raises:
            TooManyStreams: The account has `limit` already.
        """
        if self._accounts[account] >= limit:
            raise TooManyStreams
        self._accounts[account] += 1
        self._now[endpoint] += 1
        self._most[endpoint] = max(self._most[endpoint], self._now[endpoint])
        try:
            yield
        finally:
            self._accounts[account] -= 1
            self._now[endpoint] -= 1

    def report(self) -> dict[str, dict[str, int]]:
        """Tell the streams of the two endpoints that have them: how many now, and the most at once."""
        return {name: {"now": self._now[name], "max": self._most[name]} for name in ("chat", "embeddings")}
