"""Dead letters: items that were given up, and which of them are tried again.

To re-open one is to make its item to do again; whoever does the work next closes the letter, or writes it anew. Of an
item that is not there any more the letter is closed here, whoever deleted it.
What is not here: who gives items up (the passes), and the tables that say what is to do
(`clients/postgres/dead_letters.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from vision_assets.core import importing
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)

STAGES = ("media_objects", "phash_index", "vision_results")
"""Whose items can be made to do again. What an import gave up comes again with the next import."""

ALL_STAGES = (*STAGES, importing.STAGE)
"""Whoever gives items up."""

PASSING: Mapping[str, frozenset[str]] = {
    "media_objects": frozenset({"empty", "truncated"}),  # a download may have been under way
    "vision_results": frozenset({"parse_failed", "provider_failed"}),  # another call may bring an answer
}
"""Reasons that may pass by themselves, by stage. Any other one needs somebody: another file, other limits, a look."""

REST = timedelta(hours=12)
"""Between the last failure and the next try."""

BATCH_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters; None is any.

    Attributes:
        item: As in the letter: a sha256, or `<post>/<position>` of a reference.
    """

    tenant_id: TenantId | None = None
    stage: str | None = None
    reason: str | None = None
    item: str | None = None


@dataclass(frozen=True, slots=True)
class Reopened:
    """Letters of one tenant, stage and reason that were re-opened."""

    tenant_id: TenantId
    stage: str
    reason: str
    items: int


class DeadLetterLedger(Protocol):
    """The letters. Every method raises `DatabaseUnavailable` or `DatabaseConflict`; both are transient."""

    async def close_gone(self, selection: Selection, *, before: datetime | None, limit: int) -> int:
        """Close letters of items that are not there any more: there is nothing left to do.

        Args:
            before: Aware UTC; what failed later stays open. None: nothing does.

        Returns:
            How many; none when there is none left.
        """
        ...

    async def reopen(self, selection: Selection, *, limit: int) -> Sequence[Reopened]:
        """Re-open letters of active tenants, whatever their reason; an open one once, until it fails again."""
        ...

    async def reopen_passing(
        self, passing: Mapping[str, frozenset[str]], *, max_retries: int, before: datetime, limit: int
    ) -> Sequence[Reopened]:
        """Re-open letters of active tenants whose reason may pass.

        Args:
            passing: Reasons by stage.
            max_retries: Of one item, since it last went through; whoever re-opened it.
            before: Aware UTC; what failed later rests.
        """
        ...


async def close_gone(ledger: DeadLetterLedger, *, now: datetime) -> int:
    """Close all letters of items that are not there any more.

    After a rest, as a letter also tells that an object was lost, and people are to see that.

    Args:
        now: Aware UTC.

    Returns:
        How many.
    """
    return await _close_gone(ledger, Selection(), before=now - REST)


async def _close_gone(ledger: DeadLetterLedger, selection: Selection, *, before: datetime | None) -> int:
    closed = 0
    while some := await ledger.close_gone(selection, before=before, limit=BATCH_SIZE):
        closed += some
    if closed:
        log.info("dead_letters.closed", items=closed)
    return closed


async def reopen(ledger: DeadLetterLedger, selection: Selection) -> list[Reopened]:
    """Re-open all letters that are selected, and close those of them whose items are not there any more."""
    await _close_gone(ledger, selection, before=None)
    found: list[Reopened] = []
    while some := await ledger.reopen(selection, limit=BATCH_SIZE):
        found += some
    return _told(found)


async def reopen_passing(ledger: DeadLetterLedger, *, max_retries: int, now: datetime) -> list[Reopened]:
    """Re-open all letters whose reason may pass and that were not tried too often.

    Args:
        max_retries: Of one item; 0 re-opens nothing.
        now: Aware UTC.
    """
    found: list[Reopened] = []
    while some := await ledger.reopen_passing(PASSING, max_retries=max_retries, before=now - REST, limit=BATCH_SIZE):
        found += some
    return _told(found)


def _told(found: Sequence[Reopened]) -> list[Reopened]:
    """Add up batches, and tell of them in the log."""
    items: dict[tuple[TenantId, str, str], int] = {}
    for one in found:
        key = one.tenant_id, one.stage, one.reason
        items[key] = items.get(key, 0) + one.items
    for (tenant_id, stage, reason), count in items.items():
        log.info("dead_letters.reopened", tenant_id=str(tenant_id), stage=stage, reason=reason, items=count)
    return [Reopened(*key, count) for key, count in items.items()]
