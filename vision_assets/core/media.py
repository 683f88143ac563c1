"""The one pass over a picture's bytes: read, hashed, sniffed, decoded, perceptually hashed, stored.

Work is a question to the ledger ("references without an object, objects without a hash"), so a pass may be repeated or
broken off anywhere. What is not here: how pictures are decoded (`pictures.py`) and looked at (`analysis.py`).
"""

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import UUID

import structlog
from PIL import Image

from vision_assets.core.errors import InputRejected, MediaMissing, QuotaExceeded
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.measured import measured
from vision_assets.core.measurement import LEAST_EDGE
from vision_assets.core.phash import ALGORITHM, PerceptualHash, hash_of_luma, perceptual_hash
from vision_assets.core.pictures import PictureHeader, decode_upright, jpeg_luma, probe
from vision_assets.core.reports import added
from vision_assets.core.storage import ObjectStore, media_key
from vision_assets.core.tenants import TenantId
from vision_assets.core.turns import NO_POST
from vision_assets.core.vision import Measured

log = structlog.get_logger(__name__)

MAX_IMAGE_BYTES = 15 * 2**20
PAGE_SIZE = 200

HASH_FULL_SIZE_PIXELS = 4_000_000
"""Larger JPEGs are hashed and measured from a bitmap scaled while decoding; up to here every pixel counts."""

HASH_LEAST_EDGE = 1024
"""Pixels: what is left of the shorter edge of a larger JPEG for its hash."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture that a post refers to."""

    post_id: UUID
    position: int
    post_seq: int
    source_uri: str


@dataclass(frozen=True, slots=True)
class MediaObject:
    """A picture as it lies in S3.

    Attributes:
        measured: None where it is not at hand.
    """

    sha256: str
    mime: str
    bytes: int
    width: int
    height: int
    frames: int
    s3_key: str
    measured: Measured | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one reference: stored, or another state with its reason."""

    reference: Reference
    state: str
    object: MediaObject | None = None
    hash: PerceptualHash | None = None
    reason: str | None = None
    error: str | None = None
    error_class: str | None = None


@dataclass(slots=True)
class MediaReport:
    """What a pass did.

    Attributes:
        states: References by what became of them.
        reasons: References that were not stored, by reason.
        failures: Transient faults; the references stay to do.
        since: Seq of the first post with one of them.
        has_more: The pass ended at its limit.
    """

    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    puts: int = 0
    put_bytes: int = 0
    failures: list[str] = field(default_factory=list)
    since: int = NO_POST
    has_more: bool = False

    def __add__(self, later: "MediaReport") -> "MediaReport":
        """Tell of two passes as of one."""
        return added(self, later, since=min(self.since, later.since), has_more=later.has_more)


@dataclass(slots=True)
class HashReport:
    """What a pass over stored pictures did."""

    hashed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class MediaSource(Protocol):
    """Where the bytes of a reference come from."""

    async def read(self, source_uri: str, *, limit_bytes: int) -> bytes:
        """Read a whole file.

        Raises:
            MediaMissing: There is no such file now, or nothing that may be read (`symbolic_link`, `unreadable`).
            InputRejected: It is too large (`too_many_bytes`), or no reference to a file.
        """
        ...


class MediaLedger(Protocol):
    """The registry of references, objects and hashes."""

    async def count_unfinished(self, tenant_id: TenantId) -> int:
        """Count the references that are to do, for the progress."""
        ...

    async def unfinished(
        self, tenant_id: TenantId, *, after: tuple[int, int] | None, limit: int, again: bool
    ) -> Sequence[Reference]:
        """List references that are to do, in the order of the posts, after (post_seq, position).

        Args:
            again: With those that were looked for in vain, or blocked, before.
        """
        ...

    async def find_object(self, tenant_id: TenantId, sha256: str) -> MediaObject | None:
        """Find a stored picture of this tenant."""
        ...

    async def record(self, tenant_id: TenantId, outcomes: Sequence[Outcome]) -> None:
        """Write what became of references, with their objects, hashes and dead letters, in one transaction."""
        ...

    async def unhashed(
        self, tenant_id: TenantId, *, algorithm: str, after: str | None, limit: int
    ) -> Sequence[MediaObject]:
        """List stored pictures that have no hash of this algorithm, by sha256."""
        ...

    async def record_hashes(self, tenant_id: TenantId, hashes: Sequence[tuple[str, PerceptualHash]]) -> None:
        """Write hashes of stored pictures."""
        ...

    async def record_object_lost(self, tenant_id: TenantId, sha256: str, error: MediaMissing, *, stage: str) -> None:
        """Forget a picture whose object is gone from S3, so that its references are to do again."""
        ...

    async def record_dead_letter(
        self, tenant_id: TenantId, *, stage: str, item: str, error_class: str, reason: str, message: str
    ) -> None:
        """Keep what could not be done, once an item."""
        ...


def examine(content: bytes) -> tuple[PictureHeader, PerceptualHash, Measured]:
    """Sniff, decode, perceptually hash and measure a picture.

    Raises:
        InputRejected: It is not a picture that can be used; the reason says why.
    """
    header = probe(content)
    image = _bitmap(content, header)
    return header, _hashed(content, header, image), measured(image, size=(header.width, header.height))


def examine_hash(content: bytes) -> PerceptualHash:
    """Do no more of `examine` than the hash needs; it is the same hash.

    Raises:
        InputRejected: As from `examine`; of a JPEG whose brightness is decoded, its colours may still be at fault.
    """
    return _hashed(content, probe(content), None)


def _hashed(content: bytes, header: PictureHeader, image: Image.Image | None) -> PerceptualHash:
    """Hash a picture: a JPEG by the brightness that it holds, any other, and what is damaged, by its bitmap."""
    flags = ("animated",) if header.frames > 1 else ()
    if header.format == "jpeg":
        luma = jpeg_luma(content, least_edge=HASH_LEAST_EDGE if _is_large(header) else None)
        if luma.pixels is not None:
            return hash_of_luma(luma.pixels, flags=flags)
        if luma.is_damaged:
            flags = (*flags, "damaged")
    return perceptual_hash(image or _bitmap(content, header), flags=flags)


def _bitmap(content: bytes, header: PictureHeader) -> Image.Image:
    scaled = header.format == "jpeg" and _is_large(header)
    return decode_upright(content, max_edge=LEAST_EDGE if scaled else None)


def _is_large(header: PictureHeader) -> bool:
    return header.width * header.height > HASH_FULL_SIZE_PIXELS


@dataclass(frozen=True, slots=True)
class MediaSlots:
    """How many pictures are worked on at once by all passes that share them. They belong to one event loop.

    Attributes:
        reading: Files read and uploaded.
        decoding: Pictures decoded; each holds a bitmap.
    """

    reading: asyncio.Semaphore
    decoding: asyncio.Semaphore

    @classmethod
    def of(cls, *, concurrency: int = 8, decode_threads: int = 2) -> "MediaSlots":
        """Make so many."""
        return cls(asyncio.Semaphore(concurrency), asyncio.Semaphore(decode_threads))


@dataclass(slots=True)
class MediaPass:
    """One pass over a tenant's pictures.

    Attributes:
        slots: Shared with the passes of other tenants.
        limit: References at most. A pass with a limit leaves alone what was missing or blocked before, lest it never
            comes to what is new. None: everything.
        on_progress: Called with the number of references done since the last call.
    """

    tenant_id: TenantId
    source: MediaSource
    store: ObjectStore
    quota: QuotaGuardedStore
    ledger: MediaLedger
    slots: MediaSlots
    limit: int | None = None
    on_progress: Callable[[int], None] = lambda _: None
    _same_bytes: defaultdict[str, asyncio.Lock] = field(init=False, default_factory=lambda: defaultdict(asyncio.Lock))

    async def store_media(self) -> MediaReport:
        """Store every picture that is to do, once a tenant, and hash it while its bytes are in memory.

        A bad picture becomes a dead letter; a transient fault leaves its reference to do and is reported. When a whole
        page fails, something is down for all of them, and the pass ends.
        """
        report = MediaReport()
        after: tuple[int, int] | None = None
        taken = 0
        is_full = True
        while is_full:
            wanted = PAGE_SIZE if self.limit is None else min(PAGE_SIZE, self.limit - taken)
            page = await self.ledger.unfinished(self.tenant_id, after=after, limit=wanted, again=self.limit is None)
            if not page:
                break
            is_full = len(page) == wanted
            report.since = min(report.since, page[0].post_seq)
            after = (page[-1].post_seq, page[-1].position)
            taken += len(page)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._store_one(reference, report)) for reference in page]
            outcomes = [outcome for task in tasks if (outcome := task.result())]
            if not outcomes:
                break
            await self.ledger.record(self.tenant_id, outcomes)
            self._same_bytes.clear()
            if taken == self.limit:
                report.has_more = True
                break
        return report

    async def _store_one(self, reference: Reference, report: MediaReport) -> Outcome | None:
        with structlog.contextvars.bound_contextvars(source_uri=reference.source_uri):
            async with self.slots.reading:
                try:
                    outcome = await self._stored(reference, report)
                except (InputRejected, QuotaExceeded) as error:
                    outcome = _not_stored(reference, error)
                    log.warning("media.not_stored", state=outcome.state, reason=error.reason, error=str(error))
                    report.reasons[error.reason] += 1
                except Exception as error:
                    # One item never stops a batch: it stays to do, and the step fails in the end.
                    log.exception("media.failed", error_type=type(error).__name__)
                    report.failures.append(f"{reference.source_uri}: {type(error).__name__}: {error}")
                    return None
                finally:
                    self.on_progress(1)
            report.states[outcome.state] += 1
            return outcome

    async def _stored(self, reference: Reference, report: MediaReport) -> Outcome:
        content = await self.source.read(reference.source_uri, limit_bytes=MAX_IMAGE_BYTES)
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        structlog.contextvars.bind_contextvars(sha256=sha256)  # until the end of this picture's task
        async with self.slots.decoding:
            try:
                header, hashed, found = await asyncio.to_thread(examine, content)
            except InputRejected as error:
                raise InputRejected(error.reason, f"{reference.source_uri}: {error}") from error
        # Two references of one page may bring the same bytes: the second one finds the object counted.
        async with self._same_bytes[sha256]:
            stored = await self.ledger.find_object(self.tenant_id, sha256)
            if stored is None:
                stored = MediaObject(
                    sha256=sha256,
                    mime=header.mime,
                    bytes=len(content),
                    width=header.width,
                    height=header.height,
                    frames=header.frames,
                    s3_key=media_key(self.tenant_id, sha256, extension=header.ext),
                )
                if await self.quota.put(
                    self.tenant_id, stored.s3_key, content, content_type="media", mime=stored.mime, immutable=True
                ):
                    report.puts += 1
                    report.put_bytes += stored.bytes
        log.debug("media.stored", s3_key=stored.s3_key)
        return Outcome(reference, "stored", object=replace(stored, measured=found), hash=hashed)

    async def hash_stored_media(self) -> HashReport:
        """Hash every stored picture that has no hash of the present algorithm, from the bytes in S3."""
        report = HashReport()
        after: str | None = None
        while page := await self.ledger.unhashed(self.tenant_id, algorithm=ALGORITHM, after=after, limit=PAGE_SIZE):
            after = page[-1].sha256
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._hash_one(stored, report)) for stored in page]
            hashes = [hashed for task in tasks if (hashed := task.result())]
            await self.ledger.record_hashes(self.tenant_id, hashes)
            report.hashed += len(hashes)
            if len(report.failures) == len(page):
                break
        return report

    async def _hash_one(self, stored: MediaObject, report: HashReport) -> tuple[str, PerceptualHash] | None:
        with structlog.contextvars.bound_contextvars(sha256=stored.sha256):
            async with self.slots.reading:
                try:
                    return await self._hashed(stored, report)
                except Exception as error:
                    log.exception("media.failed", error_type=type(error).__name__)
                    report.failures.append(f"{stored.sha256}: {type(error).__name__}: {error}")
        return None

    async def _hashed(self, stored: MediaObject, report: HashReport) -> tuple[str, PerceptualHash] | None:
        content = await self.store.get(stored.s3_key)
        if content is None:
            lost = MediaMissing.in_storage(stored.s3_key)
            log.warning("media.object_lost", error=str(lost))
            report.reasons["object_lost"] += 1
            await self.quota.verify(self.tenant_id, [(stored.s3_key, "media")])
            await self.ledger.record_object_lost(self.tenant_id, stored.sha256, lost, stage="phash_index")
            return None
        async with self.slots.decoding:
            try:
                hashed = await asyncio.to_thread(examine_hash, content)
            except InputRejected as error:
                log.warning("media.not_hashed", reason=error.reason, error=str(error))
                report.reasons[error.reason] += 1
                await self.ledger.record_dead_letter(
                    self.tenant_id,
                    stage="phash_index",
                    item=stored.sha256,
                    error_class=type(error).__name__,
                    reason=error.reason,
                    message=str(error),
                )
                return None
        return stored.sha256, hashed


def _not_stored(reference: Reference, error: InputRejected | QuotaExceeded) -> Outcome:
    """Tell the state for an error: what may pass is looked at again, `rejected` is final for these bytes."""
    state = "blocked" if isinstance(error, QuotaExceeded) else "rejected"
    if isinstance(error, MediaMissing):
        state = "missing"
    return Outcome(reference, state, reason=error.reason, error=str(error), error_class=type(error).__name__)
