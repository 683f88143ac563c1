"""The files of a month's bill: Parquet and CSV with all revisions, and CloudEvents as lines of JSON.

The same revisions give the same bytes. What is not here: where the files lie, and when they are written (`billing.py`).
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal

from arro3.core import Array, DataType, Table
from arro3.io import write_csv, write_parquet

from vision_assets.core.billing import Billed, BillingFormat, Line, StorageUse, event
from vision_assets.core.tenants import TenantId

_TEXT, _COUNT = DataType.utf8(), DataType.int64()

COLUMNS: Mapping[str, DataType] = {
    "tenant_id": _TEXT,
    "day": DataType.date32(),
    "meter": _TEXT,
    "content_type": _TEXT,
    "provider": _TEXT,
    "model": _TEXT,
    "revision": DataType.int32(),
    "is_latest": DataType.bool(),
    "byte_seconds": DataType.decimal128(38, 6),
    "gb_hours": DataType.decimal128(38, 9),
    "tokens": _COUNT,
    "calls": _COUNT,
    "unconfirmed_tokens": _COUNT,
    "unconfirmed_calls": _COUNT,
    "price_per_million": DataType.decimal128(38, 9),
    "cost": DataType.decimal128(38, 6),
    "currency": _TEXT,
    "billed_at": DataType.timestamp("us", tz="UTC"),
}
"""Of Parquet and CSV, in this order; `docs/howto/billing.md` says what they mean."""


def _rows(tenant_id: TenantId, billed: Sequence[Billed]) -> list[dict[str, object]]:
    latest = {one.line: one.revision for one in billed}
    rows = []
    for one in billed:
        row: dict[str, object] = {
            "tenant_id": tenant_id,
            "day": one.line.day,
            "meter": one.line.meter,
            "content_type": one.line.content_type or None,
            "provider": one.line.provider or None,
            "model": one.line.model or None,
            "revision": one.revision,
            "is_latest": latest[one.line] == one.revision,
            "billed_at": one.billed_at.astimezone(UTC).isoformat(),
        }
        if isinstance(one.use, StorageUse):
            row |= {"byte_seconds": one.use.byte_seconds, "gb_hours": one.use.gb_hours}
        else:
            row |= {
                "tokens": one.use.tokens,
                "calls": one.use.calls,
                "unconfirmed_tokens": one.use.unconfirmed_tokens,
                "unconfirmed_calls": one.use.unconfirmed_calls,
            }
        if one.price is not None and one.cost_microunits is not None:
            row |= {
                "price_per_million": one.price.per_million,
                "cost": Decimal(one.cost_microunits).scaleb(-6),
                "currency": one.price.currency,
            }
        rows.append(row)
    return rows


def _table(tenant_id: TenantId, billed: Sequence[Billed]) -> Table:
    rows = _rows(tenant_id, billed)
    return Table.from_pydict({name: _column([row.get(name) for row in rows], kind) for name, kind in COLUMNS.items()})


def _column(values: Sequence[object], kind: DataType) -> Array:
    # Arrays are made of texts and cast: of dates and decimals the library makes none directly.
    texts = [None if value is None else f"{value:f}" if isinstance(value, Decimal) else str(value) for value in values]
    return Array(texts, _TEXT).cast(kind)


def _parquet(tenant_id: TenantId, billed: Sequence[Billed]) -> bytes:
    file = io.BytesIO()
    write_parquet(_table(tenant_id, billed), file, compression="snappy")
    return file.getvalue()


def _csv(tenant_id: TenantId, billed: Sequence[Billed]) -> bytes:
    file = io.BytesIO()
    write_csv(_table(tenant_id, billed), file, header=True)
    return file.getvalue()


def _events(tenant_id: TenantId, billed: Sequence[Billed]) -> bytes:
    lines = []
    before: dict[Line, Billed] = {}
    for one in billed:
        lines.append(json.dumps(event(tenant_id, one, before.get(one.line)), ensure_ascii=False) + "\n")
        before[one.line] = one
    return "".join(lines).encode()


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    mime: str
    encode: Callable[[TenantId, Sequence[Billed]], bytes]


FORMATS: Sequence[BillingFormat] = (
    _Format("usage.parquet", "application/vnd.apache.parquet", _parquet),
    _Format("usage.csv", "text/csv; charset=utf-8", _csv),
    _Format("events.jsonl", "application/x-ndjson", _events),
)
