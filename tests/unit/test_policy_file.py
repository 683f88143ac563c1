"""The policy's YAML file: what it sets, and errors by line and key."""

import re
from pathlib import Path

import pytest

from vision_assets.clients.policy_file import PolicyFile, read_policy
from vision_assets.core.errors import ConfigurationError
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.policy_settings import rules

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "policy.md"


def read(tmp_path: Path, content: str | bytes) -> PolicyFile:
    """Read a policy with this content."""
    path = tmp_path / "policy.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_policy(path)


def errors(tmp_path: Path, content: str | bytes) -> list[str]:
    """Tell the errors of a policy, without the file's name."""
    with pytest.raises(ConfigurationError) as raised:
        read(tmp_path, content)
    first, *lines = str(raised.value).splitlines()
    assert first == "The policy is wrong:"
    prefix = f"  {tmp_path / 'policy.yaml'}:"
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_the_documented_file_is_the_defaults(tmp_path: Path) -> None:
    """The example of the documentation can be read, names every value there is, and equals the defaults."""
    [example] = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    found = read(tmp_path, example)
    assert found.policy == VisionPolicy()
    assert {rule.source for rule in rules(found.policy, {"file": found.settings})} == {"file"}


def test_what_a_file_names_is_laid_over_the_defaults(tmp_path: Path) -> None:
    """The rest stays; a channel may be written with @."""
    found = read(tmp_path, 'over_budget: ocr\nskipped_channels: ["@Durov", news]\nocr_only: {when: never}\n').policy
    assert found == VisionPolicy.model_validate(
        {"over_budget": "ocr", "skipped_channels": ["durov", "news"], "ocr_only": {"when": "never"}}
    )
    assert found.ocr_only.mime_types == VisionPolicy().ocr_only.mime_types


@pytest.mark.parametrize(
    "content", ["", "# nothing yet\n", "{}", "---\n", b"\xef\xbb\xbf# by an editor of Windows\r\n"]
)
def test_a_file_without_a_key_is_the_defaults(tmp_path: Path, content: str | bytes) -> None:
    """Also one whose keys are all commented out."""
    assert read(tmp_path, content).policy == VisionPolicy()


def test_anchors_and_aliases(tmp_path: Path) -> None:
    """What YAML offers to say a thing once may be used."""
    found = read(tmp_path, "mime_types: &all [image/png]\nocr_only:\n  mime_types: *all\n").policy
    assert found.mime_types == found.ocr_only.mime_types == {"image/png"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\n", "1: a: there is no such key; there are: provider,"),
        ("# policy\n\nmax_image_byte: 1\n", "3: max_image_byte: there is no such key; did you mean 'max_image_bytes'?"),
        ("ocr_only:\n  when: never\n  wen: x\n", "3: ocr_only.wen: there is no such key; did you mean 'when'?"),
        ("ocr_only:\n  when:\n    sometimes\n", "2: ocr_only.when: 'sometimes' is not allowed; allowed:"),
        ("mime_types:\n  - image/png\n  - image/jpg\n", "3: mime_types[1]: no picture is ever image/jpg"),
        ("max_pictures_per_post: '2'\n", "1: max_pictures_per_post: must be a whole number, not '2'"),
        ("\nmax_pictures_per_post: -1\n", "2: max_pictures_per_post: must be at least 0, not -1"),
        ("prompts:\n", "1: prompts: must be a mapping of keys to values, not nothing"),
        ("prompts:\n  by_kind:\n    selfie: meme\n", "3: prompts.by_kind.selfie: there is no such key; there are:"),
        ("prompts:\n  by_mime:\n    png: meme\n", "3: prompts.by_mime.png: 'png' is no MIME type"),
        ("over_budget: no\n", "1: over_budget: False is not allowed; allowed: 'defer' or 'ocr'"),
        ("1: 2\n", "1: 1: there is no such key"),
        ("over_budget: ocr\nover_budget: ocr\n", "2: over_budget: stands here again; it is on line 1 too"),
        (
            "ocr_only:\n  when: never\n  when: always\n",
            "3: ocr_only.when: stands here again; it is on line 2 too",
        ),
        ("- over_budget: ocr\n", "1: a policy is a mapping of keys to values"),
        ("# nothing\nocr\n", "2: a policy is a mapping of keys to values"),
        ("over_budget: ocr\n  when: x\n", "2: no valid YAML: mapping values are not allowed here"),
        ("mime_types: [image/png\n", "2: no valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("over_budget: ocr\n\tprompts: x\n", "2: no valid YAML:"),
        (
            "skipped_channels:\n  - @durov\n",
            "2: no valid YAML: while scanning for the next token, found character '@' that",
        ),
        ("over_budget: !secret ocr\n", "1: no valid YAML: could not determine a constructor for the tag '!secret'"),
        ("ocr_only: &x\n  when: *x\n", "1: no valid YAML: an alias refers to what it stands in"),
        ("[1]: x\n", "1: no valid YAML: a key must be a text"),
        ("\nmax_image_bytes: 2024-13-45\n", "2: no valid YAML: month must be in 1..12"),
        ("over_budget: ocr\n---\nover_budget: ocr\n", "2: no valid YAML: expected a single document"),
        ("# \n\nover_budget: \x01\n", "3: character U+0001 is not allowed"),
        ("# один\nover_budget: ж".encode("cp1251"), "1: this is not UTF-8"),
        ("# one\nover_budget: ж".encode("cp1251"), "2: this is not UTF-8"),
    ],
)
def test_an_error_names_line_and_key(tmp_path: Path, content: str | bytes, expected: str) -> None:
    """And what is wrong, and what is allowed."""
    [error] = errors(tmp_path, content)
    assert error.startswith(expected)


def test_an_at_sign_without_quotes_says_what_to_do(tmp_path: Path) -> None:
    """The likeliest slip in a list of channels."""
    [error] = errors(tmp_path, "skipped_channels: [@durov]\n")
    assert error.endswith("put it in quotes")


def test_all_errors_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    """What the file repeats, what it misnames and what it misjudges."""
    content = "over_budget: skip\nmax_image_bytes: 0\nocr_onyl: {}\nmax_image_bytes: 2\nprompts:\n  default: x\n"
    lines = [error.split(": ")[:2] for error in errors(tmp_path, content)]
    assert lines == [
        ["1", "over_budget"],
        ["2", "max_image_bytes"],
        ["3", "ocr_onyl"],
        ["4", "max_image_bytes"],
        ["6", "prompts.default"],
    ]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is named, with the reason; it never counts as "no policy"."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml cannot be read: No such file"):
        read_policy(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        read_policy(tmp_path)
