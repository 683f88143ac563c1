"""What is asked of any model: the fingerprint of all questions together, and what one of them may cost."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from vision_assets.core import kind, prompts
from vision_assets.core.asking import MAX_TOKENS, Ladder, Question, Said, estimated_tokens, fingerprint
from vision_assets.core.errors import InputRejected
from vision_assets.core.policy import Prompts
from vision_assets.core.prompts import Language, Preset, prompt
from vision_assets.core.provider_pictures import PictureLimits

LIMITS = PictureLimits(mimes=frozenset({"image/jpeg"}), max_bytes=10_000, max_pixels=1000)
GENERAL_ALONE = Prompts(by_kind={}, by_mime={})


def of(choice: Prompts = GENERAL_ALONE, language: Language = Language.RU, **limits: Any) -> str:
    """The fingerprint."""
    return fingerprint(language, choice, replace(LIMITS, **limits))


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    """Results are made anew, and paid for, when this figure changes: change it here only if that is meant."""
    assert of(Prompts()) == "eb977f13a5ea0c89"


def test_whatever_shapes_an_answer_is_in_the_fingerprint() -> None:
    """Language, choice of the question, and each limit that pictures are fitted to."""
    others = [
        of(language=Language.EN),
        of(Prompts()),
        of(mimes=frozenset({"image/jpeg", "image/png"})),
        of(max_bytes=20_000),
        of(max_pixels=2000),
    ]
    assert len({of(), *others}) == 1 + len(others)


def test_the_rules_that_choose_are_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other rules for the kind may ask something else about the same picture."""
    before = of()
    monkeypatch.setattr(kind, "VERSION", kind.VERSION + 1)
    assert of() != before


def test_only_texts_that_are_asked_are_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that no picture gets may be changed for nothing."""
    alone, all_of_them = of(), of(Prompts())
    texts = {language: {**texts, Preset.MEME: "?"} for language, texts in prompts._USER.items()}
    monkeypatch.setattr(prompts, "_USER", texts)
    assert of() == alone
    assert of(Prompts()) != all_of_them


def test_the_estimate_has_room_for_the_longest_question() -> None:
    """The picture, a whole answer, and whichever question is the longest."""
    short, long = (estimated_tokens(Language.RU, one, picture_tokens=100) for one in (GENERAL_ALONE, Prompts()))
    assert 100 + MAX_TOKENS < short < long
    assert estimated_tokens(Language.RU, GENERAL_ALONE, picture_tokens=600) == short + 500


ANSWER = json.dumps({"classification": "photo", "is_meme": False, "labels": ["sea"]})


@dataclass
class Model:
    """Implements `Asker`: it says what it is told to, one answer a question; None: it refuses the question."""

    replies: list[str | None]
    asked: list[Question] = field(default_factory=list)

    async def ask(self, question: Question) -> Said:
        """See the Protocol."""
        self.asked.append(question)
        if (reply := self.replies.pop(0)) is None:
            raise InputRejected("refused_by_provider", "400")
        return Said(reply, "test-1", 10)


async def test_a_picture_that_no_form_helps_changes_nothing_for_the_next() -> None:
    """A first picture that is refused in every form says nothing of the forms: the next one is asked by schema."""
    ladder, asked = Ladder("test"), prompt(Preset.GENERAL, Language.EN)
    bad, good = Model([None, None, None]), Model([ANSWER])
    with pytest.raises(InputRejected):
        await ladder.answer(bad, asked, Language.EN)
    assert [question.form for question in bad.asked] == ["schema", "function", "words"]
    await ladder.answer(good, asked, Language.EN)
    assert [question.form for question in good.asked] == ["schema"]


async def test_a_reply_that_cannot_be_sent_back_is_cleaned_before() -> None:
    """What is put to the model once more is text that every protocol can carry."""
    model = Model(["no \0answer\ud83d", ANSWER])
    assert (await Ladder("test").answer(model, prompt(Preset.GENERAL, Language.EN), Language.EN)).tokens == 20
    assert "no answer" in model.asked[1].user.encode().decode()
