"""Settings of the policy: how they are laid over each other, what is wrong with them, and who set what; pure functions.

What is not here: the rules themselves (`policy.py`), and reading a file (`clients/policy_file.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from vision_assets.core.errors import ConfigurationError
from vision_assets.core.policy import VisionPolicy

KeyPath = tuple[str | int, ...]
"""Keys, and places in lists from 0, from the outermost on."""

Key = tuple[str, ...]
"""One value's place in settings, from the outermost key on."""

TENANT_KEY = "vision"
"""Of the policy's part in `tenants.settings`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with settings.

    Attributes:
        path: Where it stands.
        message: What is wrong, and what is allowed.
    """

    path: KeyPath
    message: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One value in force.

    Attributes:
        key: Dotted.
        source: The layer that set it, or `default`.
    """

    key: str
    value: Any
    source: str


def dotted(path: KeyPath) -> str:
    """Write a path for people: `ocr_only.mime_types[0]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def overlaid(policy: VisionPolicy, settings: object) -> VisionPolicy | tuple[Problem, ...]:
    """Lay settings over a policy: mappings are merged key by key, lists and single values are replaced.

    A model belongs to its provider: settings that name a provider without a model leave that to the provider's default.

    Args:
        policy: Holds for what the settings do not name.
        settings: As read from YAML or JSON, unchecked.

    Returns:
        The policy in force, or everything that is wrong.
    """
    try:
        merged = _merged(policy.model_dump(), settings)
        if isinstance(merged, dict) and isinstance(settings, Mapping) and "provider" in settings:
            merged["model"] = settings.get("model")
        return VisionPolicy.model_validate(merged)
    except ValidationError as error:
        return tuple(_problem(dict(detail)) for detail in error.errors(include_url=False))


def with_tenant_settings(policy: VisionPolicy, settings: Mapping[str, object], *, tenant_name: str) -> VisionPolicy:
    """Lay a tenant's own settings over the policy of all.

    Args:
        policy: Of all tenants.
        settings: The whole of `tenants.settings`; the policy's part is below `vision`, and may be absent.
        tenant_name: For the error.

    Raises:
        ConfigurationError: Names the tenant, and each key that is wrong.
    """
    if TENANT_KEY not in settings:
        return policy
    found = overlaid(policy, settings[TENANT_KEY])
    if isinstance(found, VisionPolicy):
        return found
    lines = [f"  {dotted((TENANT_KEY, *problem.path))}: {problem.message}" for problem in found]
    raise ConfigurationError("\n".join([f"The settings of tenant {tenant_name!r} are wrong:", *lines]))


def with_values(settings: object, values: Mapping[Key, object]) -> dict[str, object]:
    """Give settings with some keys set, unchecked.

    Args:
        settings: Of a tenant, the policy's part; what is no mapping is replaced.
        values: By key.
    """
    found = dict(settings) if isinstance(settings, Mapping) else {}
    for key, value in values.items():
        found = _with(found, key, value)
    return found


def without_keys(settings: object, keys: Sequence[Key]) -> dict[str, object]:
    """Give settings without some keys, unchecked. A mapping that is left empty goes too.

    Args:
        settings: Of a tenant, the policy's part.
        keys: To be taken out.

    Raises:
        ConfigurationError: A key is not there.
    """
    found = dict(settings) if isinstance(settings, Mapping) else {}
    for key in keys:
        if not _names(found, key):
            raise ConfigurationError(f"{dotted(key)} is not set, so it cannot be unset.")
        found = _without(found, key)
    return found


def rules(policy: VisionPolicy, layers: Mapping[str, object]) -> list[Rule]:
    """List every value in force with the layer that set it.

    Args:
        policy: Made of the layers.
        layers: Settings by the layer's name, the uppermost first.
    """
    return [
        Rule(dotted(path), value, next((name for name in layers if _sets(layers[name], path)), "default"))
        for path, value in _leaves(policy.model_dump(mode="json"))
    ]


def _merged(base: object, over: object) -> object:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}
    return over


def _with(settings: object, key: Key, value: object) -> dict[str, object]:
    first, *others = key
    around = settings if isinstance(settings, Mapping) else {}
    return {**around, first: _with(around.get(first), tuple(others), value) if others else value}


def _without(settings: Mapping[str, object], key: Key) -> dict[str, object]:
    first, *others = key
    left = {name: value for name, value in settings.items() if name != first}
    inner = settings[first]
    if others and isinstance(inner, Mapping) and (kept := _without(inner, tuple(others))):
        left[first] = kept
    return left


def _leaves(values: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _sets(settings: object, path: KeyPath) -> bool:
    """Tell whether settings decide about a value; whoever names a provider decides about the model."""
    return _names(settings, path) or (path == ("model",) and _names(settings, ("provider",)))


def _names(settings: object, path: KeyPath) -> bool:
    for key in path:
        if not isinstance(settings, Mapping) or key not in settings:
            return False
        settings = settings[key]
    return True


_OF_THE_KEY = "[key]"
"""What pydantic adds to a path when not the value is wrong, but its key in a mapping without fixed ones."""


def _problem(detail: Mapping[str, Any]) -> Problem:
    """Say what pydantic found in the words of these settings."""
    path, given, context = detail["loc"], detail["input"], detail.get("ctx", {})
    is_key = path[-1:] == (_OF_THE_KEY,)
    if is_key:
        path = path[:-1]
    match detail["type"]:
        case "extra_forbidden":
            message = _unknown_key(path)
        case "enum" if is_key:
            message = f"there is no such key; there are: {context['expected']}"
        case "enum" | "literal_error":
            message = f"{_shown(given)} is not allowed; allowed: {context['expected']}"
        case "int_type":
            message = f"must be a whole number, not {_shown(given)}"
        case "greater_than_equal":
            message = f"must be at least {context['ge']}, not {_shown(given)}"
        case "frozen_set_type":
            message = f"must be a list, not {_shown(given)}"
        case "model_type" | "dict_type":
            message = f"must be a mapping of keys to values, not {_shown(given)}"
        case "string_type":
            message = f"must be a text, not {_shown(given)}; in quotes it is one"
        case _:
            message = detail["msg"].removeprefix("Value error, ")
    return Problem(path, message)


def _unknown_key(path: KeyPath) -> str:
    known = _known_keys(path[:-1])
    if close := get_close_matches(str(path[-1]), known, n=1):
        return f"there is no such key; did you mean {close[0]!r}?"
    return f"there is no such key; there are: {', '.join(known)}"


def _known_keys(section: KeyPath) -> Sequence[str]:
    model: Any = VisionPolicy
    for key in section:
        model = model.model_fields[key].annotation
    return tuple(model.model_fields)


def _shown(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case Mapping():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return repr(value)[:80]
