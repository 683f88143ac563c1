"""Asking any model about a picture, and insisting on an answer that can be used.

The ladder: an answer by schema, else by a forced function, else JSON asked for in words; a reply that cannot be read is
put to the model once more, as text. What is not here: the questions' words (`prompts.py`), reading replies
(`replies.py`), and sending anything (`clients/`).
"""

import hashlib
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import structlog

from vision_assets.core import kind, prompts
from vision_assets.core.errors import (
    AnswerRefused,
    InputRejected,
    ProviderUnavailable,
    ReplyUnusable,
    VisionAssetsError,
)
from vision_assets.core.policy import Prompts, prompt_fingerprint
from vision_assets.core.prompts import Language, Prompt, prompt, repair_prompt
from vision_assets.core.provider_pictures import PictureLimits
from vision_assets.core.replies import SCHEMA, Reply, read_reply
from vision_assets.core.storable_text import storable

log = structlog.get_logger(__name__)

MAX_TOKENS = 1024
"""Of an answer. One that breaks off is asked for again with room for four times as much."""

FUNCTION = "describe_picture"
"""Its name, where the answer is to be the arguments of a function."""

_CHARACTERS_A_TOKEN = 3
_LONGER = 4

Form = Literal["schema", "function", "words"]
_FORMS: tuple[Form, ...] = ("schema", "function", "words")


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Implements `core.vision.ProviderIdentity` for a model that is asked over a network."""

    name: str
    model: str
    fingerprint: str
    estimated_tokens: int


@dataclass(frozen=True, slots=True)
class Question:
    """One question to a model.

    Attributes:
        form: How the answer is forced to be JSON: by a schema of the answer, by a function that must be called, or not.
        with_picture: Without, it is about an earlier reply, which stands in `user`.
    """

    system: str
    user: str
    form: Form
    max_tokens: int
    with_picture: bool = True


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said to one question.

    Attributes:
        raw: A message's content, or a function call's arguments.
        model: As it calls itself.
        tokens: As billed.
        end: `whole`; `cut_off` by `max_tokens`; `refused`: it will not speak of this picture; `failed`: by a fault of
            its own.
        why: Of `refused` a stable code; of `failed` what it did, for people.
    """

    raw: str | Mapping[str, Any]
    model: str
    tokens: int
    end: Literal["whole", "cut_off", "refused", "failed"] = "whole"
    why: str = ""

    @classmethod
    def finished(
        cls, raw: str | Mapping[str, Any], model: str, tokens: int, *, reason: str | None, refusal: str
    ) -> "Said":
        """Tell by the finish reason how a model ended.

        Args:
            reason: `error`, `length`, `refusal`; any other one is of a whole answer.
            refusal: The reason by which this API tells that it will not speak of the picture.
        """
        if reason == refusal:
            return cls(raw, model, tokens, "refused", refusal)
        match reason:
            case "error":
                return cls(raw, model, tokens, "failed", "broke its answer off by a fault of its own")
            case "length":
                return cls(raw, model, tokens, "cut_off")
            case _:
                return cls(raw, model, tokens)


class Asker(Protocol):
    """A model with one picture before it."""

    async def ask(self, question: Question) -> Said:
        """Put one question.

        Raises:
            InputRejected: The question will never be answered as it is; nothing was billed.
            ProviderBudgetGone, ConfigurationError: None will be, as things are.
            ProviderUnavailable: Transient; tells whether it may have been billed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that can be used.

    Attributes:
        tokens: Of all questions that it took.
    """

    reply: Reply
    model: str
    tokens: int


@dataclass(slots=True)
class Ladder:
    """How one model is asked, whatever the picture: the strictest form that it takes is found out once.

    Attributes:
        name: Of the provider, for people.
        forms: Those that the model has not refused, the strictest first.
    """

    name: str
    forms: list[Form] = field(default_factory=lambda: list(_FORMS))
    _settled: bool = False

    async def answer(self, asker: Asker, asked: Prompt, language: Language) -> Answer:
        """Ask about one picture until there is an answer.

        Raises:
            InputRejected: Nothing was billed: it is refused as it is.
            AnswerRefused: The model will not speak of it, or `parse_failed` with what was said instead.
            ProviderUnavailable: Transient; tells what was billed, and whether more may have been.
            ProviderBudgetGone, ConfigurationError: No picture will be looked at, as things are.
        """
        return await _Talk(self, asker, asked, language).answer()

    async def in_strictest_form(self, talk: "_Talk", *, max_tokens: int) -> Said:
        """Put the question about the picture in the strictest form that the model takes."""
        while True:
            form = self.forms[0]
            try:
                said = await talk.ask(Question(talk.asked.system, talk.asked.user, form, max_tokens))
            except AnswerRefused:
                raise
            except InputRejected as error:
                if form == self.forms[0]:  # else another picture has found out meanwhile
                    if self._settled or error.reason == "too_large_for_provider":
                        raise
                    if len(self.forms) == 1:
                        self.forms = list(_FORMS)  # it was the picture, and tells nothing of the forms
                        raise
                    log.warning("vision.form_refused", provider=self.name, form=form)
                    self.forms = self.forms[1:]
            else:
                self._settled = True
                return said


@dataclass(slots=True)
class _Talk:
    """All questions about one picture, and what they have cost so far."""

    ladder: Ladder
    asker: Asker
    asked: Prompt
    language: Language
    tokens: int = 0

    async def answer(self) -> Answer:
        said = await self.ladder.in_strictest_form(self, max_tokens=MAX_TOKENS)
        if said.end == "cut_off":
            said = await self._again(self.ladder.in_strictest_form(self, max_tokens=MAX_TOKENS * _LONGER))
        try:
            return Answer(read_reply(said.raw), said.model, self.tokens)
        except ReplyUnusable as error:
            log.warning("vision.reply_unusable", provider=self.ladder.name, reason=error.reason, error=str(error))
            repaired = await self._again(self._repair(said.raw, error))
            try:
                return Answer(read_reply(repaired.raw), said.model, self.tokens)
            except ReplyUnusable as still:
                raise AnswerRefused(
                    "parse_failed",
                    f"{said.model} gave no answer that can be read, twice: {still}",
                    tokens_used=self.tokens,
                    raw_reply=str(said.raw),
                ) from still

    async def ask(self, question: Question) -> Said:
        name = self.ladder.name
        said = await self.asker.ask(question)
        self.tokens += said.tokens
        if said.end == "refused":
            raise AnswerRefused(
                said.why, f"{name} will not speak of this picture.", tokens_used=self.tokens, raw_reply=str(said.raw)
            )
        if said.end == "failed":
            raise ProviderUnavailable(f"{name} {said.why}", sent=False, tokens_used=self.tokens)
        return said

    async def _repair(self, raw: str | Mapping[str, Any], error: ReplyUnusable) -> Said:
        text = storable(repair_prompt(raw, error, self.language))
        form = self.ladder.forms[0]
        return await self.ask(Question(self.asked.system, text, form, MAX_TOKENS * _LONGER, with_picture=False))

    async def _again(self, asking: Awaitable[Said]) -> Said:
        """Put a further question about a picture; whatever becomes of it, the first one was billed."""
        try:
            return await asking
        except AnswerRefused:
            raise
        except VisionAssetsError as error:
            raise ProviderUnavailable(
                f"A further question about the picture failed: {error}",
                sent=isinstance(error, ProviderUnavailable) and error.sent,
                tokens_used=self.tokens,
            ) from error


def fingerprint(language: Language, choice: Prompts, limits: PictureLimits) -> str:
    """Hash all that shapes the answers to a tenant's questions, but for the model.

    Args:
        choice: Which picture is asked what; only the prompts that it may choose count.
        limits: To which pictures are fitted before they are sent.
    """
    parts = [
        prompt_fingerprint(language, choice),
        {preset: prompts.fingerprint(preset, language) for preset in choice.choices()},
        kind.VERSION,
        [sorted(limits.mimes), limits.max_bytes, limits.max_pixels],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def estimated_tokens(language: Language, choice: Prompts, *, picture_tokens: int) -> int:
    """Bound one question with its picture and its answer. A question that must be put twice takes more.

    Args:
        choice: The longest of the prompts that it may choose counts.
        picture_tokens: Of one picture at most.
    """
    asked = [prompt(preset, language) for preset in choice.choices()]
    longest = max(len(one.system + one.user) for one in asked)
    return picture_tokens + MAX_TOKENS + (longest + len(str(SCHEMA))) // _CHARACTERS_A_TOKEN
