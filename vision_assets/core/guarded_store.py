"""The steps of an operation on an object: take its slot, act on S3, book what is there. Puts and deletes go by here.

Whatever happens in between, the books do not guess: a slot that stays is taken over after its time, and S3 is asked.
What is not here: what is admitted (`object_ledger.py`, `quota.py`), and reading objects, which needs no slot.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import structlog

from vision_assets.core.errors import (
    DatabaseUnavailable,
    KeyMisplaced,
    QuotaExceeded,
    StorageBusy,
    StorageUnavailable,
    TenantUnknown,
    TransientError,
)
from vision_assets.core.object_ledger import (
    Busy,
    Committed,
    Granted,
    Have,
    Operation,
    OperationKind,
    Overdue,
    Refused,
    StorageLedger,
    Taken,
)
from vision_assets.core.quota import Figures, QuotaVerdict, StorageLimits, TenantUsage, figures, refusal
from vision_assets.core.storage import PREFIXES, ContentType, ObjectStore, is_placed
from vision_assets.core.tenants import TenantId
from vision_assets.core.verification import EXAMPLES, Verification, look

log = structlog.get_logger(__name__)

SLOT_LIFE = timedelta(seconds=300)
SENDING_SHARE = 0.5
"""Of a slot's life that must be left when S3 is asked to change something: more than the 130 seconds that the client
tries at most, so that whoever has lost a slot does not write any more. The slot's time runs while it is waited for."""

UNCHECKED_LIMIT_BYTES = 256 * 2**20
USAGE_CACHED = timedelta(minutes=15)
SWEEP_PAGE = 500

TypedKey = tuple[str, ContentType]
"""A key, and what its object counts as."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What became of the objects that were to be deleted.

    Attributes:
        freed_bytes: That were in the books.
        busy: Keys that another operation has; their objects were left alone.
    """

    deleted: tuple[str, ...] = ()
    freed_bytes: int = 0
    busy: tuple[str, ...] = ()


@dataclass(slots=True)
class Unbooked:
    """What one process did while the ledger could not be reached, until it is booked.

    Attributes:
        unchecked_bytes: Of puts made without a check.
        failed_checks: Of puts that went on and of questions alone; not counted in the ledger yet.
        operations: To be looked after, with the bytes that count here.
    """

    unchecked_bytes: int = 0
    failed_checks: Counter[TenantId] = field(default_factory=Counter)
    operations: list[tuple[Operation, int]] = field(default_factory=list)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class QuotaGuardedStore:
    """The only way to put and delete objects: within the quota, and booked.

    What is asked for on a key outside the tenant's folder of that type fails for good, with `KeyMisplaced`.

    Attributes:
        unbooked: Shared by all guards of a process.
        unchecked_limit_bytes: Of puts that a process makes without a check while the ledger cannot be reached.
        clock: Aware UTC.
        slot_life: How long an operation may take before others look after it.
        patience_seconds: How long to wait for another operation on the same key.
        heads: Objects looked at at once.
    """

    store: ObjectStore
    ledger: StorageLedger
    limits: StorageLimits
    unbooked: Unbooked = field(default_factory=Unbooked)
    unchecked_limit_bytes: int = UNCHECKED_LIMIT_BYTES
    clock: Callable[[], datetime] = _now
    slot_life: timedelta = SLOT_LIFE
    patience_seconds: float = 5
    heads: int = 16
    _cached: dict[TenantId, tuple[datetime, TenantUsage]] = field(default_factory=dict)

    async def put(
        self,
        tenant_id: TenantId,
        key: str,
        body: bytes,
        *,
        content_type: ContentType,
        mime: str,
        encoding: str | None = None,
        immutable: bool = False,
    ) -> bool:
        """Put an object within the tenant's quota.

        A quota that is exceeded blocks. When the ledger cannot be reached, the upload goes on, up to a number of bytes
        a process, and is booked later. A put that is broken off keeps its slot, and is looked after when that expires.

        Args:
            immutable: The key names the content, so an object that is counted with this size is there already.

        Returns:
            Whether anything was sent.

        Raises:
            QuotaExceeded: Nothing was put.
            StorageBusy: Transient; another operation has the key, or the slot came too late. Nothing was put.
            StorageUnavailable: Transient; a repeated put of the same key is safe.
            DatabaseUnavailable: Transient; too much was put without a check already. Nothing was put.
            DatabaseConflict: Transient; nothing was put.
        """
        operation = _operation("put", tenant_id, key, content_type, size_bytes=len(body), immutable=immutable)
        try:
            begun = await self._begin_put(operation)
        except DatabaseUnavailable as error:
            self._let_through(operation, error)
            try:
                await self.store.put(key, body, mime=mime, encoding=encoding)
            finally:
                # Not before: whoever looks then must see what became of it.
                self.unbooked.operations.append((operation, operation.size_bytes))
            return True
        if begun is None:
            return False
        granted, until = begun
        try:
            self._check_time_left([operation], until)
            await self.store.put(key, body, mime=mime, encoding=encoding)
        except (StorageBusy, StorageUnavailable):
            await self._look_after([(operation, granted)])
            raise
        await self._book([Committed(operation, len(body))])
        return True

    async def delete(self, tenant_id: TenantId, objects: Sequence[TypedKey]) -> Deletion:
        """Delete objects of one tenant, and count them down.

        Raises:
            StorageBusy: Transient; the slots came too late. Nothing was deleted.
            StorageUnavailable: Transient; any of them may or may not be there, and the books say what is known.
            DatabaseUnavailable, DatabaseConflict: Transient; nothing was deleted.
        """
        until = self.clock() + self.slot_life  # at the earliest
        taken, busy = await self._begin(_operations("delete", tenant_id, objects))
        return replace(await self.delete_begun(taken, until=until), busy=busy)

    async def delete_begun(self, taken: Sequence[Taken], *, until: datetime) -> Deletion:
        """Delete objects of one tenant whose slots were taken in a transaction that did more than that.

        Args:
            until: Their end.

        Raises:
            StorageBusy: Transient; the slots came too late. Nothing was deleted.
            StorageUnavailable: Transient; any of them may or may not be there, and the books say what is known.
        """
        if not taken:
            return Deletion()
        operations = [operation for operation, _ in taken]
        keys = tuple(operation.key for operation in operations)
        try:
            self._check_time_left(operations, until)
            await self.store.delete(keys)
        except (StorageBusy, StorageUnavailable):
            await self._look_after(taken)
            raise
        await self._book([Committed(operation, None) for operation in operations])
        return Deletion(keys, sum(begun.counted_bytes or 0 for _, begun in taken))

    async def verify(self, tenant_id: TenantId, objects: Sequence[TypedKey]) -> Verification:
        """Look into S3 and book what lies there, whatever the books said; limits do not matter.

        Raises:
            DatabaseUnavailable, DatabaseConflict: Transient; slots that were taken stay until they are overdue.
        """
        taken, busy = await self._begin(_operations("verify", tenant_id, objects))
        looked = await self._look(taken)
        return replace(looked, busy=(*busy, *looked.busy))

    async def sweep(self, tenant_id: TenantId) -> Verification:
        """Look after a tenant's operations that never came back, page by page until S3 does not tell of some.

        Raises:
            DatabaseUnavailable, DatabaseConflict: Transient.
        """
        swept = Verification()
        while True:
            now = self.clock()
            page = await self.ledger.overdue(tenant_id, now=now, until=now + self.slot_life, limit=SWEEP_PAGE)
            if not page:
                return swept
            looked = await self._look(page)
            swept = Verification(swept.verified + looked.verified, swept.busy + looked.busy, looked.failed)
            if looked.failed:
                return swept

    async def check_quota_before_upload(
        self, tenant_id: TenantId, size_bytes: int, content_type: ContentType
    ) -> QuotaVerdict:
        """Ask whether a new object of this size may be put at this moment. `put` asks by itself; nothing is held here.

        A check that fails allows. Refusals and failed checks are counted, as those of puts are.

        Raises:
            DatabaseConflict: Transient.
            TenantUnknown: There is no such tenant.
        """
        try:
            usage = await self.ledger.usage(tenant_id)
        except DatabaseUnavailable as error:
            self.unbooked.failed_checks[tenant_id] += 1
            log.warning("quota.check_failed", size_bytes=size_bytes, error=str(error), outcome="allowed", exc_info=True)
            return QuotaVerdict(allowed=True)
        compared = figures(tenant_id, content_type, size_bytes, usage=usage, limits=self.limits)
        reason = refusal(compared)
        if reason is not None:
            _log_blocked(reason, compared)
            try:
                await self.ledger.count_refused(tenant_id, reason)
            except TransientError as error:
                log.warning("quota.refusal_not_counted", reason=reason, error=str(error))
        return QuotaVerdict(allowed=reason is None, reason=reason, figures=compared)

    async def update_tenant_usage(
        self, tenant_id: TenantId, key: str, content_type: ContentType, size_bytes: int | None
    ) -> bool:
        """Book an object that somebody has put or deleted without this guard; to say the same again changes nothing.

        Args:
            size_bytes: None: it was deleted.

        Returns:
            False when another operation has the object: it is looked at later.

        Raises:
            StorageUnavailable: Transient; S3 had to be asked and did not answer.
            DatabaseUnavailable, DatabaseConflict: Transient; nothing was booked.
        """
        operations = _operations("verify", tenant_id, [(key, content_type)])
        taken, _ = await self._begin(operations)
        for operation, begun in taken:
            if isinstance(begun, Overdue):  # somebody else may have put something too
                if (await self._look(taken)).failed:
                    raise StorageUnavailable(f"S3 did not tell of {key}, which somebody else was writing")
            else:
                await self._book([Committed(operation, size_bytes)])
            return True
        self.unbooked.operations += [(operation, 0) for operation in operations]
        return False

    async def current_usage(self, tenant_id: TenantId) -> TenantUsage:
        """Tell what a tenant has stored at this moment.

        Raises:
            DatabaseUnavailable, DatabaseConflict: Transient.
            TenantUnknown: There is no such tenant.
        """
        return await self.ledger.usage(tenant_id)

    async def get_tenant_usage(self, tenant_id: TenantId) -> TenantUsage:
        """Tell what a tenant has stored, at most 15 minutes old: for readers that ask often. No check relies on it.

        Raises:
            DatabaseUnavailable, DatabaseConflict: Transient.
            TenantUnknown: There is no such tenant.
        """
        now = self.clock()
        if (known := self._cached.get(tenant_id)) and timedelta(0) <= now - known[0] < USAGE_CACHED:
            return known[1]
        usage = await self.ledger.usage(tenant_id)
        self._cached[tenant_id] = now, usage
        return usage

    async def catch_up(self) -> None:
        """Book what was done while the ledger could not be reached. What still fails stays for the next time."""
        unbooked = self.unbooked
        waiting, unbooked.operations = unbooked.operations, []
        failed_checks, unbooked.failed_checks = unbooked.failed_checks, Counter()
        done: set[str] = set()
        try:
            if failed_checks:
                await self.ledger.count_unchecked(failed_checks)
                failed_checks = Counter()
            for tenant_id in {operation.tenant_id for operation, _ in waiting}:
                done |= await self._looked_at(
                    tenant_id, [operation for operation, _ in waiting if operation.tenant_id == tenant_id]
                )
        except TransientError as error:
            log.warning("quota.catch_up_failed", waiting=len(waiting), error=str(error), exc_info=True)
        finally:
            unbooked.failed_checks.update(failed_checks)
            unbooked.operations += [one for one in waiting if one[0].key not in done]
            unbooked.unchecked_bytes -= sum(size for operation, size in waiting if operation.key in done)

    async def _looked_at(self, tenant_id: TenantId, operations: Sequence[Operation]) -> set[str]:
        """Book what became of operations whose slots may be lost; tell the keys that are done with."""
        try:
            taken, _ = await self._ask([replace(operation, kind="verify") for operation in operations])
        except TenantUnknown:
            log.warning("quota.tenant_gone", tenant_id=str(tenant_id), operations=len(operations))
            return {operation.key for operation in operations}
        return {one.key for one in (await self._look(taken)).verified}

    async def _ask(self, operations: Sequence[Operation]) -> tuple[list[Taken], tuple[str, ...]]:
        """Take the slots of operations that need no room; tell the keys that others have."""
        now = self.clock()
        answers = await self.ledger.begin(operations, limits=self.limits, now=now, until=now + self.slot_life)
        taken: list[Taken] = []
        busy: list[str] = []
        for operation, answer in zip(operations, answers, strict=True):
            if isinstance(answer, Granted | Overdue):
                taken.append((operation, answer))
            else:
                busy.append(operation.key)
        return taken, tuple(busy)

    async def _begin(self, operations: Sequence[Operation]) -> tuple[list[Taken], tuple[str, ...]]:
        begun = await self._ask(operations)
        await self._catch_up_if_behind()
        return begun

    async def _begin_put(self, operation: Operation) -> tuple[Granted, datetime] | None:
        """Take a put's slot: look after an operation that never came back, and wait for one that is under way.

        Returns:
            The slot and its end; None when there is nothing to put.
        """
        waits = _waits(self.patience_seconds)
        while True:
            now = self.clock()
            until = now + self.slot_life
            [begun] = await self.ledger.begin([operation], limits=self.limits, now=now, until=until)
            await self._catch_up_if_behind()
            match begun:
                case Granted():
                    return begun, until
                case Have():
                    return None
                case Refused(reason, compared):
                    _log_blocked(reason, compared, key=operation.key)
                    raise QuotaExceeded(reason, _refused(operation.key, reason, compared))
                case Overdue():
                    if (await self._look([(operation, begun)])).failed:
                        raise StorageUnavailable(f"S3 did not tell of {operation.key}, which somebody was writing")
                case Busy(busy_until):
                    if (wait_seconds := next(waits, None)) is None:
                        raise StorageBusy(operation.key, busy_until)
                    await asyncio.sleep(wait_seconds)

    async def _catch_up_if_behind(self) -> None:
        """Catch up right after the ledger has answered."""
        if self.unbooked.operations or self.unbooked.failed_checks:
            await self.catch_up()

    def _let_through(self, operation: Operation, error: DatabaseUnavailable) -> None:
        """Let a put go on without a check, or not when it would be too much."""
        unbooked = self.unbooked
        if unbooked.unchecked_bytes + operation.size_bytes > self.unchecked_limit_bytes:
            raise error
        unbooked.unchecked_bytes += operation.size_bytes
        unbooked.failed_checks[operation.tenant_id] += 1
        log.warning(
            "quota.check_failed",
            key=operation.key,
            size_bytes=operation.size_bytes,
            unchecked_bytes=unbooked.unchecked_bytes,
            limit_bytes=self.unchecked_limit_bytes,
            error_type=type(error).__name__,
            outcome="upload goes on",
            exc_info=error,
        )

    def _check_time_left(self, operations: Sequence[Operation], until: datetime) -> None:
        """Make sure that S3 is through with a request before others may have the slots.

        Raises:
            StorageBusy: Too much of the slots' time went by in waiting for them.
        """
        if until - self.clock() < SENDING_SHARE * self.slot_life:
            raise StorageBusy(operations[0].key, until)

    async def _look(self, taken: Sequence[Taken]) -> Verification:
        return await look(taken, store=self.store, ledger=self.ledger, heads=self.heads)

    async def _look_after(self, taken: Sequence[Taken]) -> None:
        """Book what is there after a change that failed, if S3 tells it now; else the slots stay until they expire."""
        try:
            await self._look(taken)
        except TransientError as error:
            keys = [operation.key for operation, _ in taken][:EXAMPLES]
            log.warning("quota.look_failed", keys=keys, error=str(error))

    async def _book(self, outcomes: Sequence[Committed]) -> None:
        """Book what this process has done; what cannot be booked now is looked after later."""
        lost = [one.operation for one in outcomes]
        try:
            lost = [
                one.operation
                for one, booked in zip(outcomes, await self.ledger.commit(outcomes), strict=True)
                if not booked
            ]
            waits = _waits(self.patience_seconds)
            while lost:
                # Somebody took the slot over, and may have looked before this operation was done.
                done = await self._looked_at(lost[0].tenant_id, lost)
                lost = [operation for operation in lost if operation.key not in done]
                if not lost or (wait_seconds := next(waits, None)) is None:
                    break
                await asyncio.sleep(wait_seconds)
        except TransientError as error:
            log.warning("quota.not_booked", keys=[operation.key for operation in lost][:EXAMPLES], error=str(error))
        finally:
            self.unbooked.operations += [(operation, 0) for operation in lost]


def _operation(
    kind: OperationKind,
    tenant_id: TenantId,
    key: str,
    content_type: ContentType,
    *,
    size_bytes: int = 0,
    immutable: bool = False,
) -> Operation:
    """Make an operation on an object of the tenant.

    Raises:
        KeyMisplaced: It would touch, or be booked as, what it is not.
    """
    if not is_placed(tenant_id, key, content_type):
        folders = " or ".join(f"{folder}/{tenant_id}/" for folder, name in PREFIXES.items() if name == content_type)
        raise KeyMisplaced(
            f"{key} is no key of this tenant's {content_type}: that lies below {folders}. Nothing was changed. Ask "
            "with the object's own tenant and type, or name it so."
        )
    return Operation(uuid4(), tenant_id, key, content_type, kind, size_bytes, immutable)


def _operations(kind: OperationKind, tenant_id: TenantId, objects: Sequence[TypedKey]) -> list[Operation]:
    return [_operation(kind, tenant_id, key, content_type) for key, content_type in objects]


def _waits(patience_seconds: float) -> Iterator[float]:
    """Give the pauses between looks, which grow, until the patience is used up."""
    wait_seconds = 0.05
    while patience_seconds > 0:
        yield min(wait_seconds, patience_seconds)
        patience_seconds -= wait_seconds
        wait_seconds = min(2 * wait_seconds, 1.0)


def _log_blocked(reason: str, compared: Figures, *, key: str | None = None) -> None:
    log.warning(
        "quota.blocked",
        reason=reason,
        key=key,
        content_type=compared.content_type,
        growth_bytes=compared.growth_bytes,
        bucket_bytes=compared.bucket.taken_bytes,
        tenant_bytes=compared.tenant.taken_bytes,
        type_bytes=compared.type.taken_bytes,
        own_type_bytes=compared.own_type.taken_bytes,
    )


def _refused(key: str, reason: str, compared: Figures) -> str:
    """Say why a put is refused, with the figures."""
    own = compared.own_type
    own_text = "" if own.limit_bytes is None else f" (of its own {own.taken_bytes} of {own.limit_bytes})"
    return (
        f"{key} needs {compared.growth_bytes} more bytes and would break the storage limit ({reason}): the tenant uses "
        f"{compared.tenant.taken_bytes} of {compared.tenant.limit_bytes} bytes, {compared.content_type} "
        f"{compared.type.taken_bytes} of {compared.type.limit_bytes}{own_text}, the bucket "
        f"{compared.bucket.taken_bytes} of {compared.bucket.limit_bytes}. "
        "Raise the limit or delete objects; the next run tries again."
    )
