"""`vision-assets`: assembles the commands, one module a group. What is not here: what they do."""

import typer

from vision_assets.cli.demo import demo
from vision_assets.cli.imports import import_export, import_folder
from vision_assets.cli.materialize import materialize
from vision_assets.cli.parts import config, down, status, up
from vision_assets.cli.search import search
from vision_assets.logs import configure_logging
from vision_assets.settings import Settings

app = typer.Typer(
    help="Multi-tenant media intelligence for Telegram posts.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def prepare() -> None:
    """Multi-tenant media intelligence for Telegram posts."""
    configure_logging(Settings().log_level)


for name, command in {
    "up": up,
    "down": down,
    "status": status,
    "config": config,
    "import": import_export,
    "import-folder": import_folder,
    "materialize": materialize,
    "search": search,
    "demo": demo,
}.items():
    app.command(name)(command)
