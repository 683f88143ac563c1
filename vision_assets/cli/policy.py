"""`vision-assets policy`: what may be looked at, who said so, and a tenant's own part of it.

What is not here: the rules (`core/policy.py`), and reading their file (`clients/policy_file.py`).
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from pydantic import ByteSize
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.policy_file import PolicyFile, read_policy, read_value
from vision_assets.clients.postgres.posts import find_tenant, replace_policy
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.policy_settings import (
    TENANT_KEY,
    Key,
    Rule,
    rules,
    with_tenant_settings,
    with_values,
    without_keys,
)
from vision_assets.settings import Settings

app = typer.Typer(help="The vision policy: what may be looked at, and by whom.", no_args_is_help=True)

_ATTEMPTS = 10
_Tenant = Annotated[str, typer.Option("--tenant", "-t", help="A tenant's name or id.")]


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="YAML file; default VISION_POLICY_FILE.", show_default=False)
    ] = None,
) -> None:
    """Read a policy file and tell everything that is wrong with it, with line and key."""
    try:
        path = file or Settings().vision_policy_file
        if path is None:
            raise ConfigurationError("There is no file to check: name one, or set VISION_POLICY_FILE.")
        found = read_policy(path)
    except VisionAssetsError as error:
        fail(error)
    listed = rules(found.policy, {"file": found.settings})
    own = sum(rule.source == "file" for rule in listed)
    Console().print(
        f"{escape(str(path))} is a valid policy: it sets {own} of {len(listed)} values, and the defaults hold for the "
        "others.",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def show(
    tenant: Annotated[
        str | None, typer.Option("--tenant", "-t", help="A tenant's name or id; default: what holds for all.")
    ] = None,
) -> None:
    """Show every rule in force, and whether the defaults, the file or the tenant set it."""
    try:
        of_all = read_policy(Settings().vision_policy_file)
        own = asyncio.run(_own(tenant, of_all.policy)) if tenant else _Own("all tenants", {}, of_all.policy)
    except VisionAssetsError as error:
        fail(error)
    _print(own, of_all)


@app.command("set")
def set_(
    tenant: _Tenant,
    values: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE...", help="For example ocr_only.when=never; values are YAML.")
    ],
) -> None:
    """Give a tenant rules of its own; they hold from the next run on. The others stay as they are."""
    try:
        changes = dict(map(_assignment, values))
        own, of_all = asyncio.run(_change(tenant, lambda settings: with_values(settings, changes)))
    except VisionAssetsError as error:
        fail(error)
    _print(own, of_all)


@app.command()
def unset(
    tenant: _Tenant,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="For example ocr_only.when, or ocr_only.")],
) -> None:
    """Take rules of its own from a tenant: what holds for all holds for it again."""
    try:
        own, of_all = asyncio.run(_change(tenant, lambda settings: without_keys(settings, list(map(_key, keys)))))
    except VisionAssetsError as error:
        fail(error)
    _print(own, of_all)


def _key(text: str) -> Key:
    # Sections are two deep; what stands in the second may hold dots: prompts.by_mime.image/x.y.
    return tuple(text.strip().split(".", 2))


def _assignment(text: str) -> tuple[Key, object]:
    key, sign, value = text.partition("=")
    if not sign:
        raise ConfigurationError(f"{text!r} sets nothing: write KEY=VALUE.")
    return _key(key), read_value(value)


async def _change(name: str, change: Callable[[object], dict[str, object]]) -> tuple["_Own", PolicyFile]:
    """Change a tenant's own part, if the whole is right afterwards; who changes it at the same time loses nothing."""
    of_all = read_policy(Settings().vision_policy_file)
    async with open_database(max_size=1) as database:
        for _ in range(_ATTEMPTS):
            tenant = await find_tenant(database, name)
            before = tenant.settings.get(TENANT_KEY)
            after = change(before)
            policy = with_tenant_settings(of_all.policy, {TENANT_KEY: after}, tenant_name=tenant.name)
            if await replace_policy(database, tenant.id, before=before, after=after or None):
                return _Own(tenant.name, after, policy), of_all
    raise ConfigurationError(f"The settings of tenant {name!r} are being changed by others all the time; try again.")


def _print(own: "_Own", of_all: PolicyFile) -> None:
    table = Table("rule", "value", "from", title=f"Vision policy of {escape(own.name)}")
    for rule in rules(own.policy, {"tenant": own.settings, "file": of_all.settings}):
        table.add_row(rule.key, escape(_value(rule)), rule.source)
    Console().print(table)


class _Own(NamedTuple):
    """Whose policy it is, what they set themselves, and what is in force."""

    name: str
    settings: object
    policy: VisionPolicy


async def _own(name: str, of_all: VisionPolicy) -> _Own:
    async with open_database(max_size=1) as database:
        tenant = await find_tenant(database, name)
    policy = with_tenant_settings(of_all, tenant.settings, tenant_name=tenant.name)
    return _Own(tenant.name, tenant.settings.get(TENANT_KEY), policy)


def _value(rule: Rule) -> str:
    if rule.value is None:
        return "as the settings say"
    if isinstance(rule.value, list):
        return ", ".join(sorted(rule.value)) or "none"
    if rule.key.endswith("_bytes"):
        return f"{rule.value:,} ({ByteSize(rule.value).human_readable(separator=' ')})"
    return str(rule.value)
