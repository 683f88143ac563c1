"""What must come of operations on objects, told independently of the code: an oracle for the quota's state machine.

It follows the books by its own rules, and S3 by what really lies there. Places at which S3 was changed without a slot
are `astray`: only there may books and S3 differ. What is not here: the operations themselves (`quota_machine.py`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from vision_assets.core.storage import PREFIXES, ContentType
from vision_assets.core.tenants import TenantId

LIFE = timedelta(seconds=300)
UNCHECKED_LIMIT_BYTES = 600

Place = tuple[TenantId, str]


def type_of(place: Place) -> ContentType:
    """Tell what a place's object counts as."""
    return PREFIXES[place[1].split("/")[0]]


class Token:
    """Stands for an operation's id."""


@dataclass(slots=True)
class Flight:
    """An operation that has a place's slot."""

    token: Token
    kind: Literal["put", "delete", "verify"]
    size: int | None
    held: int
    until: datetime


@dataclass(slots=True)
class Process:
    """What a process has yet to book: operations with the bytes that they count for, and checks that failed."""

    waiting: list[tuple[Token, Place, int]] = field(default_factory=list)
    failed_checks: Counter[TenantId] = field(default_factory=Counter)

    @property
    def unchecked(self) -> int:
        """Bytes put without a check."""
        return sum(size for _, _, size in self.waiting)


@dataclass(slots=True)
class Oracle:
    """The books as they must be.

    Attributes:
        s3: What lies there: key → bytes.
        limits: Bytes by scope: `bucket`, `tenant`, or a content type.
        own: Of single tenants: by (tenant, `tenant` or a content type).
        heads_work: Whether S3 tells what is there.
    """

    s3: Mapping[str, int]
    now: datetime
    limits: dict[str, int]
    own: dict[tuple[TenantId, str], int] = field(default_factory=dict)
    heads_work: bool = True
    booked: dict[Place, int] = field(default_factory=dict)
    flights: dict[Place, Flight] = field(default_factory=dict)
    astray: set[Place] = field(default_factory=set)
    unchecked_puts: Counter[TenantId] = field(default_factory=Counter)

    def taken(self, tenant_id: TenantId | None = None, content_type: ContentType | None = None) -> int:
        """Bytes booked and held: in all, of a tenant, of a type, or both."""
        bytes_by_place = Counter(self.booked)
        for place, flight in self.flights.items():
            bytes_by_place[place] += flight.held
        return sum(
            size
            for place, size in bytes_by_place.items()
            if tenant_id in (None, place[0]) and content_type in (None, type_of(place))
        )

    def full(self, place: Place, growth: int) -> str | None:
        """Tell which limit growth would break."""
        if growth <= 0:
            return None
        tenant_id, content_type = place[0], type_of(place)
        tenant_limit = self.own.get((tenant_id, "tenant"), self.limits["tenant"])
        if self.taken() + growth > self.limits["bucket"]:
            return "bucket_full"
        if self.taken(tenant_id) + growth > tenant_limit:
            return "tenant_limit"
        own_type_limit = self.own.get((tenant_id, content_type))
        if self.taken(content_type=content_type) + growth > self.limits[content_type]:
            return "type_limit"
        if own_type_limit is not None and self.taken(tenant_id, content_type) + growth > own_type_limit:
            return "type_limit"
        return None

    def _may_take(self, place: Place, token: Token) -> bool:
        flight = self.flights.get(place)
        return flight is None or flight.token is token or flight.until <= self.now

    def _take(self, place: Place, token: Token, kind: Literal["delete", "verify"]) -> str:
        """Take a slot that needs no room; of one that is overdue a look remains."""
        if not self._may_take(place, token):
            return "busy"
        before = self.flights.get(place)
        if before is None:
            self.flights[place] = Flight(token, kind, None, 0, self.now + LIFE)
            return "granted"
        self.flights[place] = Flight(token, "verify", before.size, before.held, self.now + LIFE)
        return "granted" if before.token is token else "overdue"

    def answer(
        self,
        place: Place,
        token: Token,
        kind: Literal["put", "delete", "verify"],
        size: int = 0,
        *,
        fixed: bool = False,
    ) -> str:
        """Tell the ledger's answer to one operation, and take the slot.

        Args:
            fixed: The key names the content.
        """
        if kind != "put":
            return self._take(place, token, kind)
        flight = self.flights.get(place)
        if flight is not None and fixed and flight.kind == "put" and flight.size == size and flight.until > self.now:
            flight.token, flight.until = token, self.now + LIFE
            return "granted"
        if flight is not None:
            return self._take(place, token, "verify")
        if fixed and self.booked.get(place) == size:
            return "have"
        growth = size - self.booked.get(place, 0)
        if (reason := self.full(place, growth)) is not None:
            return reason
        self.flights[place] = Flight(token, "put", size, max(growth, 0), self.now + LIFE)
        return "granted"

    def begin_put(self, process: Process, token: Token, place: Place, size: int, *, fixed: bool) -> str:
        """Tell how a put's beginning ends: `granted`, `have`, `busy`, `storage` (S3 was asked in vain) or a limit."""
        while True:
            answer = self.answer(place, token, "put", size, fixed=fixed)
            self.catch_up(process)
            if answer != "overdue":
                return answer
            if not self.heads_work:
                return "storage"
            self.look(place)

    def look(self, place: Place) -> None:
        """Book what is there, and give the slot back; without S3 everything stays."""
        if not self.heads_work:
            return
        self.flights.pop(place, None)
        self._book(place, self.s3.get(place[1]))
        self.astray.discard(place)

    def _book(self, place: Place, size: int | None) -> None:
        if size is None:
            self.booked.pop(place, None)
        else:
            self.booked[place] = size

    def catch_up(self, process: Process) -> None:
        """Book what waits, where the slot can be had."""
        self.unchecked_puts += process.failed_checks
        process.failed_checks.clear()
        done: set[Place] = set()
        for token, place, _ in process.waiting:
            if place not in done and self._take(place, token, "verify") != "busy" and self.heads_work:
                self.look(place)
                done.add(place)
        process.waiting = [one for one in process.waiting if one[1] not in done]

    def written(self, place: Place, token: Token | None, *, grown: bool) -> None:
        """Note that S3 was changed: under the operation's slot, or without one, or without room for it."""
        flight = self.flights.get(place)
        if flight is not None and flight.token is token and not (grown and flight.kind == "verify"):
            self.astray.discard(place)
        else:
            self.astray.add(place)

    def commit(self, process: Process, token: Token, place: Place, size: int | None, *, fate: str = "ok") -> None:
        """Book what an operation did; one that has lost its slot has a look; what fails waits."""
        flight = self.flights.get(place)
        if fate in ("ok", "lost") and flight is not None and flight.token is token:
            del self.flights[place]
            self._book(place, size)
            if fate == "ok":
                return
        elif fate == "ok" and self._take(place, token, "verify") != "busy" and self.heads_work:
            self.look(place)
            return
        process.waiting.append((token, place, 0))

    def sweep(self, tenant_id: TenantId) -> None:
        """Look after what is overdue."""
        for place, flight in list(self.flights.items()):
            if place[0] == tenant_id and flight.until <= self.now:
                self._take(place, Token(), "verify")
                self.look(place)
