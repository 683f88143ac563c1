"""What the emulated GigaChat says: the fields of an answer, and its text in good and in broken JSON.

What does not belong here: looking at pictures (`gigachat_sight.py`), what a call costs and HTTP (`gigachat_chat.py`).
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vision_assets.devstack.gigachat_sight import Colour, Kind, Light, Sight

CHARACTERS_A_TOKEN = 4
APOLOGY = "Не люблю менять тему разговора, но вот сейчас тот самый случай."

# Russian and English.
_KINDS: dict[Kind, tuple[str, str]] = {
    "photo": ("фотография", "photo"),
    "meme": ("мем", "meme"),
    "document": ("документ", "document"),
    "screenshot": ("снимок экрана", "screenshot"),
    "infographic": ("инфографика", "infographic"),
    "other": ("изображение", "picture"),
}
_LIGHTS: dict[Light, tuple[str, str]] = {"light": ("светлое", "light"), "dark": ("тёмное", "dark")}
_COLOURS: dict[Colour, tuple[str, str]] = {
    "black": ("чёрный", "black"),
    "white": ("белый", "white"),
    "grey": ("серый", "grey"),
    "red": ("красный", "red"),
    "orange": ("оранжевый", "orange"),
    "yellow": ("жёлтый", "yellow"),
    "green": ("зелёный", "green"),
    "cyan": ("голубой", "cyan"),
    "blue": ("синий", "blue"),
    "purple": ("фиолетовый", "purple"),
    "pink": ("розовый", "pink"),
    "brown": ("коричневый", "brown"),
}
_OBJECTS: dict[Kind, tuple[str, str]] = {
    "meme": ("подпись", "caption"),
    "document": ("текст", "text"),
    "screenshot": ("экран", "screen"),
    "infographic": ("диаграмма", "chart"),
}
_DESCRIBED_CHARACTERS = 200
_WORD = re.compile(r"[^\W\d_]{5,}")


def of_picture(sight: Sight, *, english: bool) -> dict[str, Any]:
    """Give every field that can be told of a picture; None for what cannot."""
    kind, light, colour = (
        words[english] for words in (_KINDS[sight.kind], _LIGHTS[sight.light], _COLOURS[sight.colour])
    )
    size = f"{sight.width}×{sight.height}"
    return {
        "classification": sight.kind,
        "description": f"A {light} {kind}, {size} pixels, mostly {colour}."
        if english
        else f"На картинке {kind}, {light} изображение {size} пикселей, основной цвет — {colour}.",
        "is_meme": sight.kind == "meme",
        "labels": list(dict.fromkeys([kind, colour, light])),
        "objects": [_OBJECTS[sight.kind][english]] if sight.kind in _OBJECTS else [],
        "scene": f"{light} {'scene' if english else 'изображение'}" if sight.kind == "photo" else None,
        "ocr_text": None,
        "nsfw_score": round(sight.skin * 0.2, 3),
        "aesthetic_score": round(min(1.0, 0.3 + 2 * sight.contrast), 3),
    }


def of_text(text: str) -> dict[str, Any]:
    """Give every field that can be told of a text alone: its beginning and its commonest words."""
    beginning = " ".join(text.split())[:_DESCRIBED_CHARACTERS]
    return {
        "classification": "other",
        "description": beginning or None,
        "is_meme": False,
        "labels": [word for word, _ in Counter(_WORD.findall(text.lower())).most_common(3)],
        "objects": [],
        "scene": None,
        "ocr_text": None,
        "nsfw_score": 0.0,
        "aesthetic_score": None,
    }


def filled(fields: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the fields that a JSON schema names. A field of the schema that is not known here stays out.

    A None goes where the schema allows null; elsewhere it becomes "" for `ocr_text`, and other fields stay out.
    """
    answer: dict[str, Any] = {}
    for name, given in _resolved(schema, schema).get("properties", {}).items():
        if name not in fields:
            continue
        forms = _forms(given, schema)
        value = fields[name]
        if value is None and not any(_allows_null(form) for form in forms):
            if name != "ocr_text":
                continue
            value = ""
        choices = [choice for form in forms for choice in form.get("enum", [])]
        if choices and isinstance(value, str) and value not in choices:
            value = "other" if "other" in choices else choices[0]
        answer[name] = value
    return answer


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference to the schema's own definitions; one to elsewhere allows anything."""
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    found = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
    return found if isinstance(found, Mapping) else {}


def _forms(schema: Any, root: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """List the alternatives that a property may take."""
    if not isinstance(schema, Mapping):
        return []
    whole = _resolved(schema, root)
    return [_resolved(one, root) for one in whole.get("anyOf", whole.get("oneOf", [whole]))]


def _allows_null(form: Mapping[str, Any]) -> bool:
    kind = form.get("type")
    return kind == "null" or (isinstance(kind, list) and "null" in kind) or None in form.get("enum", [])


def in_json(fields: Mapping[str, Any]) -> str:
    """Write JSON."""
    return json.dumps(fields, ensure_ascii=False)


def in_broken_json(fields: Mapping[str, Any]) -> str:
    """Write what is nearly JSON, as models do: single quotes and a comma too many."""
    return in_json(fields).replace("'", "’").replace('"', "'")[:-1] + ",}"


def in_fence(text: str, *, english: bool) -> str:
    """Put JSON where a model puts it unasked: in a fence after a sentence."""
    sentence = "Here is what I see:" if english else "Вот что я вижу:"
    return f"{sentence}\n```json\n{text}\n```"


def in_prose(fields: Mapping[str, Any], *, english: bool) -> str:
    """Answer without JSON."""
    sentence = "I would rather say it in words." if english else "Расскажу своими словами."
    return f"{sentence} {fields['description'] or ''}".strip()


def text_tokens(text: str) -> int:
    """Count a text's tokens as the emulator does: one for every four characters begun."""
    return -(-len(text) // CHARACTERS_A_TOKEN)
