"""`vision-assets`: assembles the commands, one module a group. What is not here: what they do."""

import typer

from vision_assets.cli import alerts, budget, dead_letters, line, policy, quota, reuse
from vision_assets.cli.billing import billing
from vision_assets.cli.cleanup import cleanup
from vision_assets.cli.demo import demo
from vision_assets.cli.duplicates import duplicates
from vision_assets.cli.explain import explain
from vision_assets.cli.imports import import_export, import_folder
from vision_assets.cli.materialize import materialize
from vision_assets.cli.parts import config, down, status, up
from vision_assets.cli.quote import quote
from vision_assets.cli.search import search
from vision_assets.cli.serve import serve
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


app.command("up")(up)
app.command("down")(down)
app.command("status")(status)
app.command("config")(config)
app.command("serve")(serve)
app.command("import")(import_export)
app.command("import-folder")(import_folder)
app.command("materialize")(materialize)
app.command("search")(search)
app.command("quote")(quote)
app.command("duplicates")(duplicates)
app.command("explain")(explain)
app.command("cleanup")(cleanup)
app.command("billing")(billing)
app.add_typer(line.app, name="line")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(quota.app, name="quota")
app.add_typer(budget.app, name="budget")
app.add_typer(policy.app, name="policy")
app.add_typer(reuse.app, name="reuse")
app.add_typer(alerts.app, name="alerts")
app.command("demo")(demo)
