"""How figures and pictures are shown in Dagster's UI. What is not here: the figures themselves (`core/`'s reports)."""

from collections.abc import Mapping, Sequence

import dagster as dg

from vision_assets.core.clusters import Cluster, ClusterPicture
from vision_assets.core.data_uris import luma_uri
from vision_assets.core.neighbours import Fingerprint
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision_report import Looked, Pair

THUMBNAIL_LONG_EDGE = 72  # they live in the event log, so they stay tiny
PICTURES_A_CLUSTER = 4


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


def folder(bucket: str, prefix: str, tenant_id: TenantId) -> dict[str, str]:
    """Tell where in S3 the objects that an asset makes of a tenant lie."""
    return {"dagster/uri": f"s3://{bucket}/{prefix}/{tenant_id}/"}


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


def pair_sheet(pairs: Sequence[Pair]) -> dg.MetadataValue:
    """Show pictures beside the candidates for their results: how far they lie apart, and what was decided."""
    rows = [
        f"| {_fingerprinted(pair.own, pair.judged.sha256)} "
        f"| {_fingerprinted(pair.judged.candidate.fingerprint, pair.judged.candidate.sha256)} "
        f"| {pair.judged.verdict}: {pair.judged.reason} | {pair.judged.likeness.distance_bits} "
        f"| {pair.judged.likeness.distance_256_bits} | {pair.judged.likeness.aspect_difference:.1%} "
        f"| {pair.judged.likeness.cell_difference:.1f} "
        f"| `{pair.judged.sha256[:12]}` | `{pair.judged.candidate.sha256[:12]}` |"
        for pair in pairs
    ]
    headings = (
        "| picture | candidate | decision | bits of 64 | of 256 | aspect | cells of 255 | sha256 | candidate |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    )
    return dg.MetadataValue.md("\n".join([*headings, *rows]) if rows else "none in this run")


def _thumbnail(thumbnail: bytes, width: int, height: int, *, label: str) -> str:
    uri = luma_uri(thumbnail, width=width, height=height, long_edge=THUMBNAIL_LONG_EDGE)
    return f"![{label}]({uri})"


def _fingerprinted(picture: Fingerprint, sha256: str) -> str:
    return _thumbnail(picture.thumbnail, picture.width, picture.height, label=sha256[:12])


def _picture(item: Looked) -> str:
    return _thumbnail(item.thumbnail, item.width, item.height, label=item.kind) if item.thumbnail is not None else ""


def cluster_sheet(clusters: Sequence[Cluster]) -> dg.MetadataValue:
    """Show clusters: thumbnails of their largest pictures, how many there are, and what the copies take."""
    rows = [
        f"| {' '.join(map(_member, cluster.pictures[:PICTURES_A_CLUSTER]))} | {cluster.count:,} "
        f"| {megabytes(cluster.duplicate_bytes)} | {cluster.first_seen_at:%Y-%m-%d} "
        f"| `{cluster.pictures[0].sha256[:12]}` |"
        for cluster in clusters
    ]
    headings = ["| pictures | count | MB in copies | first seen | sha256 |", "| --- | ---: | ---: | --- | --- |"]
    return dg.MetadataValue.md("\n".join([*headings, *rows]) if rows else "none")


def _member(picture: ClusterPicture) -> str:
    return _thumbnail(picture.thumbnail, picture.width, picture.height, label=picture.sha256[:12])
