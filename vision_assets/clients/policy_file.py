"""The policy of all tenants in a YAML file, and what is wrong with it, line by line; and a single value in YAML.

What is not here: which settings there are (`core/policy.py`), and how they are laid over the defaults
(`core/policy_settings.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from vision_assets.core.errors import ConfigurationError
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.policy_settings import KeyPath, dotted, overlaid


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy as a file sets it.

    Attributes:
        settings: What the file itself names.
        policy: The same over the defaults.
    """

    settings: Mapping[str, object]
    policy: VisionPolicy


class _Fault(NamedTuple):
    """Something wrong, at its place.

    Attributes:
        line: From 1.
        key: Dotted; empty for the file as a whole.
    """

    line: int
    key: str
    message: str


def read_policy(path: Path | None) -> PolicyFile:
    """Read a policy; no file, and one without any key, leave the defaults.

    Raises:
        ConfigurationError: It cannot be read, or something in it is wrong: all of it, with file, line and key.
    """
    if path is None:
        return PolicyFile({}, VisionPolicy())
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The policy {path} cannot be read: {error.strerror}.") from error
    found = _parse(content)
    if isinstance(found, PolicyFile):
        return found
    lines = [f"  {path}:{line}: {f'{key}: ' if key else ''}{message}" for line, key, message in sorted(found)]
    raise ConfigurationError("\n".join(["The policy is wrong:", *lines]))


def read_value(text: str) -> object:
    """Read one value as the file would have it.

    Raises:
        ConfigurationError: It is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{text!r} is no valid YAML: {error}") from error


def _parse(content: bytes) -> PolicyFile | list[_Fault]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return [_Fault(content[: error.start].count(b"\n") + 1, "", "this is not UTF-8")]
    try:
        document = _Document(text)
    except ReaderError as error:
        return [_Fault(text[: error.position].count("\n") + 1, "", f"character U+{error.character:04X} is not allowed")]
    except yaml.MarkedYAMLError as error:
        return [_syntax_fault(error)]
    policy = overlaid(VisionPolicy(), document.settings)
    if isinstance(policy, VisionPolicy):
        return document.faults or PolicyFile(document.settings, policy)
    return [*document.faults, *(_Fault(document.line(one.path), dotted(one.path), one.message) for one in policy)]


def _syntax_fault(error: yaml.MarkedYAMLError) -> _Fault:
    mark = error.problem_mark or error.context_mark
    message = ", ".join(filter(None, (error.context, error.problem)))
    if "'@'" in message:
        message += "; put it in quotes"
    return _Fault(mark.line + 1 if mark else 1, "", f"no valid YAML: {message}")


class _Document:
    """One YAML document: its values, and the line of each.

    Attributes:
        settings: Unchecked; an empty document is an empty mapping.
        faults: What YAML lets pass and a policy does not.
    """

    def __init__(self, text: str) -> None:
        self.settings: Mapping[str, object] = {}
        self.faults: list[_Fault] = []
        self._lines: dict[KeyPath, int] = {}
        self._open: list[yaml.Node] = []
        self._loader = yaml.SafeLoader(text)
        root = self._loader.get_single_node()
        value = None if root is None else self._value(root, ())
        if isinstance(value, dict):
            self.settings = value
        elif value is not None:
            self.faults.append(_Fault(self.line(()), "", "a policy is a mapping of keys to values"))

    def line(self, path: KeyPath) -> int:
        """Tell the line of a key, or of what it stands in, from 1."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _value(self, node: yaml.Node, path: KeyPath) -> object:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if node in self._open:
            raise ConstructorError(None, None, "an alias refers to what it stands in", node.start_mark)
        self._open.append(node)
        try:
            match node:
                case yaml.MappingNode():
                    return self._mapping(node, path)
                case yaml.SequenceNode():
                    return [self._value(item, (*path, place)) for place, item in enumerate(node.value)]
                case _:
                    return self._loader.construct_object(node)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from error
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be a text", key_node.start_mark)
            # As it is written: a kind named `on` is no truth value.
            key = str(key_node.value)
            if key in values:
                first = self._lines[(*path, key)]
                self.faults.append(_Fault(line, dotted((*path, key)), f"stands here again; it is on line {first} too"))
                continue
            self._lines[(*path, key)] = line
            values[key] = self._value(value_node, (*path, key))
        return values
