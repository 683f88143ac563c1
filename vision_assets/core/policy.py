"""Which pictures of a post are looked at, how far, and with which prompt: the policy, its decisions; pure functions.

The rules are asked in the order of `VERDICTS`, and the first one that applies decides.
What is not here: where a policy's values come from (`policy_settings.py`), who asks the budget (`budget_gate.py`), and
what a decision leads to (`analysis.py`).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from vision_assets.core.language import language_of
from vision_assets.core.neighbours import Strictness
from vision_assets.core.pictures import MIME_TYPES
from vision_assets.core.prompts import Language, Preset
from vision_assets.core.vision import Kind, ProviderName

Verdict = Literal["analyse", "ocr_only", "defer", "skip"]

Reason = Literal[
    "not_shown",
    "channel_skipped",
    "language_not_analysed",
    "type_not_allowed",
    "image_too_large",
    "document_too_large",
    "small_in_crowded_post",
    "over_post_cap",
    "ocr_only_type",
    "ocr_only_type_over_budget",
    "over_budget_deferred",
    "over_budget_ocr",
    "allowed",
]
"""Stable codes, one for each rule."""

VERDICTS: Mapping[Reason, Verdict] = {
    "not_shown": "skip",
    "channel_skipped": "skip",
    "language_not_analysed": "skip",
    "type_not_allowed": "skip",
    "image_too_large": "skip",
    "document_too_large": "skip",
    "small_in_crowded_post": "skip",
    "over_post_cap": "skip",
    "ocr_only_type": "ocr_only",
    "ocr_only_type_over_budget": "ocr_only",
    "over_budget_deferred": "defer",
    "over_budget_ocr": "ocr_only",
    "allowed": "analyse",
}
"""What each rule says, in the order in which they are asked."""

RULES_VERSION = 1
"""Raise it when the same policy decides otherwise, or languages are told otherwise: all is decided anew then."""

_GENEROSITY: tuple[Verdict, ...] = ("skip", "defer", "ocr_only", "analyse")
_MIME = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]*")
_USERNAME = re.compile(r"[a-z][a-z0-9_]{3,31}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,99}")


def _mime(text: str) -> str:
    if not _MIME.fullmatch(text):
        raise ValueError(f"{text!r} is no MIME type: write for example image/jpeg, in lower case")
    if text.startswith("image/") and text not in MIME_TYPES:
        raise ValueError(f"no picture is ever {text}: there are {', '.join(MIME_TYPES)}")
    return text


def _username(text: str) -> str:
    name = bare_username(text)
    if not _USERNAME.fullmatch(name):
        raise ValueError(f"{text!r} is no username: 4 to 32 letters, digits and _, with or without @")
    return name


def _model(text: str) -> str:
    if not _MODEL.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a model: letters, digits and ._/:@+-, at most 100")
    return text


MimeType = Annotated[str, AfterValidator(_mime)]
Username = Annotated[str, AfterValidator(_username)]
ModelName = Annotated[str, AfterValidator(_model)]
Count = Annotated[int, Field(strict=True, ge=0)]
Bytes = Annotated[int, Field(strict=True, ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Rules(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OcrOnly(_Rules):
    """Types whose text alone is read, by the local provider, at no cost.

    Attributes:
        mime_types: What the rule is about.
        when: `quota_exhausted`: instead of waiting for the budget; `always`: they are never given to a provider that
            costs; `never`: the rule is off.
    """

    mime_types: frozenset[MimeType] = frozenset({"image/jpeg", "image/png"})
    when: Literal["quota_exhausted", "always", "never"] = "quota_exhausted"


class Prompts(_Rules):
    """Which prompt a picture gets: by its kind, where that has one, else by its type, else the default.

    Attributes:
        by_kind: As the rules of `kind.py` tell it from the pixels alone.
        by_mime: For what `by_kind` says nothing of.
    """

    default: Preset = Preset.GENERAL
    by_kind: Mapping[Kind, Preset] = {
        Kind.DOCUMENT: Preset.DOCUMENT,
        Kind.SCREENSHOT: Preset.SCREENSHOT,
        Kind.INFOGRAPHIC: Preset.INFOGRAPHIC,
        Kind.MEME: Preset.MEME,
    }
    by_mime: Mapping[MimeType, Preset] = {"image/tiff": Preset.DOCUMENT}

    def choose(self, mime: str, kind: Kind) -> Preset:
        """Choose the prompt of one picture.

        Args:
            mime: As sniffed from the content.
            kind: As told by the rules.
        """
        return self.by_kind.get(kind, self.by_mime.get(mime, self.default))

    def choices(self) -> frozenset[Preset]:
        """List the prompts that some picture may get."""
        return frozenset(self.choose(mime, kind) for mime in MIME_TYPES for kind in Kind)


class VisionPolicy(_Rules):
    """What may be looked at. The defaults are those of the system that this project re-founds.

    Attributes:
        provider: Who looks at pictures; None: as the settings say.
        model: Of the provider; None: as the settings say. The local one has but one.
        mime_types: All others are skipped.
        max_image_bytes: Of one file of a type `image/…`.
        max_document_bytes: Of one file of any other type.
        max_pictures_per_post: The largest files come first; an album is one post, and the same file in it counts once.
        small_below_bytes: In a post that has more pictures than it may, smaller ones than this are skipped, even if
            room is left.
        skipped_channels: Public names, lower case, without @. A channel whose name is not known is not skipped.
        post_languages: Posts in other languages are skipped; those whose language is not known are not.
        description_language: In which a provider is asked to describe.
        ocr_only: Types whose text alone is read.
        over_budget: What becomes of all other types then: `defer` until the budget is reset, or `ocr` at no cost.
        reuse: How alike an earlier picture must be whose result is taken: `strict`, `normal`; `never`: none is.
        reuse_audit_share: Of the pictures that could take a result, 0 to 1: the provider is asked about these all the
            same, within the budget, to tell whether reuse is right.
        prompts: Which prompt a picture gets.
    """

    provider: ProviderName | None = None
    model: ModelName | None = None
    mime_types: frozenset[MimeType] = frozenset(MIME_TYPES)
    max_image_bytes: Bytes = 15 * 2**20
    max_document_bytes: Bytes = 40 * 2**20
    max_pictures_per_post: Count = 2
    small_below_bytes: Count = 10 * 2**10
    skipped_channels: frozenset[Username] = frozenset()
    post_languages: frozenset[Language] = frozenset(Language)
    description_language: Language = Language.RU
    ocr_only: OcrOnly = OcrOnly()
    over_budget: Literal["defer", "ocr"] = "defer"
    reuse: Strictness | Literal["never"] = "normal"
    reuse_audit_share: Share = 0.01
    prompts: Prompts = Prompts()

    @property
    def strictness(self) -> Strictness | None:
        """How alike, where anything is reused at all."""
        return None if self.reuse == "never" else self.reuse

    @field_validator("model")
    @classmethod
    def _is_to_be_chosen(cls, model: str | None, info: ValidationInfo) -> str | None:
        if model is not None and info.data.get("provider") == "local":
            raise ValueError("the provider local has no model to choose: leave the key out")
        return model


@dataclass(frozen=True, slots=True)
class PolicyMedium:
    """One picture of a post, as far as the rules ask.

    Attributes:
        mime: As sniffed from the content.
        width: Pixels, upright.
        height: Pixels, upright.
        position: Among the post's pictures, from 0.
    """

    sha256: str
    mime: str
    bytes: int
    width: int
    height: int
    position: int


@dataclass(frozen=True, slots=True)
class PolicyPost:
    """A post, as far as the rules ask.

    Attributes:
        channel_username: With or without @; None: not known.
        text: Tells the language; its beginning will do.
        media: All its stored pictures; an album is one post.
    """

    channel_username: str | None
    text: str
    media: tuple[PolicyMedium, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says of one picture.

    Attributes:
        reason: Which rule decided.
        message: For people: the figures, and the key of the rule.
    """

    reason: Reason
    message: str

    @property
    def verdict(self) -> Verdict:
        """`analyse` by any provider; `ocr_only` by the local one; `defer` until the budget is reset; `skip`."""
        return VERDICTS[self.reason]


def bare_username(text: str) -> str:
    """Bring a channel's username to the form in which names are compared: lower case, without @."""
    return text.strip().removeprefix("@").lower()


def evaluate_media_for_vision(
    policy: VisionPolicy,
    media: Sequence[PolicyMedium],
    *,
    channel_username: str | None,
    quota_exhausted: bool,
    post_language: str | None = None,
    calls_cost: bool = True,
) -> tuple[Decision, ...]:
    """Decide about all pictures of one post together, whatever their order; pure.

    An exhausted budget only changes what becomes of those that would be analysed without it, so the budget may be
    asked for these alone, and the answer given here afterwards.

    Args:
        policy: As in force for the post's tenant.
        media: Stored pictures of one post; an album is one post.
        channel_username: Of the post's channel, with or without @; None: not known.
        quota_exhausted: The budget does not let a call through now.
        post_language: Of the post's text, ISO 639-1; None: not known, or no text.
        calls_cost: False: the provider is free, so the rules that save calls are not asked.

    Returns:
        A decision for every medium, in their order.
    """
    of_the_post = _about_the_post(policy, channel_username, post_language)
    if of_the_post is not None:
        return (of_the_post,) * len(media)
    last_first = sorted(media, key=lambda medium: medium.position, reverse=True)
    distinct = {medium.sha256: medium for medium in last_first}.values()
    decisions = {medium.sha256: found for medium in distinct if (found := _about_the_file(policy, medium))}
    fitting = [medium for medium in distinct if medium.sha256 not in decisions]
    if not calls_cost:
        allowed = Decision("allowed", "no rule is against it, and the provider is free")
        return tuple(decisions.get(medium.sha256, allowed) for medium in media)
    decisions |= _about_the_crowd(policy, fitting)
    for medium in fitting:
        if medium.sha256 not in decisions:
            decisions[medium.sha256] = _about_the_budget(policy, medium, quota_exhausted=quota_exhausted)
    return tuple(decisions[medium.sha256] for medium in media)


def decide(
    policy: VisionPolicy, sha256: str, posts: Sequence[PolicyPost], *, quota_exhausted: bool, calls_cost: bool
) -> Decision:
    """Decide about one picture by all the posts that show it; pure.

    Args:
        policy: As in force for the posts' tenant.
        sha256: Of the picture.
        posts: All of them that show it, or those that count.
        quota_exhausted: The budget does not let a call through now.
        calls_cost: False: the provider is free.
    """
    decisions = [
        decision
        for post in posts
        for medium, decision in zip(
            post.media,
            evaluate_media_for_vision(
                policy,
                post.media,
                channel_username=post.channel_username,
                quota_exhausted=quota_exhausted,
                post_language=language_of(post.text),
                calls_cost=calls_cost,
            ),
            strict=True,
        )
        if medium.sha256 == sha256
    ]
    return most_generous(decisions or [Decision("not_shown", "no post shows it any more")])


def most_generous(decisions: Sequence[Decision]) -> Decision:
    """Join the decisions about one picture that several posts show: it is analysed if any of them lets it be.

    Among equal verdicts the rule that is asked last tells why.

    Args:
        decisions: Of at least one post, in any order.
    """
    reasons = list(VERDICTS)
    return max(decisions, key=lambda one: (_GENEROSITY.index(one.verdict), reasons.index(one.reason), one.message))


def prompt_fingerprint(language: Language, prompts: Prompts) -> str:
    """Tell by 16 hex digits what of a policy changes the answer of a call: language and choice of the prompt.

    It belongs into the provider's fingerprint. Rules about what is looked at at all are not in it, and two policies
    that choose the same prompt for every picture have the same.
    """
    choice = {mime: [prompts.choose(mime, kind) for kind in Kind] for mime in MIME_TYPES}
    canonical = json.dumps([language, choice], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


_NO_RULES = {"provider", "model", "description_language", "prompts", "reuse_audit_share"}


def rules_fingerprint(policy: VisionPolicy, *, calls_cost: bool) -> str:
    """Tell by 16 hex digits what of a policy changes a decision: all but the choice of provider and prompt, and audits.

    Args:
        policy: As in force for a tenant.
        calls_cost: As for `decide`.
    """
    rules = policy.model_dump(mode="json", exclude=_NO_RULES)
    canonical = json.dumps([RULES_VERSION, _sorted(rules), calls_cost], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _sorted(value: Any) -> Any:
    """Bring sets, which a dump gives as lists in any order, into one order."""
    match value:
        case dict():
            return {key: _sorted(inner) for key, inner in value.items()}
        case list():
            return sorted(value)
        case _:
            return value


def _about_the_post(policy: VisionPolicy, channel_username: str | None, language: str | None) -> Decision | None:
    name = bare_username(channel_username or "")
    if name in policy.skipped_channels:
        return Decision("channel_skipped", f"@{name} is one of skipped_channels")
    if language is not None and language not in policy.post_languages:
        analysed = ", ".join(sorted(policy.post_languages)) or "none"
        return Decision("language_not_analysed", f"the post's language is {language!r}; post_languages: {analysed}")
    return None


def _about_the_file(policy: VisionPolicy, medium: PolicyMedium) -> Decision | None:
    if medium.mime not in policy.mime_types:
        return Decision("type_not_allowed", f"{medium.mime} is none of mime_types")
    if medium.mime.startswith("image/"):
        if medium.bytes > policy.max_image_bytes:
            size = f"{medium.bytes:,} bytes; max_image_bytes: {policy.max_image_bytes:,}"
            return Decision("image_too_large", size)
    elif medium.bytes > policy.max_document_bytes:
        return Decision(
            "document_too_large", f"{medium.bytes:,} bytes; max_document_bytes: {policy.max_document_bytes:,}"
        )
    return None


def _about_the_crowd(policy: VisionPolicy, fitting: Sequence[PolicyMedium]) -> dict[str, Decision]:
    cap, small_below = policy.max_pictures_per_post, policy.small_below_bytes
    if len(fitting) <= cap:
        return {}
    crowd = f"{len(fitting)} pictures in the post; max_pictures_per_post: {cap}"
    largest_first = sorted(fitting, key=lambda one: (-one.bytes, -one.width * one.height, one.position, one.sha256))
    decisions = {
        medium.sha256: Decision("over_post_cap", f"number {rank} by size of {crowd}")
        for rank, medium in enumerate(largest_first, start=1)
        if rank > cap
    }
    return decisions | {
        medium.sha256: Decision(
            "small_in_crowded_post", f"{medium.bytes:,} bytes; small_below_bytes: {small_below:,}; {crowd}"
        )
        for medium in fitting
        if medium.bytes < small_below
    }


def _about_the_budget(policy: VisionPolicy, medium: PolicyMedium, *, quota_exhausted: bool) -> Decision:
    listed, when = medium.mime in policy.ocr_only.mime_types, policy.ocr_only.when
    if listed and when == "always":
        return Decision("ocr_only_type", f"{medium.mime} is one of ocr_only.mime_types, with ocr_only.when: always")
    if not quota_exhausted:
        return Decision("allowed", "no rule is against it")
    if listed and when == "quota_exhausted":
        return Decision(
            "ocr_only_type_over_budget", f"the budget is exhausted, and {medium.mime} is one of ocr_only.mime_types"
        )
    if policy.over_budget == "defer":
        return Decision("over_budget_deferred", "the budget is exhausted; over_budget: defer, until it is reset")
    return Decision("over_budget_ocr", "the budget is exhausted; over_budget: ocr")
