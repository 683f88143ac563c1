"""The file that the long runs write: one section a test. What is not here: what the figures say."""

import json
from datetime import UTC, datetime
from typing import Any

from vision_assets.settings import PROJECT_ROOT

FIGURES = PROJECT_ROOT / ".data" / "chaos.json"


def write_section(name: str, section: dict[str, Any]) -> None:
    """Put one test's figures beside those of the others."""
    FIGURES.parent.mkdir(exist_ok=True, mode=0o711)
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    figures[name] = {"finished_at": datetime.now(UTC).isoformat(timespec="seconds"), **section}
    draft = FIGURES.with_suffix(".draft")
    draft.write_text(json.dumps(dict(sorted(figures.items())), indent=2, ensure_ascii=False) + "\n")
    draft.replace(FIGURES)
