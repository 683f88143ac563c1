"""How-tos beside the assets that they are about, in Dagster's UI: who looks there need not look for them elsewhere."""

from pathlib import Path

import dagster as dg

HOWTO = Path(__file__).parents[2] / "docs" / "howto"


def runbooks(*names: str) -> dict[str, dg.MetadataValue]:
    """Show how-tos by their titles, as far as the documentation is installed with the program.

    Args:
        names: Of files in `docs/howto`, without the extension.
    """
    texts = [file.read_text(encoding="utf-8") for name in names if (file := HOWTO / f"{name}.md").is_file()]
    return {f"how-to: {text.splitlines()[0].removeprefix('# ')}": dg.MetadataValue.md(text) for text in texts}
