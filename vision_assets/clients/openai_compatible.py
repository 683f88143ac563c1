"""Any API that speaks as OpenAI's (OpenRouter, vLLM, Ollama): the official SDK, and only what we tell it.

The SDK fills from the environment whatever it is not told, headers included; none of that is sent. What is not here:
retries and the breaker (`provider_calls.py`), what an error means (`openai_errors.py`), prompts and answers
(`openai_vision.py`).
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx2
from openai import APIStatusError, AsyncOpenAI
from pydantic import BaseModel, Field, SecretStr

from vision_assets.clients.openai_errors import ErrorInAnswer, is_slower_please, translated
from vision_assets.clients.provider_calls import KEEPALIVE_SECONDS, ProviderCalls

_HEADERS_SENT = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"}
)
_NO_KEY = "none"


@dataclass(frozen=True, slots=True)
class OpenAIAccess:
    """Where the API is, and who we are there.

    Attributes:
        base_url: With its version: https://host/v1.
        api_key: None: none is sent.
        connect_seconds: To connect, and to wait for a free connection.
        read_seconds: Between two pieces of an answer, the first included.
        deadline_seconds: Of one call with all its attempts; none begins later.
        recovery_seconds: Without a call, after failures in succession; then one more failure begins them anew.
        max_connections: At once.
    """

    base_url: str
    api_key: SecretStr | None = None
    connect_seconds: float = 10
    read_seconds: float = 60
    deadline_seconds: float = 120
    recovery_seconds: float = 30
    max_connections: int = 20

    def timeout(self) -> httpx2.Timeout:
        """Split the time-outs."""
        return httpx2.Timeout(
            connect=self.connect_seconds, pool=self.connect_seconds, read=self.read_seconds, write=self.read_seconds
        )


class CalledFunction(BaseModel):
    """A function that the model calls, with its arguments as text."""

    arguments: str | dict[str, Any]


class ToolCall(BaseModel):
    """A call of a tool; only functions are offered."""

    function: CalledFunction


class Message(BaseModel):
    """What the model says."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(BaseModel):
    """One answer of those that were asked for."""

    message: Message
    finish_reason: str | None = None


class Usage(BaseModel):
    """What a call cost, in tokens; a server that does not count leaves it out, or says 0."""

    total_tokens: int | None = Field(None, ge=0)


class Completion(BaseModel):
    """The part of an answer that is read here; servers differ in all the rest.

    Attributes:
        usage: None: the server does not tell.
    """

    model: str
    choices: list[Choice]
    usage: Usage | None = None


@dataclass(slots=True)
class OpenAICompatible:
    """One account, in one event loop. Made by `open`."""

    access: OpenAIAccess
    _sdk: AsyncOpenAI = field(repr=False)
    _calls: ProviderCalls = field(repr=False, init=False)

    def __post_init__(self) -> None:
        self._calls = ProviderCalls(
            "OpenAI",
            self.access.deadline_seconds,
            self.access.recovery_seconds,
            translated,
            answered=(APIStatusError, ErrorInAnswer),
            blameless=is_slower_please,
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, access: OpenAIAccess) -> "AsyncIterator[OpenAICompatible]":
        """Open a client in the running event loop, and close it at the end; nothing is sent yet."""
        key = access.api_key.get_secret_value() if access.api_key else None
        async with httpx2.AsyncClient(
            timeout=access.timeout(),
            limits=httpx2.Limits(max_connections=access.max_connections, keepalive_expiry=KEEPALIVE_SECONDS),
            event_hooks={"request": [partial(_send_only_ours, key)]},
            trust_env=False,
        ) as http:
            sdk = AsyncOpenAI(
                api_key=key or _NO_KEY,
                base_url=access.base_url,
                timeout=access.timeout(),
                max_retries=0,
                http_client=http,
            )
            yield cls(access, sdk)

    async def chat(self, request: Mapping[str, Any]) -> Completion:
        """Have the model answer. An attempt that may have been billed is not made again.

        Args:
            request: The body.

        Raises:
            InputRejected: The request will never be answered.
            ProviderBudgetGone, ConfigurationError: No request will be, as things are.
            ProviderUnavailable: Transient; tells whether it may have been billed.
        """
        return await self._calls.call("chat", partial(self._ask, request), billed=True)

    async def _ask(self, request: Mapping[str, Any]) -> Completion:
        response = await self._sdk.post("/chat/completions", cast_to=httpx2.Response, body=dict(request))
        document = json.loads(response.content)
        error = document.get("error") if isinstance(document, dict) else None
        if isinstance(error, dict):
            raise ErrorInAnswer(error)
        return Completion.model_validate(document)


async def _send_only_ours(key: str | None, request: httpx2.Request) -> None:
    for name in set(request.headers) - _HEADERS_SENT:
        del request.headers[name]
    if key is not None:
        request.headers["Authorization"] = f"Bearer {key}"
