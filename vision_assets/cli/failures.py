"""How a command tells that it failed. What is not here: which errors there are (`core/errors.py`)."""

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape


def fail(error: Exception) -> NoReturn:
    """Print an error for people and end the command with 1.

    Raises:
        typer.Exit: Always.
    """
    Console(stderr=True).print(
        f"[red]{type(error).__name__}[/red]: {escape(str(error))}", soft_wrap=True, highlight=False
    )
    raise typer.Exit(1) from error
