"""GigaChat as a vision provider: a picture is uploaded, asked about, and deleted.

What is not here: HTTP, retries and files (`gigachat.py`), and what all models have in common (`core/model_vision.py`).
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gigachat.models import Choices

from vision_assets.clients.gigachat import GigaChat
from vision_assets.core.asking import FUNCTION, Form, Question, Said
from vision_assets.core.model_vision import ModelVision
from vision_assets.core.provider_pictures import FittedPicture, PictureLimits
from vision_assets.core.replies import SCHEMA
from vision_assets.core.tenants import TenantId


@dataclass(slots=True)
class GigaChatVision(ModelVision):
    """GigaChat's models, for one tenant."""

    api: GigaChat
    tenant_id: TenantId

    name = "gigachat"
    limits = PictureLimits(mimes=frozenset({"image/jpeg", "image/png"}), max_bytes=15_000_000, max_pixels=40_000_000)
    picture_tokens = 1792  # a third party's figure

    @asynccontextmanager
    async def _shown(self, picture: FittedPicture) -> AsyncIterator["_Shown"]:
        async with self.api.uploaded(picture.content, mime=picture.mime) as file_id:
            yield _Shown(self.api, self.tenant_id, self.model, file_id)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Implements `core.model_vision.Shown` for one uploaded picture."""

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
