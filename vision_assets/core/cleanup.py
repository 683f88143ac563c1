"""The clean-up of storage: what goes, in which order, and when it is enough.

Two occasions, one code: every day what is older than its time to live, and in an emergency as much as it takes to come
down to the target. The order is crawled pages, results and albums' summaries, pictures that no post refers to, least
recently used first, and last multipart uploads that nobody completed. A picture that a post refers to never goes.
What is not here: carrying it out (`cleanup_pass.py`), the SQL (`clients/postgres/cleanup.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from vision_assets.core.errors import ConfigurationError
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import TenantId

Class = Literal["crawl", "vision", "media", "multipart"]
"""What is shown and counted by."""

Occasion = Literal["emergency", "ttl"]

UNSETTLED = timedelta(hours=24)
"""Whatever was put or used since may belong to work under way whose rows are not written yet. It is left alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a clean-up may remove.

    Attributes:
        crawl_age: Since a page was put.
        vision_age: Since a result or an album's summary was put.
        media_age: Since a picture that no post refers to was last used.
        threshold_bytes: An emergency begins when as much is stored or reserved; None: it is the daily clean-up.
        target_bytes: An emergency ends as soon as no more is stored or reserved.
    """

    crawl_age: timedelta
    vision_age: timedelta
    media_age: timedelta
    threshold_bytes: int | None = None
    target_bytes: int = 0

    @property
    def occasion(self) -> Occasion:
        """As counted."""
        return "ttl" if self.threshold_bytes is None else "emergency"

    def steps(self, now: datetime) -> "tuple[Step, ...]":
        """Lay the classes of objects out in their order.

        Args:
            now: Aware UTC; the ages are counted back from it.
        """
        settled = now - UNSETTLED
        ages: dict[ContentType, timedelta] = {
            "crawl": self.crawl_age,
            "vision": self.vision_age,
            "media": self.media_age,
        }
        return tuple(
            Step(name, before=min(now - age, settled), settled_before=settled, vision_before=now - self.vision_age)
            for name, age in ages.items()
        )


def emergency_plan(*, threshold_bytes: int, target_bytes: int) -> Plan:
    """Plan for the case that the bucket runs full; the ages are a contract with its operators.

    Raises:
        ConfigurationError: The target is above the threshold.
    """
    if target_bytes > threshold_bytes:
        raise ConfigurationError(
            f"STORAGE_EMERGENCY_TARGET_BYTES ({target_bytes}) is above STORAGE_EMERGENCY_BYTES ({threshold_bytes}): "
            "the clean-up would end before it began. Set a lower target."
        )
    return Plan(
        crawl_age=timedelta(days=3),
        vision_age=timedelta(days=7),
        media_age=UNSETTLED,
        threshold_bytes=threshold_bytes,
        target_bytes=target_bytes,
    )


def ttl_plan(*, crawl_days: int, vision_days: int, media_days: int) -> Plan:
    """Plan for every day: what has outlived its time."""
    return Plan(
        crawl_age=timedelta(days=crawl_days),
        vision_age=timedelta(days=vision_days),
        media_age=timedelta(days=media_days),
    )


def is_emergency(taken_bytes: int, plan: Plan) -> bool:
    """Decide whether an emergency clean-up begins."""
    return plan.threshold_bytes is not None and taken_bytes >= plan.threshold_bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One class of objects, and which of them are old enough.

    Attributes:
        before: When they were put, or, of pictures, last used.
        settled_before: Nothing that was put later goes, whatever it is.
        vision_before: Results put before have had a step of their own; younger ones go with their picture.
    """

    content_type: ContentType
    before: datetime
    settled_before: datetime
    vision_before: datetime


Cursor = tuple[datetime, TenantId, str]
"""Where a page ended: age, tenant and key of its last candidate. A picture's results stand at the picture's place."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that may go.

    Attributes:
        content_type: `vision` also for results that go with their picture; they come just before it.
        place: In the order of the step.
    """

    tenant_id: TenantId
    key: str
    content_type: ContentType
    bytes: int
    place: Cursor


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted.

    Attributes:
        bytes: Of the parts that were sent.
    """

    key: str
    id: str
    initiated_at: datetime
    bytes: int


def chosen(candidates: Sequence[Candidate], *, needed_bytes: int | None) -> Sequence[Candidate]:
    """Take from the beginning no more than are needed: without the last one it would not be enough.

    Args:
        needed_bytes: None: all of them.
    """
    if needed_bytes is None:
        return candidates
    taken_bytes = 0
    for count, candidate in enumerate(candidates):
        if taken_bytes >= needed_bytes:
            return candidates[:count]
        taken_bytes += candidate.bytes
    return candidates


def owner(key: str) -> TenantId | None:
    """Tell whose an object is by its key; None when that is nobody's form of a key."""
    try:
        return TenantId(UUID(key.split("/")[1]))
    except (IndexError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Removed:
    """Objects, or uploads, and their bytes."""

    objects: int = 0
    bytes: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(self.objects + other.objects, self.bytes + other.bytes)


def summed(candidates: Iterable[Candidate]) -> dict[Class, Removed]:
    """Sum up candidates by class."""
    by_class: defaultdict[Class, Removed] = defaultdict(Removed)
    for candidate in candidates:
        by_class[candidate.content_type] += Removed(1, candidate.bytes)
    return dict(by_class)


@dataclass(frozen=True, slots=True)
class Count:
    """By how much a counter rises.

    Attributes:
        name: As the exporter shows it.
    """

    name: str
    labels: Mapping[str, str]
    amount: int


def counts(removed: Mapping[Class, Removed], *, occasion: Occasion, first: bool) -> list[Count]:
    """Tell the counters that what was removed of one tenant raises.

    Args:
        first: It is the first of this tenant in this clean-up: emergencies are counted once for each tenant that loses
            something by them.
    """
    raised: list[Count] = []
    for name, what in removed.items():
        labels = {"content_type": name, "occasion": occasion}
        raised.append(Count("storage_cleanup_freed_bytes_total", labels, what.bytes))
        raised.append(Count("storage_cleanup_objects_total", labels, what.objects))
        if name == "media":
            raised.append(Count("storage_lru_evictions_total", {}, what.objects))
    if first and occasion == "emergency":
        raised.append(Count("storage_emergency_cleanups_total", {}, 1))
    return raised


@dataclass(frozen=True, slots=True)
class ClassTotal:
    """What was removed of one class, or would be."""

    name: Class
    tenants: int
    objects: int
    bytes: int


@dataclass(slots=True)
class CleanupReport:
    """What a clean-up removed, or would remove.

    Attributes:
        taken_before_bytes: Stored and reserved when it began.
        taken_after_bytes: The same at its end; of a dry run, as it would be.
        needed: False: there was no emergency, and nothing was looked for.
        removed: By class and tenant; an upload that is no tenant's stands under None.
        left: Candidates that were not removed after all: something refers to them now, uses or writes them.
        failures: Of tenants and batches; their objects stay to do.
    """

    plan: Plan
    dry_run: bool
    taken_before_bytes: int = 0
    taken_after_bytes: int = 0
    needed: bool = True
    removed: dict[tuple[Class, TenantId | None], Removed] = field(default_factory=lambda: defaultdict(Removed))
    left: Counter[Class] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        """Whether an emergency came down to its target; without one there is nothing to reach."""
        emergency = self.plan.threshold_bytes is not None and self.needed
        return not emergency or self.taken_after_bytes <= self.plan.target_bytes

    def totals(self) -> list[ClassTotal]:
        """Sum up by class, in the order of the clean-up; every class is there."""
        names: tuple[Class, ...] = ("crawl", "vision", "media", "multipart")
        return [_total(name, [(who, what) for (of, who), what in self.removed.items() if of == name]) for name in names]


def _total(name: Class, parts: Sequence[tuple[TenantId | None, Removed]]) -> ClassTotal:
    total = sum((what for _, what in parts), Removed())
    return ClassTotal(name, len({who for who, _ in parts if who is not None}), total.objects, total.bytes)
