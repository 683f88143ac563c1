"""The tenant's identity. What is not here: how tenants are stored (clients) and partitioned (defs)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType
from uuid import UUID

TenantId = NewType("TenantId", UUID)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the pipeline; the unit of isolation, quota and budget.

    Attributes:
        id: The same UUID in S3 keys, Postgres, Qdrant, metrics, logs and as Dagster's partition key.
        name: For people; unique, and may be changed.
        settings: Its own, unchecked: the policy's part is read by `policy_settings.py`.
    """

    id: TenantId
    name: str
    settings: Mapping[str, object] = field(default_factory=dict, hash=False)
