"""Find the JSON object in what a model replied: the whole reply, a part of it, or a damaged one put right.

Only the syntax is put right. What comes out stands in the reply, word for word and figure for figure.
What is not here: what the object must say (`replies.py`).
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

import json_repair

ParseMethod = Literal["strict", "extracted", "repaired"]

# An answer is flat; the library takes ten seconds over 10,000 of them.
_MAX_BRACES_TO_REPAIR = 500

_SIGNS = re.compile(r'\\.|["{}\[\],]', re.DOTALL)
_ESCAPES = re.compile(r'\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])')


def without_thinking(text: str) -> str:
    """Leave out the `<think>` that a reply begins with, closed or not. Elsewhere the word may be part of a value."""
    text = text.strip()
    thought, end, rest = text.partition("</think>")
    # Some servers leave out the first of the two tags.
    if text.startswith("<think>") or (end and "{" not in thought):
        return rest.strip()
    return text


def find_answer(text: str, keys: Collection[str]) -> tuple[dict[str, Any], ParseMethod] | None:
    """Give the last object that has all the keys, found in the strictest way that finds one.

    Args:
        text: Without thinking, and bounded by the caller: the time that it takes grows by the square.
        keys: Without which an object is not the answer.

    Returns:
        None: there is none. Otherwise the object, and how it was found: `strict`: the text is JSON; `extracted`: JSON
        stands in it, among prose or in a fence; `repaired`: its JSON is damaged.

    Raises:
        RecursionError: The text is nested too deeply.
    """
    ways: tuple[tuple[ParseMethod, Iterable[Any]], ...] = (
        ("strict", _strict(text)),
        ("extracted", _extracted(text, keys)),
        # Repairing is slow and finds keys only where their names stand.
        ("repaired", _repaired(text) if all(key in text for key in keys) else ()),
    )
    for method, values in ways:
        if answers := [value for value in values if isinstance(value, dict) and value.keys() >= set(keys)]:
            return answers[-1], method
    return None


def _strict(text: str) -> Iterator[Any]:
    try:
        value = json.loads(text)
        if isinstance(value, str):
            # Encoded twice. The repair would take its escapes for text.
            value = json.loads(value)
    except ValueError:
        return
    yield from value if isinstance(value, list) else [value]


def _extracted(text: str, keys: Collection[str]) -> Iterator[Any]:
    """Give each JSON object in a text, and those inside of one that is not the answer itself."""
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        end = at + 1
        try:
            value, after = decoder.raw_decode(text, at)
        except ValueError:
            pass
        else:
            yield value
            if value.keys() >= set(keys):
                end = after
        at = text.find("{", end)


def _repaired(text: str) -> Iterator[Any]:
    """Give each object whose JSON is damaged: by quotes, commas, comments, Python's literals, or a lost end."""
    for body in _in_braces(text):
        if body.count("{") > _MAX_BRACES_TO_REPAIR:
            continue
        if not body.endswith("}"):
            yield from _cut_back(body)
            continue
        try:
            value = json_repair.loads(body, skip_json_loads=True)
        except Exception:  # noqa: BLE001, S112 - heuristics over anything a model may say; what fails them is no answer
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and _is_literal(item, body):
                yield item


def _in_braces(text: str) -> Iterator[str]:
    """Give what stands in outermost braces. The last may lack its end: the reply broke off, or its quotes are odd."""
    depth, start, quoted = 0, 0, False
    for sign in _SIGNS.finditer(text):
        if sign[0] == '"':
            quoted = depth > 0 and not quoted
        elif quoted:
            continue
        elif sign[0] == "{" or (sign[0] == "[" and depth):
            start = start if depth else sign.start()
            depth += 1
        elif sign[0] in "}]" and depth:
            depth -= 1
            if not depth:
                yield text[start : sign.end()]
    if depth:
        yield text[start:].rstrip("` \r\n\t")


def _cut_back(body: str) -> Iterator[Any]:
    """Give the members that are whole in an object that breaks off: a half text or figure would be a false one."""
    commas = (comma.start() for comma in reversed(list(re.finditer(",", body))))
    whole = () if body[-1].isdigit() else (len(body),)
    for end in (*whole, *commas):
        try:
            yield json.loads(body[:end] + "}")
        except ValueError:
            continue
        return


def _is_literal(item: Mapping[str, Any], body: str) -> bool:
    """Tell whether the repair only repaired: each text stands in the reply, and each figure alone behind its key."""
    told = body + "\n" + _ESCAPES.sub(lambda escape: str(json.loads(f'"{escape[0]}"')), body)
    for key, value in item.items():
        behind_key = rf"{re.escape(key)}\W{{0,3}}:\s*"
        if value == "":
            # The library also puts it where nothing stands.
            if not re.search(rf"{behind_key}(?:\"\"|''|“”)", body):
                return False
        elif isinstance(value, str | list):
            if not all(
                word in told for word in ([value] if isinstance(value, str) else value) if isinstance(word, str)
            ):
                return False
        elif isinstance(value, int | float) and not isinstance(value, bool):
            figures = re.findall(rf"{behind_key}([-+.\deE]+)\s*(?:,\s*[^\d\s]|[}}\n])", body)
            if value not in map(_figure, figures):
                return False
    return True


def _figure(token: str) -> float | None:
    try:
        return float(token)
    except ValueError:
        return None
