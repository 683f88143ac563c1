"""GigaChat as a vision provider: asks about one picture, and insists on an answer that can be used.

The ladder: an answer by schema, else by a forced function, else JSON asked for in words; a reply that cannot be read is
put to the model once more, as text. Colours, size, blur and barcodes are measured here. What is not here: HTTP, retries
and files (`gigachat.py`), the questions (`core/prompts.py`), reading replies (`core/replies.py`).
"""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from gigachat.models import ChatCompletion, Choices

from vision_assets.clients.gigachat import GigaChat
from vision_assets.core.asking import MAX_TOKENS, estimated_tokens, fingerprint
from vision_assets.core.errors import (
    AnswerRefused,
    InputRejected,
    ProviderUnavailable,
    ReplyUnusable,
    VisionAssetsError,
)
from vision_assets.core.policy import Prompts
from vision_assets.core.prompts import Language, Prompt, prompt, repair_prompt
from vision_assets.core.provider_pictures import PictureLimits, fitted
from vision_assets.core.replies import SCHEMA, Reply, analysis_of, read_reply
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import Analysis

log = structlog.get_logger(__name__)

LIMITS = PictureLimits(mimes=frozenset({"image/jpeg", "image/png"}), max_bytes=15_000_000, max_pixels=40_000_000)
PICTURE_TOKENS = 1792
"""Of one picture at most; a third party's figure."""

_LONGER = 4
_FUNCTION = "describe_picture"

Form = Literal["schema", "function", "words"]
_FORMS: tuple[Form, ...] = ("schema", "function", "words")


@dataclass(slots=True)
class _Bill:
    tokens: int = 0


@dataclass(slots=True)
class GigaChatVision:
    """Implements `core.vision.VisionProvider` for one tenant.

    Attributes:
        language: Of descriptions, labels and objects.
        prompts: Which picture is asked what.
    """

    api: GigaChat
    tenant_id: TenantId
    model: str
    language: Language = Language.RU
    prompts: Prompts = field(default_factory=Prompts)
    _forms: list[Form] = field(default_factory=lambda: list(_FORMS))
    _settled: bool = False

    name = "gigachat"

    @property
    def fingerprint(self) -> str:
        """Of the questions, and of how a picture is sent."""
        return fingerprint(self.language, self.prompts, LIMITS)

    @property
    def estimated_tokens(self) -> int:
        """Of one question with its picture and its answer."""
        return estimated_tokens(self.language, self.prompts, picture_tokens=PICTURE_TOKENS)

    async def analyze(self, content: bytes, *, mime: str) -> Analysis:
        """Look at one picture.

        Raises:
            InputRejected: Nothing was billed: it cannot be decoded, or is refused as it is.
            AnswerRefused: `blacklist`, or `parse_failed` with what was said instead.
            ProviderUnavailable: Transient; tells whether it may have been billed.
            ProviderBudgetGone, ConfigurationError: No picture will be looked at, as things are.
        """
        picture = await asyncio.to_thread(fitted, content, limits=LIMITS)
        asked = prompt(self.prompts.choose(mime, picture.kind), self.language)
        bill = _Bill()
        async with self.api.uploaded(picture.content, mime=picture.mime) as file_id:
            reply, completion = await self._answer(asked, file_id, bill)
        return analysis_of(
            reply.seen,
            measurement=picture.measurement,
            model=completion.model,
            tokens_used=bill.tokens,
            file_id=file_id,
        )

    async def _answer(self, asked: Prompt, file_id: str, bill: _Bill) -> tuple[Reply, ChatCompletion]:
        completion = await self._ask(asked, file_id, bill, max_tokens=MAX_TOKENS)
        if completion.choices[0].finish_reason == "length":
            completion = await self._again(self._ask(asked, file_id, bill, max_tokens=MAX_TOKENS * _LONGER), bill)
        raw = _said(completion.choices[0])
        try:
            return read_reply(raw), completion
        except ReplyUnusable as error:
            log.warning("gigachat.reply_unusable", reason=error.reason, error=str(error))
            repaired = await self._again(self._repair(asked, raw, error, bill), bill)
            try:
                return read_reply(_said(repaired.choices[0])), completion
            except ReplyUnusable as still:
                raise AnswerRefused(
                    "parse_failed",
                    f"{self.model} gave no answer that can be read, twice: {still}",
                    tokens_used=bill.tokens,
                    raw_reply=str(raw),
                ) from still

    async def _ask(self, asked: Prompt, file_id: str, bill: _Bill, *, max_tokens: int) -> ChatCompletion:
        """Ask in the strictest form that this model takes; which one that is, is found out once."""
        messages = [
            {"role": "system", "content": asked.system},
            {"role": "user", "content": asked.user, "attachments": [file_id]},
        ]
        while True:
            form = self._forms[0]
            try:
                answer = await self._chat({"messages": messages, "max_tokens": max_tokens} | _in_form(form), bill)
            except AnswerRefused:
                raise
            except InputRejected as error:
                if form == self._forms[0]:  # else another picture has found out meanwhile
                    if self._settled or len(self._forms) == 1 or error.reason == "too_large_for_provider":
                        raise
                    log.warning("gigachat.form_refused", form=form)
                    self._forms = self._forms[1:]
            else:
                self._settled = True
                return answer

    async def _repair(
        self, asked: Prompt, raw: str | Mapping[str, Any], error: ReplyUnusable, bill: _Bill
    ) -> ChatCompletion:
        messages = [
            {"role": "system", "content": asked.system},
            {"role": "user", "content": repair_prompt(raw, error, self.language)},
        ]
        form = _in_form(self._forms[0])
        return await self._chat({"messages": messages, "max_tokens": MAX_TOKENS * _LONGER} | form, bill)

    async def _chat(self, request: Mapping[str, Any], bill: _Bill) -> ChatCompletion:
        completion = await self.api.chat(self.tenant_id, {"model": self.model, "temperature": 0.1, **request})
        bill.tokens += completion.usage.total_tokens
        if not completion.choices:
            raise ProviderUnavailable("GigaChat answered without a choice", sent=False, tokens_used=bill.tokens)
        choice = completion.choices[0]
        if choice.finish_reason == "blacklist":
            raise AnswerRefused(
                "blacklist",
                "GigaChat will not speak of this picture.",
                tokens_used=bill.tokens,
                raw_reply=str(_said(choice)),
            )
        if choice.finish_reason == "error":
            raise ProviderUnavailable(
                "GigaChat broke its answer off by a fault of its own", sent=False, tokens_used=bill.tokens
            )
        return completion

    async def _again(self, asking: Awaitable[ChatCompletion], bill: _Bill) -> ChatCompletion:
        """Put a further question about a picture; whatever becomes of it, the first one was billed."""
        try:
            return await asking
        except AnswerRefused:
            raise
        except VisionAssetsError as error:
            raise ProviderUnavailable(
                f"A further question about the picture failed: {error}",
                sent=isinstance(error, ProviderUnavailable) and error.sent,
                tokens_used=bill.tokens,
            ) from error


def _in_form(form: Form) -> dict[str, Any]:
    match form:
        case "schema":
            return {"response_format": {"type": "json_schema", "schema": dict(SCHEMA), "strict": True}}
        case "function":
            function = {"name": _FUNCTION, "description": "Describes the picture.", "parameters": dict(SCHEMA)}
            return {"functions": [function], "function_call": {"name": _FUNCTION}}
        case "words":
            return {}


def _said(choice: Choices) -> str | Mapping[str, Any]:
    call = choice.message.function_call
    return choice.message.content if call is None or call.arguments is None else call.arguments
