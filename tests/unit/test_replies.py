"""What a model replied, as recorded shapes and as garbage, and what is read from it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.results import result
from vision_assets.core.errors import ReplyUnusable
from vision_assets.core.replies import (
    MAX_LABELS,
    MAX_OBJECTS,
    MAX_REPLY_BYTES,
    SCHEMA,
    Reply,
    Seen,
    analysis_of,
    read_reply,
)
from vision_assets.core.vision import Analysis, Kind, Ocr, VisionResult

MEASURED = result("a" * 64, barcodes=("https://example.org",)).analysis.measurement
MODEL = "GigaChat-2-Max"

FULL: dict[str, Any] = {
    "classification": "photo",
    "is_meme": False,
    "labels": ["кот", "окно"],
    "description": "Рыжий кот сидит на подоконнике.",
    "objects": ["кот", "подоконник"],
    "scene": "комната",
    "ocr_text": "",
    "nsfw_score": 0.01,
    "aesthetic_score": 0.7,
}
LEAST = {key: FULL[key] for key in ("classification", "is_meme", "labels")}
TEXT = json.dumps(FULL, ensure_ascii=False, indent=2)
OPEN = '{"classification": "photo", "is_meme": false, "labels": ["кот"]'
APOLOGY = (
    "Не люблю менять тему разговора, но вот сейчас тот самый случай. Как у нейросетевой языковой модели у меня не "
    "может быть настроения, но почему-то я совсем не хочу говорить на эту тему."
)


def seen(**told: Any) -> dict[str, Any]:
    """What must be read: the least answer, and what else was told."""
    return Seen.model_validate(LEAST | {"labels": ["кот"]} | told).model_dump()


@dataclass(frozen=True)
class Case:
    """A reply and what must become of it: how it is read and what it says, or why it is not."""

    name: str
    raw: str | Mapping[str, Any]
    outcome: str
    says: Mapping[str, Any] | None = None


CASES = [
    # The two forms of a function call's arguments, and a message's content.
    Case("arguments as an object", FULL, "strict", FULL),
    Case("arguments as a string", json.dumps(FULL), "strict", FULL),
    Case("encoded twice", json.dumps(json.dumps(LEAST)), "strict", LEAST),
    Case("content", TEXT, "strict", FULL),
    Case("least answer", OPEN + "}", "strict", seen()),
    Case("unknown keys", OPEN + ', "confidence": 0.99, "dominant_colors": ["#fff"], "width": 1}', "strict", seen()),
    Case("list", json.dumps([{"step": 1}, LEAST, FULL, "готово"]), "strict", FULL),
    # JSON among other things.
    Case("fence", f"```json\n{TEXT}\n```", "extracted", FULL),
    Case("fence without a language", f"```\n{TEXT}\n```", "extracted", FULL),
    Case("thinking", f"<think>Это {{кот}}? {json.dumps(LEAST)}</think>\n{TEXT}", "strict", FULL),
    Case("thinking, then a fence", f"<think>Это кот.</think>\n```json\n{TEXT}\n```", "extracted", FULL),
    Case("thinking without its beginning", f"Это кот.\n</think>\n{TEXT}", "strict", FULL),
    Case("thinking without an end", f"<think>Это кот, значит, {TEXT}", "empty"),
    Case("the word in a text", json.dumps(FULL | {"ocr_text": "</think>"}), "strict", FULL | {"ocr_text": "</think>"}),
    Case("prose around", f"Вот ответ {{JSON}}:\n{TEXT}\nНадеюсь, это поможет!", "extracted", FULL),
    Case("two answers", f"Сначала {json.dumps(LEAST)}, а лучше {TEXT}", "extracted", FULL),
    Case("in another object", json.dumps({"name": "describe", "arguments": FULL}), "extracted", FULL),
    # Damaged JSON.
    Case("trailing commas", OPEN[:-1] + ",],}", "repaired", seen()),
    Case("python", OPEN.replace('"', "'").replace("false", "False") + ", 'scene': None}", "repaired", seen()),
    Case("typographic quotes", "{“classification”: “photo”, “is_meme”: false, “labels”: [“кот”]}", "repaired", seen()),
    Case("comment", OPEN + ", // ярлыки\n}", "repaired", seen()),
    Case("quotes in a text", OPEN + ', "scene": "дверь "Вход" слева"}', "repaired", seen(scene='дверь "Вход" слева')),
    Case("line break in a text", OPEN + ', "ocr_text": "а\nб"}', "repaired", seen(ocr_text="а\nб")),
    Case("python's empty text", OPEN + ", 'ocr_text': ''}", "repaired", seen(ocr_text="")),
    Case("escaped emoji", OPEN + ', "scene": "\\ud83d\\ude00",}', "repaired", seen(scene="😀")),
    Case("figure without a nought", OPEN + ', "nsfw_score": .9}', "repaired", seen(nsfw_score=0.9)),
    Case("braces in a text", OPEN + f', "scene": "{"{" * 400}",}}', "repaired", seen(scene="{" * 400)),
    Case("too many braces for a repair", OPEN + f', "scene": "{"{" * 600}",}}', "no_answer"),
    # A repair that would say what the model did not.
    Case("no value", OPEN + ', "ocr_text": }', "no_answer"),
    Case("decimal comma", OPEN + ', "nsfw_score": 0,95}', "repaired", seen()),
    Case("decimal comma with a space", OPEN + ', "nsfw_score": 0 ,95}', "no_answer"),
    Case("figure with a remark", OPEN + ', "nsfw_score": 0.1 (или 0.9)}', "no_answer"),
    # Broken off by `length`: what is not whole is not there.
    Case("no brace at the end", OPEN, "repaired", seen()),
    Case("ends in a fence without a brace", f"```json\n{OPEN}\n```", "repaired", seen()),
    Case("breaks off in a text", OPEN + ', "scene": "двор", "ocr_text": "цена 10, 2', "repaired", seen(scene="двор")),
    Case("breaks off in a figure", OPEN + ', "nsfw_score": 0.9', "repaired", seen()),
    Case("breaks off after a figure", OPEN + ', "nsfw_score": 0.9,', "repaired", seen(nsfw_score=0.9)),
    Case("breaks off in a key", OPEN + ', "scene": "двор", "ocr', "repaired", seen(scene="двор")),
    Case("breaks off in the labels", OPEN[:-1] + ', "окн', "no_answer"),
    Case("breaks off at once", '{"classification": "pho', "no_answer"),
    # Nothing to read.
    Case("empty", "", "empty"),
    Case("blank", " \n", "empty"),
    Case("blacklist", APOLOGY, "no_answer"),
    Case("prose", "На фото рыжий кот. classification: photo, is_meme: нет, labels: кот.", "no_answer"),
    Case("prose in braces", "{На фото рыжий кот}", "no_answer"),
    Case("empty object", {}, "no_answer"),
    Case("json, but no object", "[1, null, true]", "no_answer"),
    Case("bare text", '"кот"', "no_answer"),
    Case("russian keys", '{"классификация": "photo", "мем": false, "метки": ["кот"]}', "no_answer"),
    Case("without a kind", {"is_meme": False, "labels": []}, "no_answer"),
    Case("without is_meme", {"classification": "meme", "labels": []}, "no_answer"),
    Case("without labels", {"classification": "meme", "is_meme": True}, "no_answer"),
    Case("error of a gateway", '{"status": 500, "message": "Internal Server Error"}', "no_answer"),
    Case("the schema itself", json.dumps(SCHEMA), "invalid"),
    Case("100 kB", json.dumps(FULL | {"ocr_text": "а" * 100_000}), "too_long"),
    Case("100 kB of an object", FULL | {"ocr_text": "а" * 100_000}, "too_long"),
    Case("nested deeply", '{"a":' * 3_000 + "1" + "}" * 3_000, "no_answer"),
    Case("nested deeply in an answer", OPEN[:-1] + ", " + "[" * 3_000, "no_answer"),
    Case("brackets without end", "{" * MAX_REPLY_BYTES, "no_answer"),
    # Values. In the three required fields a wrong one spoils the reply …
    Case("kind in capitals", LEAST | {"classification": " Photo "}, "strict", LEAST),
    Case("wrong kind", LEAST | {"classification": "cat"}, "invalid"),
    Case("russian kind", LEAST | {"classification": "фото"}, "invalid"),
    Case("no kind", LEAST | {"classification": None}, "invalid"),
    Case("word for a boolean", LEAST | {"is_meme": "false"}, "invalid"),
    Case("figure for a boolean", LEAST | {"is_meme": 0}, "invalid"),
    Case("labels as a text", LEAST | {"labels": "кот, окно"}, "invalid"),
    Case("labels that are not words", LEAST | {"labels": ["кот", {"label": "окно"}]}, "invalid"),
    # … and elsewhere it is as if nothing had been told.
    Case("labels are tidied", LEAST | {"labels": [" Кот", "кот", "", "ОКНО"]}, "strict", LEAST),
    Case("no labels", LEAST | {"labels": []}, "strict", LEAST | {"labels": []}),
    Case("score of 7", LEAST | {"nsfw_score": 7, "aesthetic_score": -0.1}, "strict", LEAST),
    Case("ends", OPEN + ', "nsfw_score": 0, "aesthetic_score": 1}', "strict", seen(nsfw_score=0, aesthetic_score=1)),
    Case("score as a text", LEAST | {"nsfw_score": "0.2", "aesthetic_score": True}, "strict", LEAST),
    Case("nan", OPEN + ', "nsfw_score": NaN, "aesthetic_score": Infinity}', "strict", seen()),
    Case("figure of 400 digits", OPEN + f', "nsfw_score": {"9" * 400}}}', "strict", seen()),
    Case("figure of 5,000 digits", OPEN + f', "nsfw_score": {"9" * 5000}}}', "repaired", seen()),
    Case("short description", LEAST | {"description": " кот "}, "strict", LEAST),
    Case("description in parts", LEAST | {"description": {"ru": "Рыжий кот"}}, "strict", LEAST),
    Case("objects with figures", LEAST | {"objects": [{"name": "кот", "count": 1}]}, "strict", LEAST),
    Case("nulls", LEAST | dict.fromkeys(FULL.keys() - LEAST.keys()), "strict", LEAST),
    Case("text in lines", LEAST | {"ocr_text": ["а", "б"]}, "strict", LEAST),
    Case("what postgres cannot hold", OPEN + ', "scene": "двор\\u0000 \\ud83d"}', "strict", seen(scene="двор")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_recorded_shape_has_its_outcome(case: Case) -> None:
    """Each reply of the table is read as it says, or refused for the reason that it gives."""
    if case.says is None:
        with pytest.raises(ReplyUnusable) as caught:
            read_reply(case.raw)
        assert caught.value.reason == case.outcome
        return
    assert read_reply(case.raw) == Reply(Seen.model_validate(case.says), case.outcome)  # type: ignore[arg-type]


def test_a_refusal_says_what_is_wrong() -> None:
    """The text names the fields, for the log and for the model that is asked to put it right."""
    with pytest.raises(ReplyUnusable, match=r"classification: .*one of photo, meme, .*; is_meme: .*boolean"):
        read_reply({"classification": "кот", "is_meme": "нет", "labels": []})
    with pytest.raises(ReplyUnusable, match="keys classification, is_meme, labels"):
        read_reply(APOLOGY)


def test_lists_are_cut_at_their_limits() -> None:
    """A model that does not stop counting loses the rest, not the answer."""
    words = [str(number) for number in range(100)]
    found = read_reply(LEAST | {"labels": words, "objects": words}).seen
    assert (found.labels, found.objects) == (words[:MAX_LABELS], words[:MAX_OBJECTS])


def test_the_schema_asks_for_what_is_read() -> None:
    """The two name the same fields and kinds; what is required of a model is required of its reply."""
    assert set(SCHEMA["properties"]) == set(Seen.model_fields)
    assert SCHEMA["required"] == [name for name, field in Seen.model_fields.items() if field.is_required()]
    assert SCHEMA["properties"]["classification"]["enum"] == list(Kind)
    assert not {"title", "$ref", "$defs", "anyOf", "null"} & set(json.dumps(SCHEMA).split('"'))


# Words that every part of the reader knows make garbage that goes deeper than chance would.
WORDS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*FULL, *Kind, "</think>", "<think>", "```", "{", "}", '"', "\\", OPEN, TEXT, "кот", "\0", "null"]),
)
GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)
ANSWERS = st.fixed_dictionaries(
    {
        "classification": st.sampled_from([str(kind) for kind in Kind]),
        "is_meme": st.booleans(),
        "labels": st.lists(WORDS, max_size=30),
    },
    optional={
        "description": st.none() | WORDS,
        "objects": st.lists(WORDS, max_size=12),
        "scene": st.none() | WORDS,
        "ocr_text": st.none() | WORDS,
        "nsfw_score": st.none() | st.floats(),
        "aesthetic_score": st.none() | st.integers(-1, 2),
    },
)


def unescaped(text: str) -> str:
    """Decode what stands escaped in a JSON text, wherever it stands."""
    halves = re.sub(r'\\(u[0-9a-f]{4}|["\\/bfnrt])', lambda escape: str(json.loads(f'"{escape[0]}"')), text)
    return halves.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")


def assert_nothing_invented(seen: Seen, raw: str) -> None:
    """Every word stands in the reply (but for case and for what cannot be stored), and every figure."""
    forms = [form.replace("\0", "").casefold() for form in (raw, unescaped(raw), unescaped(unescaped(raw)))]
    for word in [*seen.labels, *seen.objects, seen.description, seen.scene, seen.ocr_text, seen.classification]:
        assert word is None or any(word.casefold() in form for form in forms), word
    figures = {float(figure) for figure in re.findall(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", raw)}
    assert {seen.nsfw_score, seen.aesthetic_score} - {None} <= figures
    assert str(seen.is_meme).lower() in raw.lower()


def read_if_usable(raw: str | Mapping[str, Any]) -> Seen | None:
    """Read a reply; None where it is refused, and a failure of the test where anything else is raised."""
    try:
        return read_reply(raw).seen
    except ReplyUnusable:
        return None


@given(GARBAGE)
def test_garbage_is_read_or_refused(garbage: Any) -> None:
    """Whatever JSON may hold gives an answer that can be stored, or ReplyUnusable; never another exception."""
    for raw in (json.dumps(garbage), json.dumps(garbage, ensure_ascii=False), str(garbage)):
        if (seen := read_if_usable(raw)) is not None:
            assert_nothing_invented(seen, raw)


@given(ANSWERS, st.dictionaries(st.sampled_from(list(FULL)), GARBAGE))
def test_an_answer_with_garbage_in_it_is_read_or_refused(answer: dict[str, Any], garbage: dict[str, Any]) -> None:
    """What is read of it is told by it, and makes a result that comes back from S3 the same."""
    raw = json.dumps(answer | garbage, ensure_ascii=False)
    seen = read_if_usable(answer | garbage)
    assert seen == read_if_usable(raw)
    if seen is not None:
        assert_nothing_invented(seen, raw)
        analysis = analysis_of(seen, measurement=MEASURED, model=MODEL, tokens_used=1)
        stored = result("a" * 64).model_copy(update={"analysis": analysis})
        assert VisionResult.from_gzip(stored.to_gzip()) == stored


@given(ANSWERS, st.data())
def test_a_damaged_answer_says_nothing_new(answer: dict[str, Any], data: st.DataObject) -> None:
    """Cut off, with a piece lost or a piece too many: what is still read was there."""
    whole = json.dumps(answer, ensure_ascii=data.draw(st.booleans()))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 8)))
    damaged = data.draw(st.sampled_from([whole[:start], whole[:start] + data.draw(WORDS) + whole[end:]]))
    if (seen := read_if_usable(damaged)) is not None:
        assert_nothing_invented(seen, damaged)


PROSE = st.text(st.characters(exclude_characters="{<", exclude_categories=["Cs"]), max_size=30)


@given(ANSWERS, PROSE, PROSE)
def test_an_answer_is_the_same_whatever_stands_around_it(answer: dict[str, Any], before: str, after: str) -> None:
    """As an object, as text, in a fence, after thinking, in prose: one answer."""
    text = json.dumps(answer, ensure_ascii=False)
    plain = read_reply(answer).seen
    for wrapped in (text, f"```json\n{text}\n```", f"<think>{before}</think>{text}", f"{before}{text}{after}"):
        assert read_reply(wrapped).seen == plain


@given(ANSWERS)
def test_what_was_read_is_read_again_the_same(answer: dict[str, Any]) -> None:
    """An answer that has been tidied stays as it is."""
    seen = read_reply(answer).seen
    assert read_reply(seen.model_dump_json()).seen == seen


def analysed(**said: Any) -> Analysis:
    """Make a result of the least answer and what else is said."""
    seen = read_reply(LEAST | said).seen
    return analysis_of(seen, measurement=MEASURED, model=MODEL, tokens_used=1843, cost_microunits=9, file_id="file-1")


def test_the_measurement_is_the_local_one() -> None:
    """Colours, size, barcodes and blur never come from the model, even where it offers some."""
    offered = {"dominant_colors": ["#ffffff"], "width": 1, "height": 1, "blur": 0, "barcodes": [{"text": "x"}]}
    analysis = analysed(**FULL, **offered, measurement=offered)
    assert analysis.measurement == MEASURED
    assert (analysis.description, analysis.objects, analysis.scene) == (
        FULL["description"],
        FULL["objects"],
        FULL["scene"],
    )
    assert (analysis.file_id, analysis.cost_microunits) == ("file-1", 9)


@pytest.mark.parametrize(("text", "expected"), [("Вход", "Вход"), ("", ""), (" \n", "")])
def test_text_that_the_model_told_is_its_reading(text: str, expected: str) -> None:
    """The model is the engine; an empty text means that there is none."""
    analysis = analysed(ocr_text=text, description="Рыжий кот")
    assert analysis.ocr == Ocr(status="ok", text=expected, engine=MODEL)
    assert analysis.status == "ok"


def test_text_that_the_model_did_not_tell_is_not_an_empty_one() -> None:
    """Then nobody has read the picture: the result is partial and says why."""
    analysis = analysed(description="Рыжий кот")
    assert (analysis.ocr.status, analysis.ocr.text, analysis.status) == ("unavailable", None, "partial")
    assert MODEL in (analysis.ocr.reason or "")


def test_a_result_without_a_description_is_partial() -> None:
    """The model was asked for one."""
    assert analysed(ocr_text="").status == "partial"


@pytest.mark.parametrize("raw", [APOLOGY, "На вывеске написано: Вход", f"```\n{APOLOGY}\n```", '{"error": "Вход"}'])
def test_defect_on_a_parse_failure_the_models_prose_is_stored_as_ocr_text(raw: str) -> None:
    """A reply that is not an answer gives no result at all, so nothing of it can be stored as text."""
    with pytest.raises(ReplyUnusable):
        read_reply(raw)


def test_defect_confidence_is_a_constant() -> None:
    """A model's word for its confidence is not one: both confidences are unknown, whatever it says."""
    for analysis in (analysed(ocr_text="Вход"), analysed(ocr_text="Вход", confidence=0.9)):
        assert (analysis.classification.confidence, analysis.ocr.confidence) == (None, None)


def test_defect_tokens_used_are_stored_as_0() -> None:
    """What was billed stands in the stored result, and nobody can leave it out."""
    stored = result("a" * 64).model_copy(update={"analysis": analysed()})
    assert stored.to_document()["tokens_used"] == 1843
    with pytest.raises(TypeError, match="tokens_used"):
        analysis_of(read_reply(LEAST).seen, measurement=MEASURED, model=MODEL)  # type: ignore[call-arg]
