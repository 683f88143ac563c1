"""A model behind an API that speaks as OpenAI's, as a vision provider: the picture goes with the question.

What is not here: HTTP (`openai_compatible.py`), retries (`provider_calls.py`), and what all models have in common
(`core/model_vision.py`).
"""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from vision_assets.clients.openai_compatible import Choice, OpenAICompatible
from vision_assets.core.asking import FUNCTION, Form, Question, Said
from vision_assets.core.model_vision import ModelVision
from vision_assets.core.provider_pictures import FittedPicture, PictureLimits
from vision_assets.core.replies import SCHEMA
from vision_assets.core.tenants import TenantId


@dataclass(slots=True)
class OpenAIVision(ModelVision):
    """The models behind one such API, for one tenant."""

    api: OpenAICompatible
    tenant_id: TenantId

    name = "openai"
    limits = PictureLimits(
        # What every server takes; as text a picture is a third longer.
        mimes=frozenset({"image/jpeg", "image/png"}),
        max_bytes=3_500_000,
        max_pixels=1536 * 1536,
    )
    # Models that cut a picture into patches take one token for 28×28 pixels, and a few around them.
    picture_tokens = 3072

    @asynccontextmanager
    async def _shown(self, picture: FittedPicture) -> AsyncIterator["_Shown"]:
        url = f"data:{picture.mime};base64,{base64.b64encode(picture.content).decode()}"
        yield _Shown(self.api, self.tenant_id, self.model, url, untold_tokens=self.estimated_tokens)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Implements `core.model_vision.Shown`.

    Attributes:
        url: Holds the picture itself.
        untold_tokens: What a question is charged whose usage the server does not tell.
    """

    api: OpenAICompatible
    tenant_id: TenantId
    model: str
    url: str
    untold_tokens: int
    file_id: None = None

    async def ask(self, question: Question) -> Said:
        """See the Protocol."""
        content: list[dict[str, Any]] = [{"type": "text", "text": question.user}]
        if question.with_picture:
            content.append({"type": "image_url", "image_url": {"url": self.url}})
        request = {
            "model": self.model,
            "temperature": 0.1,
            "max_tokens": question.max_tokens,
            "user": str(self.tenant_id),
            "messages": [{"role": "system", "content": question.system}, {"role": "user", "content": content}],
        }
        completion = await self.api.chat(request | _in_form(question.form))
        told = completion.usage.total_tokens if completion.usage else None
        tokens = told or self.untold_tokens
        if not completion.choices:
            return Said("", completion.model, tokens, "failed", "answered without a choice")
        choice = completion.choices[0]
        if choice.message.refusal:
            return Said(choice.message.refusal, completion.model, tokens, "refused", "content_filter")
        return Said.finished(
            _raw(choice), completion.model, tokens, reason=choice.finish_reason, refusal="content_filter"
        )


def _in_form(form: Form) -> dict[str, Any]:
    match form:
        case "schema":
            schema = {"name": FUNCTION, "schema": _STRICT_SCHEMA, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "function":
            function = {"name": FUNCTION, "description": "Describes the picture.", "parameters": dict(SCHEMA)}
            return {
                "tools": [{"type": "function", "function": function}],
                "tool_choice": {"type": "function", "function": {"name": FUNCTION}},
            }
        case "words":
            return {}


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give a schema in which every field must be told, as strict answers demand; what may be left out may be null."""
    properties = {
        name: field if name in schema["required"] else {**field, "type": [field["type"], "null"]}
        for name, field in schema["properties"].items()
    }
    return {**schema, "properties": properties, "required": list(properties)}


_STRICT_SCHEMA = _strict(SCHEMA)


def _raw(choice: Choice) -> str | Mapping[str, Any]:
    if choice.message.tool_calls:
        return choice.message.tool_calls[0].function.arguments
    return choice.message.content or ""
