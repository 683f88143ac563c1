"""What a model says of a picture, read from its reply or refused; nothing is added, and prose is no answer.

What is not here: finding the JSON (`json_answers.py`), asking (`prompts.py`, `clients/`), and whether a reply without
an answer is worth another call.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from vision_assets.core.errors import ReplyUnusable
from vision_assets.core.json_answers import ParseMethod, find_answer, without_thinking
from vision_assets.core.storable_text import storable
from vision_assets.core.vision import Analysis, Classification, Kind, Measurement, Ocr

MAX_REPLY_BYTES = 20_000
"""Of an answer, without its thinking. Nobody says more of one picture, and repairing takes time by the square."""

MAX_LABELS = 20
MAX_OBJECTS = 10

_STRINGS = {"type": "array", "items": {"type": "string"}}

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "classification": {"type": "string", "enum": [str(kind) for kind in Kind]},
        "description": {"type": "string"},
        "is_meme": {"type": "boolean"},
        "labels": _STRINGS,
        "objects": _STRINGS,
        "scene": {"type": "string"},
        "ocr_text": {"type": "string"},
        "nsfw_score": {"type": "number"},
        "aesthetic_score": {"type": "number"},
    },
    "required": ["classification", "is_meme", "labels"],
    "additionalProperties": False,
}
"""For `response_format` and for a function's parameters.

Functions take no unions, so nothing here may be null: what a model does not know it leaves out. Lengths and ranges
stand in the prompt and are enforced by `Seen`; as keywords they are one more thing for a provider to refuse.
"""

_REQUIRED: tuple[str, ...] = tuple(SCHEMA["required"])


def _text(value: object) -> object:
    return storable(value).strip() if isinstance(value, str) else value


def _kind(value: object) -> Kind:
    try:
        return Kind(value.strip().lower() if isinstance(value, str) else "")
    except ValueError as error:
        raise ValueError(f"must be one of {', '.join(Kind)}") from error


def _words(value: object, *, limit: int, fold: Callable[[str], str] = str) -> object:
    """Clean a list of words: each once, empty ones left out. Anything but a list of strings stays to be refused."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return value
    return [word for word in dict.fromkeys(_text(fold(word)) for word in value) if word][:limit]


def _or_none(value: object, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


def _or_nothing(value: object, validate: ValidatorFunctionWrapHandler) -> Any:
    return _or_none(value, validate) or []


_Text = Annotated[str | None, BeforeValidator(_text), WrapValidator(_or_none)]
_Phrase = Annotated[str | None, StringConstraints(min_length=1), BeforeValidator(_text), WrapValidator(_or_none)]
_Sentence = Annotated[str | None, StringConstraints(min_length=5), BeforeValidator(_text), WrapValidator(_or_none)]
_Score = Annotated[float | None, Field(ge=0, le=1), WrapValidator(_or_none)]


class Seen(BaseModel):
    """What a model says of a picture. Whatever else it says is ignored, be it colours, sizes or a confidence.

    In the three fields that are required a wrong value makes the whole reply unusable: without them a result would have
    to be made up. In any other it is as if the field had not been told. Lists that are too long are cut.

    Attributes:
        classification: One of the six kinds, in any case.
        is_meme: A JSON boolean, not a word that means one.
        labels: At most 20, lower case, each once.
        description: At least 5 characters, or None.
        objects: At most 10; none also where they were not told.
        scene: Not empty, or None.
        ocr_text: Empty: the model found no text; None: it did not say.
        nsfw_score: 0–1, or None; a figure out of range tells nothing.
        aesthetic_score: 0–1, or None.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    classification: Annotated[Kind, BeforeValidator(_kind)]
    is_meme: bool
    labels: Annotated[list[str], BeforeValidator(partial(_words, limit=MAX_LABELS, fold=str.lower))]
    description: _Sentence = None
    objects: Annotated[list[str], BeforeValidator(partial(_words, limit=MAX_OBJECTS)), WrapValidator(_or_nothing)] = []
    scene: _Phrase = None
    ocr_text: _Text = None
    nsfw_score: _Score = None
    aesthetic_score: _Score = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that holds an answer.

    Attributes:
        parse_method: `strict`: the reply is JSON, but for its thinking; `extracted`: JSON stands in it, among prose or
            in a fence; `repaired`: its JSON is damaged.
    """

    seen: Seen
    parse_method: ParseMethod


def read_reply(raw: str | Mapping[str, Any]) -> Reply:
    """Find the answer in a reply: the last object that has the required keys.

    Args:
        raw: A message's content, or a function call's arguments in either of their forms.

    Raises:
        ReplyUnusable: There is no answer in it.
    """
    try:
        text = without_thinking(raw if isinstance(raw, str) else json.dumps(dict(raw), ensure_ascii=False))
        if not text:
            raise ReplyUnusable("empty", "The reply is empty.")
        if len(text.encode("utf-8", "surrogatepass")) > MAX_REPLY_BYTES:
            raise ReplyUnusable("too_long", f"The reply is longer than {MAX_REPLY_BYTES} bytes.")
        found = find_answer(text, _REQUIRED)
    except RecursionError as error:
        raise ReplyUnusable("no_answer", "The reply is nested too deeply.") from error
    if found is None:
        raise ReplyUnusable("no_answer", f"The reply holds no JSON object with the keys {', '.join(_REQUIRED)}.")
    answer, method = found
    return Reply(_validated(answer), method)


def analysis_of(
    seen: Seen,
    *,
    measurement: Measurement,
    model: str,
    tokens_used: int,
    cost_microunits: int = 0,
    file_id: str | None = None,
) -> Analysis:
    """Put together what a model said and what was measured here.

    A model tells no confidence that could be trusted, so there is none. The result is `partial` where the text or the
    description is wanting.

    Args:
        measurement: Size, colours, blur and barcodes; the model has no say in them.
        model: Stands as the method of the classification and as the engine of the text.
        tokens_used: As billed, all calls about this picture together.
        cost_microunits: Likewise.
        file_id: The provider's id of the upload.
    """
    if seen.ocr_text is None:
        ocr = Ocr(status="unavailable", engine=model, reason=f"{model} did not say what is written in the picture")
    else:
        ocr = Ocr(status="ok", text=seen.ocr_text, engine=model)
    return Analysis(
        status="ok" if ocr.status == "ok" and seen.description is not None else "partial",
        classification=Classification(kind=seen.classification, confidence=None, method=model),
        description=seen.description,
        is_meme=seen.is_meme,
        labels=seen.labels,
        objects=seen.objects,
        scene=seen.scene,
        ocr=ocr,
        nsfw_score=seen.nsfw_score,
        aesthetic_score=seen.aesthetic_score,
        measurement=measurement,
        tokens_used=tokens_used,
        cost_microunits=cost_microunits,
        file_id=file_id,
    )


def _validated(answer: Mapping[str, Any]) -> Seen:
    try:
        return Seen.model_validate(answer)
    except ValidationError as error:
        wrong = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_url=False))
        raise ReplyUnusable("invalid", f"Wrong values: {wrong}.") from error
