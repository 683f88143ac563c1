"""What every stage's books share: dead letters, counters, and whose results are meant.

What is not here: objects (`storage.py`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from vision_assets.clients.postgres import Connection, statements
from vision_assets.core.storable_text import storable
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import SCHEMA_VERSION, ProviderIdentity

sql = statements("ledger")

Counts: TypeAlias = Mapping[tuple[tuple[str, str], ...], int]
"""Of one counter, by its labels: each (name, value), in the order of the names."""


async def record_dead_letters(
    connection: Connection, tenant_id: TenantId, letters: Sequence[tuple[str, str, str, str, str]]
) -> None:
    """Keep what could not be done.

    Args:
        letters: (stage, item, error class, reason, message) each.
    """
    fields = ("stage", "item", "error_class", "reason", "message")
    await sql.record_dead_letters(
        connection,
        [{"tenant_id": tenant_id, **dict(zip(fields, map(storable, letter), strict=True))} for letter in letters],
    )


async def resolve_dead_letters(
    connection: Connection, tenant_id: TenantId, *, stage: str, items: Sequence[str]
) -> None:
    """Mark dead letters as done, for items that went through after all."""
    await sql.resolve_dead_letters(connection, tenant_id=tenant_id, stage=stage, items=items)


async def record_counts(
    connection: Connection, tenant_id: TenantId, name: str, events: Sequence[Mapping[str, str]]
) -> None:
    """Raise a counter by one for each event.

    Args:
        name: As the exporter shows it.
        events: The labels of each event.
    """
    await raise_counter(connection, tenant_id, name, Counter(tuple(sorted(labels.items())) for labels in events))


async def raise_counter(connection: Connection, tenant_id: TenantId, name: str, counts: Counts) -> None:
    """Raise a counter.

    Args:
        name: As the exporter shows it.
    """
    await sql.count(
        connection,
        [
            {"tenant_id": tenant_id, "name": name, "labels": dict(labels), "value": value}
            for labels, value in sorted(counts.items())  # one order for all, so that two writers never deadlock
        ],
    )


def identity(provider: ProviderIdentity) -> dict[str, str]:
    """Name a provider's results, by the columns' names."""
    return {
        "provider": provider.name,
        "model": provider.model,
        "schema_version": SCHEMA_VERSION,
        "fingerprint": provider.fingerprint,
    }
