"""A model behind an API that speaks as OpenAI's, as a vision provider: the picture goes with the question.

What is not here: HTTP (`openai_compatible.py`), retries (`provider_calls.py`), and how an answer is insisted on
(`core/asking.py`).
"""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vision_assets.clients.openai_compatible import Choice, OpenAICompatible
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

LIMITS = PictureLimits(
    # What every server takes; as text a picture is a third longer.
    mimes=frozenset({"image/jpeg", "image/png"}),
    max_bytes=3_500_000,
    max_pixels=1536 * 1536,
)
PICTURE_TOKENS = 3072
"""Of one picture at most: models that cut it into patches take one token for 28×28 pixels, and a few around them."""


def identity(model: str, language: Language, prompts: Prompts) -> ModelIdentity:
    """Tell, without a connection, as whom such a model answers a tenant's questions."""
    estimate = estimated_tokens(language, prompts, picture_tokens=PICTURE_TOKENS)
    return ModelIdentity(OpenAIVision.name, model, fingerprint(language, prompts, LIMITS), estimate)


@dataclass(slots=True)
class OpenAIVision:
    """Implements `core.vision.VisionProvider` for one tenant.

    Attributes:
        model: By the API's own name.
        language: Of descriptions, labels and objects.
        prompts: Which picture is asked what.
    """

    api: OpenAICompatible
    tenant_id: TenantId
    model: str
    language: Language = Language.RU
    prompts: Prompts = field(default_factory=Prompts)
    ladder: Ladder = field(default_factory=lambda: Ladder("openai"))

    name = "openai"

    fingerprint: str = field(init=False)
    estimated_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        known = identity(self.model, self.language, self.prompts)
        self.fingerprint, self.estimated_tokens = known.fingerprint, known.estimated_tokens

    async def prepare(self, content: bytes, *, mime: str, measured: Measured | None = None) -> Look:
        """Make one picture ready to be looked at.

        Raises:
            InputRejected: Nothing was billed: it cannot be decoded, or, by the look, is refused as it is.
            AnswerRefused: By the look: `content_filter`, or `parse_failed` with what was said instead.
            ProviderUnavailable, ProviderBudgetGone, ConfigurationError: As the Protocol says.
        """
        picture = await asyncio.to_thread(fitted, content, limits=LIMITS, known=measured)
        asked = prompt(self.prompts.choose(mime, picture.measured.kind), self.language)
        return partial(self._look, picture, asked)

    async def _look(self, picture: FittedPicture, asked: Prompt) -> Analysis:
        url = f"data:{picture.mime};base64,{base64.b64encode(picture.content).decode()}"
        shown = _Shown(self.api, self.tenant_id, self.model, url, untold_tokens=self.estimated_tokens)
        answer = await self.ladder.answer(shown, asked, self.language)
        return analysis_of(
            answer.reply.seen, measurement=picture.measured.measurement, model=answer.model, tokens_used=answer.tokens
        )


@dataclass(frozen=True, slots=True)
class _Shown:
    """Implements `core.asking.Asker` for one picture.

    Attributes:
        url: Holds the picture itself.
        untold_tokens: What a question is charged whose usage the server does not tell.
    """

    api: OpenAICompatible
    tenant_id: TenantId
    model: str
    url: str
    untold_tokens: int

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
