"""`vision-assets policy`: what may be looked at, and who said so.

What is not here: the rules (`core/policy.py`), and reading their file (`clients/policy_file.py`).
"""

import asyncio
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from pydantic import ByteSize
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.policy_file import PolicyFile, read_policy
from vision_assets.clients.postgres.posts import find_tenant, tenant_settings
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.policy_settings import TENANT_KEY, Rule, rules, with_tenant_settings
from vision_assets.settings import Settings

app = typer.Typer(help="The vision policy: what may be looked at.", no_args_is_help=True)


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
        path = Settings().vision_policy_file
        of_all = PolicyFile({}, VisionPolicy()) if path is None else read_policy(path)
        own = asyncio.run(_own(tenant, of_all.policy)) if tenant else _Own("all tenants", {}, of_all.policy)
    except VisionAssetsError as error:
        fail(error)
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
        settings = await tenant_settings(database, tenant.id)
    policy = with_tenant_settings(of_all, settings, tenant_name=tenant.name)
    return _Own(tenant.name, settings.get(TENANT_KEY), policy)


def _value(rule: Rule) -> str:
    if isinstance(rule.value, list):
        return ", ".join(sorted(rule.value)) or "none"
    if rule.key.endswith("_bytes"):
        return f"{rule.value:,} ({ByteSize(rule.value).human_readable(separator=' ')})"
    return str(rule.value)
