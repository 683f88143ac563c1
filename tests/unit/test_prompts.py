"""What a model is asked: the language, the fields in words, and the fingerprint."""

import json
import re

import pytest

from vision_assets.core import prompts
from vision_assets.core.errors import ReplyUnusable
from vision_assets.core.prompts import Language, Preset, fingerprint, prompt, repair_prompt
from vision_assets.core.replies import SCHEMA
from vision_assets.core.vision import Kind

WRONG = ReplyUnusable("no_answer", "The reply holds no JSON object.")


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("preset", Preset)
def test_the_schema_stands_in_words_too(preset: Preset, language: Language) -> None:
    """A model without `response_format` reads every field and every kind in the question."""
    asked = prompt(preset, language)
    assert all(f"- {name}:" in asked.system for name in SCHEMA["properties"])
    assert all(str(kind) in asked.system for kind in Kind)
    assert "JSON" in asked.system
    # An example would be an answer for those who look for one in a reply that repeats the question.
    assert "{" not in asked.system


@pytest.mark.parametrize("preset", Preset)
def test_each_language_is_asked_in_itself(preset: Preset) -> None:
    """Russian questions ask in Russian for Russian, English ones have no Cyrillic letter."""
    russian, english = prompt(preset, Language.RU), prompt(preset, Language.EN)
    assert "по-русски" in russian.system
    assert re.search("[а-я]", russian.user)
    assert "in English" in english.system
    assert not re.search("[а-яА-Я]", english.system + english.user)


def test_each_preset_dwells_on_something_else() -> None:
    """No two questions are the same."""
    users = [prompt(preset, language).user for preset in Preset for language in Language]
    assert len(set(users)) == len(users)


@pytest.mark.parametrize("language", Language)
def test_a_repair_quotes_the_reply_and_the_problem(language: Language) -> None:
    """The model sees what it said, be it text or an object, and why that will not do."""
    for raw in ("{'a': {b}", {"a": "{b}"}):
        asked = repair_prompt(raw, WRONG, language)
        assert (raw if isinstance(raw, str) else json.dumps(raw)) in asked
        assert str(WRONG) in asked
    assert bool(re.search("[а-я]", asked)) == (language is Language.RU)


def test_a_repair_of_a_long_reply_stays_short() -> None:
    """A model that did not stop is not read out to it in full."""
    assert len(repair_prompt("а" * 100_000, WRONG, Language.RU)) < 10_000


def test_the_fingerprint_is_stable_and_of_its_own_for_each_question() -> None:
    """Results are made anew, and paid for, when this figure changes: change it here only if that is meant."""
    assert fingerprint(Preset.GENERAL, Language.RU) == "61bf3812ee44a62f"
    found = {fingerprint(preset, language) for preset in Preset for language in Language}
    assert len(found) == len(Preset) * len(Language)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("VERSION", prompts.VERSION + 1),
        ("SCHEMA", {**SCHEMA, "required": []}),
        ("_SYSTEM", {Language.RU: "Опиши."}),
        ("_USER", {Language.RU: {Preset.GENERAL: "Опиши."}}),
        ("_REPAIR", {Language.RU: "Ещё раз."}),
    ],
)
def test_the_fingerprint_changes_with_each_part(part: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version, the schema and every text that the model may read."""
    before = fingerprint(Preset.GENERAL, Language.RU)
    monkeypatch.setattr(prompts, part, value)
    assert fingerprint(Preset.GENERAL, Language.RU) != before
