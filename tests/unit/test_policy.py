"""The policy's rules: one case or more for each reason, and what holds for all posts and policies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_assets.core.pictures import MIME_TYPES
from vision_assets.core.policy import (
    VERDICTS,
    Decision,
    PolicyMedium,
    Prompts,
    Reason,
    Verdict,
    VisionPolicy,
    evaluate_media_for_vision,
    most_generous,
    prompt_fingerprint,
)
from vision_assets.core.prompts import Preset
from vision_assets.core.vision import Kind

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "policy.md"
KB = 2**10
MB = 2**20
PDF = "application/pdf"


def medium(size: int = 500 * KB, mime: str = "image/jpeg", *, at: int = 0, **more: Any) -> PolicyMedium:
    """A picture, another one at every position."""
    values = {"sha256": f"{at:064x}", "width": 800, "height": 600, **more}
    return PolicyMedium(mime=mime, bytes=size, position=at, **values)


def album(*sizes: int) -> list[PolicyMedium]:
    """The pictures of a post, by their bytes."""
    return [medium(size, at=position) for position, size in enumerate(sizes)]


def decide(
    media: Sequence[PolicyMedium],
    *,
    channel: str | None = "news",
    exhausted: bool = False,
    language: str | None = None,
    policy: VisionPolicy | None = None,
    **rules: Any,
) -> tuple[Decision, ...]:
    """Evaluate a post under a policy with these rules."""
    return evaluate_media_for_vision(
        policy or VisionPolicy.model_validate(rules),
        media,
        channel_username=channel,
        quota_exhausted=exhausted,
        post_language=language,
    )


def fingerprint(policy: VisionPolicy) -> str:
    """Of what of a policy shapes an answer."""
    return prompt_fingerprint(policy.description_language, policy.prompts)


ROOM = {"max_pictures_per_post": len(MIME_TYPES)}
ALL_ALLOWED: list[Reason] = ["allowed"] * len(MIME_TYPES)
TABLE: list[tuple[str, list[PolicyMedium], dict[str, Any], list[Reason]]] = [
    ("nothing against it", [medium()], {}, ["allowed"]),
    ("no picture", [], {}, []),
    ("a skipped channel", album(9 * MB, 1), {"skipped_channels": ["news"]}, ["channel_skipped", "channel_skipped"]),
    ("skipped by its @name", [medium()], {"skipped_channels": ["@News"]}, ["channel_skipped"]),
    ("known by its @name", [medium()], {"skipped_channels": ["news"], "channel": " @NEWS"}, ["channel_skipped"]),
    ("another channel", [medium()], {"skipped_channels": ["new_"]}, ["allowed"]),
    ("a channel without a name", [medium()], {"skipped_channels": ["news"], "channel": None}, ["allowed"]),
    ("Russian", [medium()], {"language": "ru"}, ["allowed"]),
    ("English", [medium()], {"language": "en"}, ["allowed"]),
    ("Spanish", [medium()], {"language": "es"}, ["language_not_analysed"]),
    ("Russian alone, English", [medium()], {"post_languages": ["ru"], "language": "en"}, ["language_not_analysed"]),
    ("no language", [medium()], {"post_languages": []}, ["allowed"]),
    ("every type that is stored", [medium(mime=mime, at=at) for at, mime in enumerate(MIME_TYPES)], ROOM, ALL_ALLOWED),
    ("a type not listed", [medium(mime=PDF)], {}, ["type_not_allowed"]),
    ("a type taken off", [medium(mime="image/gif")], {"mime_types": ["image/png"]}, ["type_not_allowed"]),
    ("a type put on", [medium(mime=PDF)], {"mime_types": [PDF]}, ["allowed"]),
    ("15 MB", [medium(15 * MB)], {}, ["allowed"]),
    ("over 15 MB", [medium(15 * MB + 1)], {}, ["image_too_large"]),
    ("40 MB of a document", [medium(40 * MB, PDF)], {"mime_types": [PDF]}, ["allowed"]),
    ("over 40 MB of a document", [medium(40 * MB + 1, PDF)], {"mime_types": [PDF]}, ["document_too_large"]),
    ("a limit of its own", [medium(101)], {"max_image_bytes": 100}, ["image_too_large"]),
    ("two", album(20 * KB, 30 * KB), {}, ["allowed"] * 2),
    ("the largest two", album(20 * KB, 40 * KB, 30 * KB), {}, ["over_post_cap", "allowed", "allowed"]),
    ("the first of equals", album(20 * KB, 20 * KB, 20 * KB), {}, ["allowed", "allowed", "over_post_cap"]),
    (
        "more pixels in as many bytes",
        [*album(20 * KB, 20 * KB), medium(20 * KB, at=2, width=900)],
        {},
        ["allowed", "over_post_cap", "allowed"],
    ),
    ("small ones below the cap", album(1, 2), {}, ["allowed"] * 2),
    (
        "small ones over it",
        album(9 * MB, 10 * KB - 1, 1),
        {},
        ["allowed", "small_in_crowded_post", "small_in_crowded_post"],
    ),
    ("just not small", album(9 * MB, 10 * KB, 1), {}, ["allowed", "allowed", "small_in_crowded_post"]),
    (
        "small by the policy",
        album(9, 8, 7),
        {"small_below_bytes": 9},
        ["allowed", "small_in_crowded_post", "small_in_crowded_post"],
    ),
    ("a cap of three", album(3, 2, 1), {"max_pictures_per_post": 3}, ["allowed"] * 3),
    ("a cap of none", album(50 * KB), {"max_pictures_per_post": 0}, ["over_post_cap"]),
    (
        "what is skipped anyway takes no place",
        [*album(20 * MB, 30 * KB), medium(9 * MB, PDF, at=2), medium(20 * KB, at=3)],
        {},
        ["image_too_large", "allowed", "type_not_allowed", "allowed"],
    ),
    (
        "the same picture twice takes one place",
        [*album(50 * KB), medium(50 * KB, at=1, sha256=f"{0:064x}"), medium(40 * KB, at=2)],
        {},
        ["allowed"] * 3,
    ),
    (
        "the same picture twice stands where it stands first",
        [*album(50 * KB, 50 * KB), medium(50 * KB, at=2, sha256=f"{0:064x}")],
        {"max_pictures_per_post": 1},
        ["allowed", "over_post_cap", "allowed"],
    ),
    ("a listed type, always", [medium()], {"ocr_only": {"when": "always"}}, ["ocr_only_type"]),
    ("always, over budget too", [medium()], {"ocr_only": {"when": "always"}, "exhausted": True}, ["ocr_only_type"]),
    ("always, not listed", [medium(mime="image/webp")], {"ocr_only": {"when": "always"}}, ["allowed"]),
    ("a listed type, over budget", [medium()], {"exhausted": True}, ["ocr_only_type_over_budget"]),
    ("not listed, over budget", [medium(mime="image/webp")], {"exhausted": True}, ["over_budget_deferred"]),
    (
        "listed, rule off",
        [medium()],
        {"exhausted": True, "ocr_only": {"when": "never"}},
        ["over_budget_deferred"],
    ),
    (
        "over budget, OCR for all",
        [medium(mime="image/webp")],
        {"exhausted": True, "over_budget": "ocr"},
        ["over_budget_ocr"],
    ),
    ("OCR for all, within it", [medium(mime="image/webp")], {"over_budget": "ocr"}, ["allowed"]),
    (
        "a skipped channel over budget",
        [medium()],
        {"skipped_channels": ["news"], "exhausted": True},
        ["channel_skipped"],
    ),
    ("channel before language", [medium()], {"skipped_channels": ["news"], "language": "es"}, ["channel_skipped"]),
    ("language before type", [medium(mime=PDF)], {"language": "es"}, ["language_not_analysed"]),
    ("type before size", [medium(99 * MB, PDF)], {}, ["type_not_allowed"]),
]


@pytest.mark.parametrize(("media", "given_", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_rules(media: Sequence[PolicyMedium], given_: dict[str, Any], expected: list[Reason]) -> None:
    """Each picture of a post gets the reason of the first rule that applies."""
    assert [one.reason for one in decide(media, **given_)] == expected


def test_every_reason_has_a_case_a_verdict_and_a_line_in_the_documentation() -> None:
    """None is forgotten, and the table of the documentation tells them in the order in which they are asked."""
    reasons = list(get_args(Reason))
    assert {reason for *_, expected in TABLE for reason in expected} | {"not_shown"} == set(reasons)
    assert list(VERDICTS) == reasons
    rows = [line.split("|")[1:3] for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert [(reason.strip(" `"), verdict.strip(" `")) for reason, verdict in rows] == list(VERDICTS.items())


def test_messages_tell_figures_and_keys() -> None:
    """Who reads a message knows which key of the policy to change, and what the picture is like."""
    over, small, first, _ = decide(album(20 * KB, 5, 30 * KB, 40 * KB))
    assert over.message == "number 3 by size of 4 pictures in the post; max_pictures_per_post: 2"
    assert "5 bytes; small_below_bytes: 10,240; 4 pictures" in small.message
    assert first.verdict == "analyse"
    [large] = decide([medium(16 * MB)])
    assert large.message == "16,777,216 bytes; max_image_bytes: 15,728,640"


@pytest.mark.parametrize(
    ("mime", "kind", "preset"),
    [
        ("image/jpeg", Kind.PHOTO, "general"),
        ("image/jpeg", Kind.DOCUMENT, "document"),
        ("image/png", Kind.SCREENSHOT, "screenshot"),
        ("image/png", Kind.INFOGRAPHIC, "infographic"),
        ("image/png", Kind.MEME, "meme"),
        ("image/tiff", Kind.OTHER, "document"),
        ("image/tiff", Kind.MEME, "meme"),
        ("image/tiff", Kind.PHOTO, "document"),
    ],
)
def test_prompt(mime: str, kind: Kind, preset: str) -> None:
    """The kind decides where there is a prompt for it, else the type, else the default."""
    assert Prompts().choose(mime, kind) == preset


def test_only_prompts_that_some_picture_may_get_are_choices() -> None:
    """One that neither kind nor type leads to is none; nor is the default, where every kind has its own."""
    kinds = dict.fromkeys(Kind, Preset.MEME)
    assert Prompts().choices() == set(Preset)
    assert Prompts(by_kind={}).choices() == {Preset.GENERAL, Preset.DOCUMENT}
    assert Prompts(by_kind=kinds).choices() == {Preset.MEME}
    assert Prompts(by_kind={}, by_mime={"application/pdf": Preset.MEME}).choices() == {Preset.GENERAL}


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["channel_skipped", "allowed"], "allowed"),
        (["over_post_cap", "over_budget_deferred"], "over_budget_deferred"),
        (["over_budget_deferred", "ocr_only_type_over_budget"], "ocr_only_type_over_budget"),
        (["ocr_only_type", "allowed"], "allowed"),
        (["channel_skipped", "over_post_cap", "language_not_analysed"], "over_post_cap"),
        (["small_in_crowded_post"], "small_in_crowded_post"),
    ],
)
def test_a_picture_of_several_posts(reasons: list[Reason], expected: Reason) -> None:
    """The most generous verdict wins; among equal ones the rule that came furthest tells why."""
    decisions = [Decision(reason, reason) for reason in reasons]
    assert most_generous(decisions).reason == expected
    assert most_generous(decisions[::-1]).reason == expected


def test_a_picture_skipped_here_and_shown_there() -> None:
    """Too much in a crowded album of one channel, alone in a post of another: it is analysed."""
    crowded = decide(album(3 * MB, 2 * MB, MB))
    [alone] = decide([medium(MB, at=2)])
    assert crowded[2].verdict == "skip"
    assert most_generous([crowded[2], alone]) == alone


@pytest.mark.parametrize(
    "rules",
    [
        {"mime_types": ["image/png"]},
        {"max_image_bytes": 1},
        {"max_document_bytes": 1},
        {"max_pictures_per_post": 9},
        {"small_below_bytes": 0},
        {"skipped_channels": ["news"]},
        {"post_languages": ["en"]},
        {"ocr_only": {"when": "never"}},
        {"over_budget": "ocr"},
        {"prompts": {"by_kind": dict(reversed(list(VisionPolicy().prompts.by_kind.items())))}},
        {"prompts": {"by_mime": {"image/tiff": "document", "image/gif": "general"}}},
        {"prompts": {"by_mime": {"image/tiff": "document", "application/pdf": "meme"}}},
    ],
)
def test_rules_that_change_no_answer_keep_the_fingerprint(rules: dict[str, Any]) -> None:
    """A changed skip rule, and a prompt said otherwise but meant alike, makes no result anew."""
    assert fingerprint(VisionPolicy.model_validate(rules)) == fingerprint(VisionPolicy())


@pytest.mark.parametrize(
    "rules",
    [
        {"description_language": "en"},
        {"prompts": {"default": "meme"}},
        {"prompts": {"by_kind": {}}},
        {"prompts": {"by_mime": {"image/png": "screenshot"}}},
        {"prompts": {"by_mime": {}}},
    ],
)
def test_what_changes_answers_changes_the_fingerprint(rules: dict[str, Any]) -> None:
    """Another language or another prompt for some picture is another fingerprint."""
    assert fingerprint(VisionPolicy.model_validate(rules)) != fingerprint(VisionPolicy())


def test_the_order_of_keys_keeps_the_fingerprint() -> None:
    """A file and a tenant's settings may name the same types in any order."""
    by_mime = {"image/png": Preset.SCREENSHOT, "image/gif": Preset.MEME}
    backwards = dict(reversed(list(by_mime.items())))
    one, other = (VisionPolicy(prompts=Prompts(by_mime=given_)) for given_ in (by_mime, backwards))
    assert fingerprint(one) == fingerprint(other)


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    """It stands in stored results; when this fails, all of them would be made anew."""
    assert fingerprint(VisionPolicy()) == "11e6aee624481887"


SIZES = st.sampled_from([1, 5 * KB, 10 * KB - 1, 10 * KB, 50 * KB, MB, 15 * MB, 15 * MB + 1, 41 * MB])
MIMES = st.sampled_from([*MIME_TYPES, PDF])


@st.composite
def posts(draw: st.DrawFn) -> list[PolicyMedium]:
    """The pictures of a post; some are the same file."""
    media: list[PolicyMedium] = []
    for position in range(draw(st.integers(0, 8))):
        if media and draw(st.integers(0, 5)) == 0:
            again = draw(st.sampled_from(media))
            media.append(medium(again.bytes, again.mime, at=position, sha256=again.sha256))
        else:
            media.append(medium(draw(SIZES), draw(MIMES), at=position))
    return media


POLICIES = st.builds(
    VisionPolicy,
    mime_types=st.frozensets(MIMES),
    max_image_bytes=st.sampled_from([1, 20 * KB, 15 * MB]),
    max_document_bytes=st.sampled_from([1, 40 * MB]),
    max_pictures_per_post=st.integers(0, 4),
    small_below_bytes=st.sampled_from([0, 10 * KB, MB]),
    skipped_channels=st.sampled_from([frozenset(), frozenset({"news"})]),
    post_languages=st.frozensets(st.sampled_from(["ru", "en"])),
    ocr_only=st.builds(
        lambda mime_types, when: {"mime_types": mime_types, "when": when},
        st.frozensets(MIMES),
        st.sampled_from(["quota_exhausted", "always", "never"]),
    ),
    over_budget=st.sampled_from(["defer", "ocr"]),
)
LANGUAGES = st.sampled_from(["ru", "en", "es", None])


def verdicts(media: Sequence[PolicyMedium], decisions: Sequence[Decision], verdict: Verdict) -> set[str]:
    """Which pictures got a verdict."""
    return {one.sha256 for one, decision in zip(media, decisions, strict=True) if decision.verdict == verdict}


@given(posts(), POLICIES, st.booleans(), LANGUAGES)
def test_never_more_than_the_cap(
    media: list[PolicyMedium], policy: VisionPolicy, exhausted: bool, language: str | None
) -> None:
    """However a post and a policy look, no more pictures than the cap get anything but `skip`."""
    decisions = decide(media, policy=policy, exhausted=exhausted, language=language)
    looked_at = {one.sha256 for one in media} - verdicts(media, decisions, "skip")
    assert len(looked_at) <= policy.max_pictures_per_post


@given(posts(), POLICIES, LANGUAGES)
def test_an_exhausted_budget_analyses_nothing_and_changes_nothing_else(
    media: list[PolicyMedium], policy: VisionPolicy, language: str | None
) -> None:
    """It turns every `analyse` into `ocr_only` or `defer`, never into `skip`, and leaves all others as they are."""
    before = decide(media, policy=policy, language=language)
    after = decide(media, policy=policy, language=language, exhausted=True)
    for one, other in zip(before, after, strict=True):
        if one.verdict == "analyse":
            assert other.verdict in {"ocr_only", "defer"}
        else:
            assert other == one


@given(posts(), POLICIES, st.booleans(), st.data())
def test_the_order_does_not_matter(
    media: list[PolicyMedium], policy: VisionPolicy, exhausted: bool, data: st.DataObject
) -> None:
    """Whatever order a query gives, each picture gets the same decision."""
    shuffled = data.draw(st.permutations(media))
    expected = dict(zip(media, decide(media, policy=policy, exhausted=exhausted), strict=True))
    assert dict(zip(shuffled, decide(shuffled, policy=policy, exhausted=exhausted), strict=True)) == expected


@given(posts(), POLICIES, st.booleans(), LANGUAGES, st.data())
def test_a_more_generous_policy_never_skips_more(
    media: list[PolicyMedium], policy: VisionPolicy, exhausted: bool, language: str | None, data: st.DataObject
) -> None:
    """A higher cap, a lower bar for small ones, fewer channels, more languages: nothing is skipped that was not before.

    More types and larger files do the same as long as nobody competes for a place.
    """
    cap = policy.max_pictures_per_post + data.draw(st.integers(0, 4))
    changes: dict[str, Any] = {
        "max_pictures_per_post": cap,
        "small_below_bytes": policy.small_below_bytes // data.draw(st.sampled_from([1, 2, 2**30])),
        "skipped_channels": data.draw(st.sampled_from([policy.skipped_channels, frozenset()])),
        "post_languages": policy.post_languages | data.draw(st.frozensets(st.sampled_from(["ru", "en"]))),
    }
    if cap >= len(media):
        changes["mime_types"] = policy.mime_types | data.draw(st.frozensets(MIMES))
        changes["max_image_bytes"] = policy.max_image_bytes * data.draw(st.sampled_from([1, 2, 2**30]))
        changes["max_document_bytes"] = policy.max_document_bytes * data.draw(st.sampled_from([1, 2, 2**30]))
    generous = policy.model_copy(update=changes)
    skipped = verdicts(media, decide(media, policy=policy, exhausted=exhausted, language=language), "skip")
    still = verdicts(media, decide(media, policy=generous, exhausted=exhausted, language=language), "skip")
    assert still <= skipped
