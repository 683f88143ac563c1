"""Settings of the policy over each other: what holds, who said so, and what is wrong with them."""

from typing import Any

import pytest

from vision_assets.core.errors import ConfigurationError
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.policy_settings import (
    dotted,
    overlaid,
    rules,
    with_tenant_settings,
    with_values,
    without_keys,
)
from vision_assets.core.vision import Kind

FILE: dict[str, Any] = {
    "max_pictures_per_post": 4,
    "mime_types": ["image/png", "image/webp"],
    "ocr_only": {"when": "never", "mime_types": ["image/webp"]},
    "prompts": {"by_kind": {"photo": "meme"}},
}
TENANT: dict[str, Any] = {
    "mime_types": ["image/gif"],
    "ocr_only": {"when": "always"},
    "prompts": {"by_kind": {"meme": "general"}},
}


def policy(*layers: dict[str, Any]) -> VisionPolicy:
    """Lay settings over the defaults, one after the other."""
    found = VisionPolicy()
    for layer in layers:
        above = overlaid(found, layer)
        assert isinstance(above, VisionPolicy)
        found = above
    return found


def test_layers_are_merged_key_by_key() -> None:
    """A tenant's key beats the file's, the file's the default; mappings are merged, lists are replaced."""
    found = policy(FILE, TENANT)
    assert found.max_pictures_per_post == 4
    assert found.mime_types == {"image/gif"}
    assert found.ocr_only.when == "always"
    assert found.ocr_only.mime_types == {"image/webp"}
    defaults = VisionPolicy().prompts.by_kind
    assert found.prompts.by_kind == {**defaults, Kind.PHOTO: "meme", Kind.MEME: "general"}
    assert found.max_image_bytes == VisionPolicy().max_image_bytes


def test_nothing_set_changes_nothing() -> None:
    """Empty settings, and a tenant without any, leave the policy as it is."""
    assert policy(FILE, {}) == policy(FILE)
    unset: list[dict[str, object]] = [{}, {"vision": {}}, {"billing": {"plan": "x"}}]
    for settings in unset:
        assert with_tenant_settings(policy(FILE), settings, tenant_name="T") == policy(FILE)


def test_the_tenants_part_is_taken() -> None:
    """Of all settings of a tenant only those below `vision` are the policy's."""
    found = with_tenant_settings(policy(FILE), {"vision": TENANT, "over_budget": 1}, tenant_name="T")
    assert found == policy(FILE, TENANT)


def test_who_set_what() -> None:
    """Each value tells the uppermost layer that names it."""
    listed = {rule.key: rule for rule in rules(policy(FILE, TENANT), {"tenant": TENANT, "file": FILE})}
    assert {key: rule.source for key, rule in listed.items() if rule.source != "default"} == {
        "max_pictures_per_post": "file",
        "mime_types": "tenant",
        "ocr_only.when": "tenant",
        "ocr_only.mime_types": "file",
        "prompts.by_kind.photo": "file",
        "prompts.by_kind.meme": "tenant",
    }
    assert listed["ocr_only.when"].value == "always"
    assert listed["prompts.default"].value == "general"
    assert listed["prompts.by_mime.image/tiff"].source == "default"


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ({"mime_type": []}, "mime_type", "no such key; did you mean 'mime_types'?"),
        ({"ocr_only": {"wen": "never"}}, "ocr_only.wen", "did you mean 'when'?"),
        ({"zzz": 1}, "zzz", "there are: provider, model, mime_types, max_image_bytes"),
        ({"prompts": {"by_kind": {"selfie": "meme"}}}, "prompts.by_kind.selfie", "there are: 'photo', 'meme'"),
        ({"max_image_bytes": "15MB"}, "max_image_bytes", "must be a whole number, not '15MB'"),
        ({"max_image_bytes": 1.5}, "max_image_bytes", "must be a whole number, not 1.5"),
        ({"max_pictures_per_post": True}, "max_pictures_per_post", "must be a whole number, not True"),
        ({"max_pictures_per_post": -1}, "max_pictures_per_post", "must be at least 0, not -1"),
        ({"max_document_bytes": 0}, "max_document_bytes", "must be at least 1, not 0"),
        ({"small_below_bytes": None}, "small_below_bytes", "must be a whole number, not nothing"),
        ({"mime_types": "image/png"}, "mime_types", "must be a list, not 'image/png'"),
        ({"mime_types": {"image/png": 1}}, "mime_types", "must be a list, not a mapping"),
        ({"mime_types": ["image/png", "png"]}, "mime_types[1]", "'png' is no MIME type: write for example image/jpeg"),
        ({"mime_types": ["image/jpg"]}, "mime_types[0]", "no picture is ever image/jpg: there are image/jpeg"),
        ({"prompts": {"by_mime": {"a": "meme"}}}, "prompts.by_mime.a", "'a' is no MIME type"),
        ({"prompts": {"by_mime": ["image/png"]}}, "prompts.by_mime", "must be a mapping of keys to values, not a list"),
        ({"prompts": "meme"}, "prompts", "must be a mapping of keys to values, not 'meme'"),
        (
            {"prompts": {"default": "memes"}},
            "prompts.default",
            "'memes' is not allowed; allowed: 'general', 'document'",
        ),
        ({"skipped_channels": [7]}, "skipped_channels[0]", "must be a text, not 7; in quotes it is one"),
        ({"skipped_channels": ["t.me/news"]}, "skipped_channels[0]", "'t.me/news' is no username: 4 to 32 letters"),
        ({"post_languages": ["ru", "de"]}, "post_languages[1]", "'de' is not allowed; allowed: 'ru' or 'en'"),
        ({"description_language": "RU"}, "description_language", "'RU' is not allowed; allowed: 'ru' or 'en'"),
        ({"over_budget": "skip"}, "over_budget", "'skip' is not allowed; allowed: 'defer' or 'ocr'"),
        ({"ocr_only": {"when": "on"}}, "ocr_only.when", "allowed: 'quota_exhausted', 'always' or 'never'"),
        ({"provider": "claude"}, "provider", "'claude' is not allowed; allowed: 'local', 'gigachat' or 'openai'"),
        ({"model": "a model"}, "model", "'a model' is no name of a model"),
        ({"provider": "local", "model": "x"}, "model", "the provider local has no model to choose: leave the key out"),
        ([], "", "must be a mapping of keys to values, not a list"),
    ],
)
def test_what_is_wrong_is_told_with_what_is_allowed(settings: object, key: str, said: str) -> None:
    """One problem, at its key, in words that tell what to write."""
    problems = overlaid(VisionPolicy(), settings)
    assert isinstance(problems, tuple)
    [problem] = problems
    assert dotted(problem.path) == key
    assert said in problem.message


def test_a_model_belongs_to_its_provider() -> None:
    """Who names another provider does not get a model of the file's; who names a model alone keeps the provider."""
    of_all = {"provider": "openai", "model": "qwen/qwen2.5-vl"}
    found = {
        tenant: (policy(of_all, settings).provider, policy(of_all, settings).model)
        for tenant, settings in {
            "plain": {},
            "other model": {"model": "gpt-5-mini"},
            "other provider": {"provider": "gigachat"},
            "local": {"provider": "local"},
            "both": {"provider": "gigachat", "model": "GigaChat-2-Pro"},
        }.items()
    }
    assert found == {
        "plain": ("openai", "qwen/qwen2.5-vl"),
        "other model": ("openai", "gpt-5-mini"),
        "other provider": ("gigachat", None),
        "local": ("local", None),
        "both": ("gigachat", "GigaChat-2-Pro"),
    }
    layers = {"tenant": {"provider": "gigachat"}, "file": of_all}
    [model] = [rule for rule in rules(policy(of_all, layers["tenant"]), layers) if rule.key == "model"]
    assert (model.value, model.source) == (None, "tenant")


def test_keys_are_set_and_taken_out() -> None:
    """Only these change; an emptied section goes, and so does what stands where a section must be."""
    settings = {"ocr_only": {"when": "never"}, "over_budget": "ocr"}
    more = with_values(settings, {("ocr_only", "mime_types"): [], ("prompts", "by_mime", "image/png"): "meme"})
    assert more == {
        "ocr_only": {"when": "never", "mime_types": []},
        "over_budget": "ocr",
        "prompts": {"by_mime": {"image/png": "meme"}},
    }
    assert settings == {"ocr_only": {"when": "never"}, "over_budget": "ocr"}
    keys = [("ocr_only", "mime_types"), ("prompts", "by_mime", "image/png")]
    assert without_keys(more, keys) == settings
    assert without_keys(settings, [("ocr_only",)]) == {"over_budget": "ocr"}
    assert with_values("off", {("over_budget",): "ocr"}) == {"over_budget": "ocr"}
    for key in (("ocr_only", "mime_types"), ("over_budget", "x"), ("prompts",)):
        with pytest.raises(ConfigurationError, match="is not set"):
            without_keys(settings, [key])


def test_a_tenants_errors_name_tenant_and_key() -> None:
    """All at once, so that whoever mends them need not try twice."""
    settings = {"vision": {"over_budget": "skip", "ocr_only": {"mime_types": ["image/jpg"]}, "cap": 2}}
    with pytest.raises(ConfigurationError) as raised:
        with_tenant_settings(VisionPolicy(), settings, tenant_name="City Walks")
    first, *others = str(raised.value).splitlines()
    assert "'City Walks'" in first
    assert sorted(line.split(": ")[0].strip() for line in others) == [
        "vision.cap",
        "vision.ocr_only.mime_types[0]",
        "vision.over_budget",
    ]


def test_a_tenants_part_that_is_no_mapping() -> None:
    """The error names the key itself."""
    with pytest.raises(ConfigurationError, match="vision: must be a mapping of keys to values, not 'off'"):
        with_tenant_settings(VisionPolicy(), {"vision": "off"}, tenant_name="T")
