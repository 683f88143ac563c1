"""A look into S3: what lies there is booked, whatever the books said. All that is uncertain ends here.

What is not here: who asks for it and when (`guarded_store.py`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from vision_assets.core.errors import StorageUnavailable
from vision_assets.core.object_ledger import Committed, Operation, Overdue, StorageLedger, Taken
from vision_assets.core.storage import ContentType, ObjectStore

log = structlog.get_logger(__name__)

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Verified:
    """An object that was looked at, and what the books said before.

    Attributes:
        before_bytes: None: the books had no such object.
        after_bytes: As it lies in S3, and in the books now; None: there is no such object.
        overdue: An operation that never came back had it.
        held_bytes: Reserved by that operation until now.
    """

    key: str
    content_type: ContentType
    before_bytes: int | None
    after_bytes: int | None
    overdue: bool = False
    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Verification:
    """What became of the objects that were to be looked at.

    Attributes:
        busy: Keys that another operation has: its commit books what is there.
        failed: Keys that S3 did not tell of; their slots stay until somebody takes them over.
    """

    verified: tuple[Verified, ...] = ()
    busy: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


async def look(taken: Sequence[Taken], *, store: ObjectStore, ledger: StorageLedger, heads: int) -> Verification:
    """Ask S3 for objects whose slots are held, and book what is there; tell the log of operations that never came back.

    Args:
        heads: Objects asked for at once. When S3 has not told of as many, it is down, and the rest is not asked for.

    Raises:
        DatabaseUnavailable, DatabaseConflict: Transient; the slots stay until somebody takes them over.
    """
    found = await _heads([operation for operation, _ in taken], store, at_once=heads)
    seen = [one for one in found if one is not None]
    booked = dict(zip((one.operation.id for one in seen), await ledger.commit(seen), strict=True))
    verified: list[Verified] = []
    busy: list[str] = []
    failed: list[str] = []
    for (operation, begun), one in zip(taken, found, strict=True):
        if one is None:
            failed.append(operation.key)
        elif not booked[operation.id]:
            busy.append(operation.key)
        else:
            verified.append(
                Verified(
                    key=operation.key,
                    content_type=operation.content_type,
                    before_bytes=begun.counted_bytes,
                    after_bytes=one.bytes,
                    overdue=isinstance(begun, Overdue),
                    held_bytes=begun.held_bytes if isinstance(begun, Overdue) else 0,
                )
            )
    if stale := [one for one in verified if one.overdue]:
        log.warning(
            "quota.stale_hold",
            objects=len(stale),
            held_bytes=sum(one.held_bytes for one in stale),
            examples=[one.key for one in stale[:EXAMPLES]],
        )
    return Verification(tuple(verified), tuple(busy), tuple(failed))


async def _heads(operations: Sequence[Operation], store: ObjectStore, *, at_once: int) -> Sequence[Committed | None]:
    """Tell what lies in S3 under the operations' keys; None: S3 did not tell, or was not asked any more."""
    turns = asyncio.Semaphore(at_once)
    failures = 0

    async def head(operation: Operation) -> Committed | None:
        nonlocal failures
        async with turns:
            if failures >= at_once:
                return None
            try:
                there = await store.head(operation.key)
            except StorageUnavailable as error:
                failures += 1
                log.warning("quota.look_failed", key=operation.key, error=str(error))
                return None
        return Committed(operation, there.bytes, there.modified_at) if there else Committed(operation, None)

    return await asyncio.gather(*map(head, operations))
