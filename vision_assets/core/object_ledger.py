"""The object ledger: operations on objects, their slots, and what is admitted.

The ledger has a row for each object that is known to lie in S3, or that an operation is under way for. An operation
takes the one slot of its key (`begin`), acts on S3, and books what is there (`commit`). A slot whose operation never
came back is taken over after its time: somebody looks into S3 and books what is there, never a guess.
What is not here: the steps of an operation (`guarded_store.py`), the comparison with a full listing (`reconcile.py`),
and the tables (`clients/postgres/storage.py`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from vision_assets.core.errors import TenantUnknown
from vision_assets.core.quota import Figures, RefusalReason, StorageLimits, TenantUsage, figures, refusal
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import TenantId

OperationKind = Literal["put", "delete", "verify"]


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that is to be done with one object.

    Attributes:
        id: The caller's choice: a repeated `begin` with it gives the same answer.
        size_bytes: Of the object that is to be put; 0 for other kinds.
        immutable: The key names the content, so whoever puts it puts the same bytes.
    """

    id: UUID
    tenant_id: TenantId
    key: str
    content_type: ContentType
    kind: OperationKind
    size_bytes: int = 0
    immutable: bool = False


@dataclass(frozen=True, slots=True)
class Granted:
    """The slot is the operation's own until it is committed.

    Attributes:
        counted_bytes: The object's size in the books; None: not known to lie in S3.
    """

    counted_bytes: int | None


@dataclass(frozen=True, slots=True)
class Overdue:
    """The key had the slot of an operation that never came back. It is a `verify` now, under the new operation's id.

    Attributes:
        counted_bytes: The object's size in the books; None: not known to lie in S3.
        held_bytes: Stay reserved until S3 was looked into.
    """

    counted_bytes: int | None
    held_bytes: int


@dataclass(frozen=True, slots=True)
class Have:
    """An immutable object is in the books with this size: there is nothing to put. It counts as used just now."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another operation has the key's slot."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Refused:
    """The put would break a limit."""

    reason: RefusalReason
    figures: Figures


Begun = Granted | Overdue | Have | Busy | Refused

Taken = tuple[Operation, Granted | Overdue]
"""An operation that has its key's slot."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What lies in S3 under an operation's key, known under its slot.

    Attributes:
        bytes: None: nothing does.
        modified_at: When the object was written, where S3 told; None: just now.
    """

    operation: Operation
    bytes: int | None
    modified_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """The operation that is under way on a key.

    Attributes:
        size_bytes: Of the object that is being put, or was when the slot was taken over; None for others.
        held_bytes: Reserved against the limits until it is committed.
    """

    id: UUID
    kind: OperationKind
    size_bytes: int | None
    held_bytes: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the object ledger.

    Attributes:
        bytes: None: not known to lie in S3.
    """

    bytes: int | None
    slot: Slot | None = None


Place = tuple[TenantId, str]
"""A tenant's key."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a ledger answers to a batch of operations, and what it has to write for it.

    Attributes:
        slots: New slots by place, with the type of the object.
        used: Immutable objects that count as used just now.
    """

    answers: Sequence[Begun]
    slots: Mapping[Place, tuple[ContentType, Slot]]
    used: Sequence[Place]


class StorageLedger(Protocol):
    """The object ledger with its slots, and the usage that follows from it.

    Every method raises `DatabaseUnavailable` when the ledger cannot be reached and `DatabaseConflict` when it gave way
    to others; both are transient.
    """

    async def begin(
        self, operations: Sequence[Operation], *, limits: StorageLimits, now: datetime, until: datetime
    ) -> Sequence[Begun]:
        """Take the slots of operations, in one transaction; of two on the same key the second finds it busy.

        Args:
            now: Aware UTC; slots until then or earlier are overdue.
            until: When the slots may be taken over by others.

        Returns:
            An answer for each operation, in their order. Those not granted hold nothing and hold up no other.

        Raises:
            TenantUnknown: There is no such tenant; nothing was begun.
        """
        ...

    async def commit(self, outcomes: Sequence[Committed]) -> Sequence[bool]:
        """Book what lies in S3 and give the slots back, in one transaction; repeating it changes nothing.

        Returns:
            For each, in their order: False when the slot is not the operation's own (any more), so nothing was booked.
        """
        ...

    async def overdue(self, tenant_id: TenantId, *, now: datetime, until: datetime, limit: int) -> Sequence[Taken]:
        """Take over a tenant's overdue slots, the oldest first, as operations that look into S3."""
        ...

    async def usage(self, tenant_id: TenantId) -> TenantUsage:
        """Tell what a tenant has stored, with one look.

        Raises:
            TenantUnknown: There is no such tenant.
        """
        ...

    async def count_unchecked(self, checks: Mapping[TenantId, int]) -> None:
        """Count checks that failed while the ledger could not be asked, of puts that went on and of questions alone."""
        ...

    async def count_refused(self, tenant_id: TenantId, reason: RefusalReason) -> None:
        """Count a refusal by other means than `begin`, which counts its own."""
        ...


def decide(
    operations: Sequence[Operation],
    *,
    entries: Mapping[Place, Entry],
    usage: Mapping[TenantId, TenantUsage],
    limits: StorageLimits,
    now: datetime,
    until: datetime,
) -> Decision:
    """Answer a batch of operations in their order, each as if those before it had been answered; pure.

    Args:
        entries: Of the operations' places, where there are any.
        usage: Of the operations' tenants, as of the same moment.

    Raises:
        TenantUnknown: A tenant has no usage.
    """
    answers: list[Begun] = []
    slots: dict[Place, tuple[ContentType, Slot]] = {}
    used: list[Place] = []
    held: Counter[tuple[TenantId, ContentType]] = Counter()
    for operation in operations:
        place = operation.tenant_id, operation.key
        if operation.tenant_id not in usage:
            raise TenantUnknown(f"There is no tenant {operation.tenant_id}.")
        entry = entries.get(place, Entry(None))
        if place in slots:
            entry = replace(entry, slot=slots[place][1])
        growth_bytes = operation.size_bytes - (entry.bytes or 0) if operation.kind == "put" else 0
        compared = figures(
            operation.tenant_id,
            operation.content_type,
            growth_bytes,
            usage=usage[operation.tenant_id],
            limits=limits,
            held=held,
        )
        answer, slot = _answer(operation, entry, compared, now=now, until=until)
        answers.append(answer)
        if isinstance(answer, Have):
            used.append(place)
        if slot is not None:
            slots[place] = operation.content_type, slot
            held[operation.tenant_id, operation.content_type] += slot.held_bytes - (
                entry.slot.held_bytes if entry.slot else 0
            )
    return Decision(answers, slots, used)


def _answer(
    operation: Operation, entry: Entry, compared: Figures, *, now: datetime, until: datetime
) -> tuple[Begun, Slot | None]:
    """Answer one operation; the slot is the one to write, if any."""
    if entry.slot is not None:
        return _answer_taken(operation, entry.bytes, entry.slot, now=now, until=until)
    if operation.kind != "put":
        return Granted(entry.bytes), Slot(operation.id, operation.kind, None, 0, until)
    if operation.immutable and entry.bytes == operation.size_bytes:
        return Have(), None
    if (reason := refusal(compared)) is not None:
        return Refused(reason, compared), None
    held_bytes = max(compared.growth_bytes, 0)
    return Granted(entry.bytes), Slot(operation.id, "put", operation.size_bytes, held_bytes, until)


def _answer_taken(
    operation: Operation, counted_bytes: int | None, taken: Slot, *, now: datetime, until: datetime
) -> tuple[Begun, Slot | None]:
    """Answer an operation whose key has a slot already; what is held for it stays held."""
    own = taken.id == operation.id
    if own and operation.kind in (taken.kind, "verify"):
        return Granted(counted_bytes), replace(taken, kind=operation.kind, until=until)
    if own or taken.until <= now:
        return Overdue(counted_bytes, taken.held_bytes), replace(taken, id=operation.id, kind="verify", until=until)
    if operation.immutable and taken.kind == operation.kind == "put" and taken.size_bytes == operation.size_bytes:
        # Whichever of the two comes last, the same bytes lie there. The other one's commit fails, and it looks.
        return Granted(counted_bytes), replace(taken, id=operation.id, until=until)
    return Busy(taken.until), None
