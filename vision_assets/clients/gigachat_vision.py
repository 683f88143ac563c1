"""GigaChat as a vision provider: a picture is uploaded, asked about, and deleted.

What is not here: HTTP, retries and files (`gigachat.py`), and how an answer is insisted on (`core/asking.py`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gigachat.models import Choices

from vision_assets.clients.gigachat import GigaChat
from vision_assets.core.asking import (
    FUNCTION,
    Form,
    Ladder,
    ModelIdentity,
    Question,
    Said,
    estimated_tokens,
    fingerprint,
)
from vision_assets.core.policy import Prompts
from vision_assets.core.prompts import Language, Prompt, prompt
from vision_assets.core.provider_pictures import FittedPicture, PictureLimits, fitted
from vision_assets.core.replies import SCHEMA, analysis_of
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import Analysis, Look, Measured

LIMITS = PictureLimits(mimes=frozenset({"image/jpeg", "image/png"}), max_bytes=15_000_000, max_pixels=40_000_000)
PICTURE_TOKENS = 1792
"""Of one picture at most; a third party's figure."""


def identity(model: str, language: Language, prompts: Prompts) -> ModelIdentity:
    """Tell, without a connection, as whom GigaChat answers a tenant's questions."""
    estimate = estimated_tokens(language, prompts, picture_tokens=PICTURE_TOKENS)
    return ModelIdentity(GigaChatVision.name, model, fingerprint(language, prompts, LIMITS), estimate)


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
    ladder: Ladder = field(default_factory=lambda: Ladder("GigaChat"))

    name = "gigachat"

    fingerprint: str = field(init=False)
    estimated_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        known = identity(self.model, self.language, self.prompts)
        self.fingerprint, self.estimated_tokens = known.fingerprint, known.estimated_tokens

    async def prepare(self, content: bytes, *, mime: str, measured: Measured | None = None) -> Look:
        """Make one picture ready to be looked at.

        Raises:
            InputRejected: Nothing was billed: it cannot be decoded, or, by the look, is refused as it is.
            AnswerRefused: By the look: `blacklist`, or `parse_failed` with what was said instead.
            ProviderUnavailable, ProviderBudgetGone, ConfigurationError: As the Protocol says.
        """
        picture = await asyncio.to_thread(fitted, content, limits=LIMITS, known=measured)
        asked = prompt(self.prompts.choose(mime, picture.measured.kind), self.language)
        return partial(self._look, picture, asked)

    async def _look(self, picture: FittedPicture, asked: Prompt) -> Analysis:
        async with self.api.uploaded(picture.content, mime=picture.mime) as file_id:
            shown = _Shown(self.api, self.tenant_id, self.model, file_id)
            answer = await self.ladder.answer(shown, asked, self.language)
        return analysis_of(
            answer.reply.seen,
            measurement=picture.measured.measurement,
            model=answer.model,
            tokens_used=answer.tokens,
            file_id=file_id,
        )


@dataclass(frozen=True, slots=True)
class _Shown:
    """Implements `core.asking.Asker` for one uploaded picture."""

    api: GigaChat
    tenant_id: TenantId
    model: str
    file_id: str

    async def ask(self, question: Question) -> Said:
        """See the Protocol."""
        attached = {"attachments": [self.file_id]} if question.with_picture else {}
        request = {
            "model": self.model,
            "temperature": 0.1,
            "max_tokens": question.max_tokens,
            "messages": [
                {"role": "system", "content": question.system},
                {"role": "user", "content": question.user, **attached},
            ],
        }
        completion = await self.api.chat(self.tenant_id, request | _in_form(question.form))
        tokens = completion.usage.total_tokens
        if not completion.choices:
            return Said("", completion.model, tokens, "failed", "answered without a choice")
        choice = completion.choices[0]
        return Said.finished(_raw(choice), completion.model, tokens, reason=choice.finish_reason, refusal="blacklist")


def _in_form(form: Form) -> dict[str, Any]:
    match form:
        case "schema":
            return {"response_format": {"type": "json_schema", "schema": dict(SCHEMA), "strict": True}}
        case "function":
            function = {"name": FUNCTION, "description": "Describes the picture.", "parameters": dict(SCHEMA)}
            return {"functions": [function], "function_call": {"name": FUNCTION}}
        case "words":
            return {}


def _raw(choice: Choices) -> str | Mapping[str, Any]:
    call = choice.message.function_call
    return choice.message.content if call is None or call.arguments is None else call.arguments
