"""How a level against a limit is shown: figures, per cent, and the colour of the asset checks' thresholds.

What is not here: what is measured (`quota.py`, `budget.py`).
"""

from collections.abc import Callable

from vision_assets.core.levels import ERROR_FROM, WARN_FROM


def level(taken: int, limit: int | None, shown: Callable[[int], str], *, own: bool = False) -> str:
    """Show a level in colour.

    Args:
        taken: Used and held.
        limit: None: there is none.
        shown: Writes a figure for people.
        own: The limit differs from the settings' and gets an asterisk.
    """
    if limit is None:
        return f"{shown(taken)}, no limit"
    share = taken / limit if limit else float(taken > 0)
    colour = "red" if share >= ERROR_FROM else "yellow" if share >= WARN_FROM else "green"
    return f"[{colour}]{shown(taken)} of {shown(limit)}{'*' if own else ''}, {share:.0%}[/]"
