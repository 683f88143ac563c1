"""How figures and pictures are shown in Dagster's UI. What is not here: the figures themselves (`core/`'s reports)."""

import base64
import io
from collections.abc import Mapping, Sequence

import dagster as dg
from PIL import Image

from vision_assets.core.phash import THUMBNAIL_EDGE
from vision_assets.core.vision_report import Looked

THUMBNAIL_LONG_EDGE = 72  # they live in the event log, so they stay tiny


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MetadataValue:
    """Show a table; figures go to the right, with thousands set apart."""
    figures = [bool(rows) and all(isinstance(row[column], int) for row in rows) for column in range(len(headings))]
    lines = [headings, [("---:" if right else "---") for right in figures]]
    lines += [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def counts_table(counts: Mapping[str, int], *, name: str) -> dg.MetadataValue:
    """Show counts as a table, largest first.

    Args:
        name: Heading of the first column.
    """
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return dg.MetadataValue.md(
        "\n".join([f"| {name} | count |", "| --- | ---: |", *(f"| {key} | {value} |" for key, value in rows)])
        if rows
        else "none in this run"
    )


def megabytes(size_bytes: int) -> float:
    """Round to thousandths of a MB (10⁶ bytes), for plots."""
    return round(size_bytes / 1e6, 3)


def contact_sheet(looked: Sequence[Looked]) -> dg.MetadataValue:
    """Show what was analysed: thumbnail, kind, labels and how the result came."""
    rows = [
        f"| {_picture(item)} | {item.kind} | {', '.join(item.labels)} | {item.method} | `{item.sha256[:12]}` |"
        for item in looked
    ]
    return dg.MetadataValue.md(
        "\n".join(["| picture | kind | labels | result | sha256 |", "| --- | --- | --- | --- | --- |", *rows])
        if rows
        else "none in this run"
    )


def _picture(item: Looked) -> str:
    if item.thumbnail is None:
        return ""
    luma = Image.frombytes("L", (THUMBNAIL_EDGE, THUMBNAIL_EDGE), item.thumbnail)
    scale = THUMBNAIL_LONG_EDGE / max(item.width, item.height)
    size = max(1, round(item.width * scale)), max(1, round(item.height * scale))
    file = io.BytesIO()
    luma.resize(size).save(file, "WEBP", quality=60)
    return f"![{item.kind}](data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()})"
