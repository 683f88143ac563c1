"""Figures about one tenant for people and reports. What is not here: anything that work is decided by."""

from dataclasses import dataclass, fields

from vision_assets.clients.postgres import Database, statements
from vision_assets.core.tenants import TenantId

sql = statements("overview")

TEXTS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Counters:
    """What was done for a tenant since the beginning; two readings give a run's share."""

    puts: int
    analyses: int
    reused: int
    upserts: int

    def __sub__(self, earlier: "Counters") -> "Counters":
        return Counters(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Overview:
    """How a tenant stands.

    Attributes:
        states: References by state and reason.
        kinds: Results by kind of picture.
        ocr: Results by what became of their text: `found`, `none`, `unavailable`, `failed`.
        decisions: Pictures that the policy keeps from the provider, by verdict and reason.
        texts: The longest texts found.
    """

    posts: int
    media_references: int
    media_objects: int
    results: int
    reused: int
    posts_enriched: int
    points: int
    dead_letters: int
    states: dict[str, int]
    kinds: dict[str, int]
    ocr: dict[str, int]
    decisions: dict[str, int]
    bytes_by_type: dict[str, int]
    texts: list[str]


async def read_counters(database: Database, tenant_id: TenantId) -> Counters:
    """Read a tenant's counters."""
    async with database.connection() as connection:
        return Counters(**await sql.counters(connection, tenant_id=tenant_id))


async def read_overview(database: Database, tenant_id: TenantId) -> Overview:
    """Read a tenant's figures."""
    async with database.connection() as connection:
        of = {"tenant_id": tenant_id}
        return Overview(
            **await sql.totals(connection, **of),
            states={row["name"]: row["value"] async for row in sql.by_state(connection, **of)},
            kinds={row["name"]: row["value"] async for row in sql.by_kind(connection, **of)},
            ocr={row["name"]: row["value"] async for row in sql.by_ocr_status(connection, **of)},
            decisions={row["name"]: row["value"] async for row in sql.by_decision(connection, **of)},
            bytes_by_type={row["name"]: row["value"] async for row in sql.bytes_by_type(connection, **of)},
            texts=[row["text"] async for row in sql.texts(connection, row_limit=TEXTS_SHOWN, **of)],
        )
