"""Search over a tenant's posts: what of a post is indexed, keeping the index in step, asking it, judging its answers.

What is not here: how text becomes vectors (`text.py`), Qdrant and the SQL (`clients/`).
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal, Protocol
from uuid import UUID

import structlog

from vision_assets.core import text
from vision_assets.core.errors import CollectionMissing, IndexUnavailable
from vision_assets.core.tenants import TenantId
from vision_assets.core.turns import NO_POST

log = structlog.get_logger(__name__)

NO_TEXT = "no_text"
SNIPPET_CHARACTERS = 500
# Trigrams always find something. A post that shares no word with the query is shown only if, on the mean over the
# query's words, its most similar word is alike to this degree: 0.5 takes one wrong letter in a word of six.
LEAST_SIMILARITY = 0.5
SMALL_INDEX_POSTS = 10


@dataclass(frozen=True, slots=True)
class IndexablePost:
    """A post with all that is indexed of it.

    Attributes:
        seq: Order in which the posts are paged through.
        channel: Username, or title where there is none.
        enrichment: `post_enrichment.data` of kind `vision`; empty as long as there is none.
        content_hash: Of text, enrichment, channel and encoder; another one means: index it again.
    """

    post_id: UUID
    seq: int
    channel: str
    posted_at: datetime
    text: str
    enrichment: Mapping[str, Any]
    content_hash: str


@dataclass(frozen=True, slots=True)
class Point:
    """A post as it lies in the index."""

    post_id: UUID
    bm25: text.SparseVector
    trigram: text.SparseVector
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the ledger keeps of a post: indexed (`reason` is None), or skipped for a reason."""

    post_id: UUID
    content_hash: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """How the tenant's posts stand, as the ledger sees them.

    Attributes:
        expected: All posts.
        indexed: Posts recorded as indexed in the collection.
        skipped: Reason → posts recorded as skipped.
        first_left: Seq of the first post that is not recorded in the collection.
    """

    expected: int
    indexed: int
    skipped: Mapping[str, int]
    first_left: int = NO_POST


@dataclass(frozen=True, slots=True)
class Found:
    """One answer of the index, not judged yet.

    Attributes:
        score: Of the fusion; comparable within one query only.
        stem_ids: Term ids of the post's bm25 vector.
    """

    post_id: UUID
    score: float
    stem_ids: frozenset[int]
    payload: Mapping[str, Any]


class IndexLedger(Protocol):
    """What was indexed, remembered beside the posts."""

    async def posts_to_index(
        self, tenant_id: TenantId, *, encoder_version: str, collection: str, after_seq: int, limit: int
    ) -> list[IndexablePost]:
        """Page through the posts whose content is not what the ledger has recorded for this collection."""
        ...

    async def record(self, tenant_id: TenantId, entries: Sequence[IndexEntry], *, collection: str) -> None:
        """Keep what became of posts; one that was deleted meanwhile is left out."""
        ...

    async def counts(self, tenant_id: TenantId, *, collection: str) -> LedgerCounts:
        """Count the tenant's posts by what became of them, in one snapshot."""
        ...

    async def deleted(self, tenant_id: TenantId, post_ids: Collection[UUID]) -> set[UUID]:
        """Tell which of these are posts of the tenant no more."""
        ...

    async def indexed_posts(self, tenant_id: TenantId, *, collection: str) -> set[UUID]:
        """List the posts recorded as indexed."""
        ...

    async def forget(self, tenant_id: TenantId, post_ids: Collection[UUID]) -> None:
        """Drop the records of posts, so that they are indexed again."""
        ...


class SearchIndex(Protocol):
    """One tenant's collection at a time; readers reach it by its alias once it is published."""

    async def ensure(self, tenant_id: TenantId, *, encoder_version: str) -> str:
        """Make sure that the tenant has a collection for this encoder, and tell its name."""
        ...

    async def publish(self, tenant_id: TenantId, *, collection: str) -> None:
        """Point the tenant's alias to this collection and drop its older ones."""
        ...

    async def upsert(self, tenant_id: TenantId, points: Sequence[Point], *, collection: str) -> None:
        """Write points, each over its earlier self, and wait until they can be found."""
        ...

    async def delete(self, tenant_id: TenantId, post_ids: Collection[UUID], *, collection: str) -> None:
        """Remove the points of posts, where there are any."""
        ...

    async def count(self, tenant_id: TenantId, *, collection: str | None = None) -> int | None:
        """Count exactly; None for the collection means the published one, and None is told where there is none."""
        ...

    async def post_ids(self, tenant_id: TenantId, *, collection: str) -> set[UUID]:
        """List the posts that have a point."""
        ...

    async def query(
        self, tenant_id: TenantId, *, bm25: text.SparseVector, trigram: text.SparseVector, limit: int
    ) -> list[Found]:
        """Rank the tenant's posts by both vectors, fused by reciprocal rank."""
        ...


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What one run of `index_posts` did and how the index stands after it.

    Attributes:
        upserted: Points written by this run.
        skipped: Reason → posts without a point, of all runs.
        indexed: Posts with a point, by the ledger.
        points: Points in the collection, counted exactly.
        expected: All posts of the tenant.
        healed: The collection and the ledger differed, and this run made up for it.
        has_more: The run ended at its limit.
    """

    collection: str
    upserted: int
    skipped: Mapping[str, int]
    indexed: int
    points: int
    expected: int
    healed: bool
    has_more: bool

    def __add__(self, later: "IndexReport") -> "IndexReport":
        """Tell of two runs as of one; the index stands as after the later one."""
        return replace(later, upserted=self.upserted + later.upserted, healed=self.healed or later.healed)

    @property
    def ready(self) -> bool:
        """Whether every post is accounted for."""
        return self.points == self.indexed and self.indexed + sum(self.skipped.values()) == self.expected


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer to a query.

    Attributes:
        score: Comparable within one query only.
        matched: `words` if a word of the query, in any form, stands in the post; `fuzzy` if only similar ones do.
        similar: For a fuzzy hit, the words of the post that resemble the query's.
        text: Beginning of the post's text.
        ocr_text: Beginning of what stands in its pictures.
        s3_keys: Its pictures.
    """

    post_id: UUID
    score: float
    matched: Literal["words", "fuzzy"]
    channel: str
    posted_at: datetime
    text: str
    ocr_text: str
    labels: tuple[str, ...]
    s3_keys: tuple[str, ...]
    similar: tuple[str, ...] = field(default=())


def document(post: IndexablePost) -> str:
    """Join everything of a post that can be found: its text, and what is in its pictures."""
    data = post.enrichment
    parts = [post.text, data.get("description"), data.get("ocr_text")]
    parts += data.get("vision_labels_agg") or []
    parts += data.get("barcodes") or []
    return "\n".join(part for part in parts if part)


def encode(tenant_id: TenantId, post: IndexablePost, *, encoder_version: str) -> Point | None:
    """Make a post's point, or None if there is no word in it."""
    words = text.words(document(post))
    bm25, trigram = text.bm25_document(words), text.trigram_document(words)
    if bm25 is None or trigram is None:
        return None
    data = post.enrichment
    payload = {
        "tenant_id": str(tenant_id),
        "post_id": str(post.post_id),
        "channel": post.channel,
        "posted_at": post.posted_at.isoformat(),
        "text": post.text[:SNIPPET_CHARACTERS],
        "ocr_text": (data.get("ocr_text") or "")[:SNIPPET_CHARACTERS],
        "labels": data.get("vision_labels_agg") or [],
        "classification": data.get("classification"),
        "s3_keys": [item["s3_key"] for item in data.get("s3_keys_list") or []],
        "words": sorted(set(words)),  # by them a fuzzy hit is judged
        "content_hash": post.content_hash,
        "encoder": encoder_version,
    }
    return Point(post.post_id, bm25, trigram, payload)


async def index_posts(
    tenant_id: TenantId,
    *,
    ledger: IndexLedger,
    index: SearchIndex,
    on_progress: Callable[[int], None] = lambda _: None,
    since: int = 0,
    limit: int | None = None,
    page_size: int = 500,
    encoder_version: str = text.ENCODER_VERSION,
) -> IndexReport:
    """Bring a tenant's collection in step with its posts; nothing is done for posts that have not changed.

    A crash costs at most one page, which is written again: point ids are deterministic. Where the collection and the
    ledger disagree (a lost collection, posts deleted from the database), the difference is made up for once.

    Args:
        on_progress: Called after each page with the number of posts in it.
        since: Seq of the first post that may have changed. Those before it are looked at only if some of them are not
            recorded in the collection, as with one that is new.
        limit: Posts at most; None: all that have changed. A run that ends at its limit makes up for no difference.
        page_size: Posts encoded, written and recorded at once.
        encoder_version: Another one goes to a collection of its own; readers see it when it is complete, or at once if
            there is no other.

    Raises:
        IndexUnavailable: Transient; what was recorded so far stays.
        DatabaseUnavailable: Transient; the same.
    """
    work = partial(_Work, tenant_id, encoder_version, ledger, index, on_progress, page_size, limit, since)
    try:
        return await _indexed(work, await index.ensure(tenant_id, encoder_version=encoder_version))
    except CollectionMissing:  # the index was sure of it, and somebody has removed it since
        return await _indexed(work, await index.ensure(tenant_id, encoder_version=encoder_version))


async def _indexed(new_work: "Callable[[str], _Work]", collection: str) -> IndexReport:
    work = new_work(collection)
    tenant_id, ledger, index = work.tenant_id, work.ledger, work.index
    await work.index_changed()
    counts = await ledger.counts(tenant_id, collection=collection)
    if counts.first_left < work.since and not work.has_more:  # the collection is new
        work.since = counts.first_left
        await work.index_changed()
        counts = await ledger.counts(tenant_id, collection=collection)
    points = await index.count(tenant_id, collection=collection) or 0
    healed = not work.has_more and points != counts.indexed
    if healed:
        await work.reconcile()
        work.since = 0
        await work.index_changed()
        counts = await ledger.counts(tenant_id, collection=collection)
        points = await index.count(tenant_id, collection=collection) or 0
    if not work.has_more or await index.count(tenant_id) is None:
        await index.publish(tenant_id, collection=collection)
    report = IndexReport(
        collection,
        work.upserted,
        counts.skipped,
        counts.indexed,
        points,
        counts.expected,
        healed=healed,
        has_more=work.has_more,
    )
    log.debug(
        "search.indexed",
        tenant_id=str(tenant_id),
        collection=collection,
        upserted=report.upserted,
        points=points,
        expected=counts.expected,
    )
    return report


@dataclass(slots=True)
class _Work:
    """One run over one tenant."""

    tenant_id: TenantId
    encoder_version: str
    ledger: IndexLedger
    index: SearchIndex
    on_progress: Callable[[int], None]
    page_size: int
    limit: int | None
    since: int
    collection: str
    upserted: int = 0
    taken: int = 0

    @property
    def has_more(self) -> bool:
        """Whether the run has come to its limit."""
        return self.taken == self.limit

    async def index_changed(self) -> None:
        """Write and record what the ledger does not know, page by page."""
        after_seq, is_full = self.since - 1, True
        while is_full and not self.has_more:
            wanted = self.page_size if self.limit is None else min(self.page_size, self.limit - self.taken)
            posts = await self.ledger.posts_to_index(
                self.tenant_id,
                encoder_version=self.encoder_version,
                collection=self.collection,
                after_seq=after_seq,
                limit=wanted,
            )
            if not posts:
                return
            is_full = len(posts) == wanted
            after_seq = posts[-1].seq
            self.taken += len(posts)
            points = await asyncio.to_thread(self._encode, posts)
            wordless = {post.post_id for post in posts} - {point.post_id for point in points}
            if points:
                await self.index.upsert(self.tenant_id, points, collection=self.collection)
            if wordless:
                await self.index.delete(self.tenant_id, wordless, collection=self.collection)
            # Recorded only after the index has it: a crash in between repeats the write, it does not lose it.
            entries = [
                IndexEntry(post.post_id, post.content_hash, NO_TEXT if post.post_id in wordless else None)
                for post in posts
            ]
            await self.ledger.record(self.tenant_id, entries, collection=self.collection)
            self.upserted += len(points)
            self.on_progress(len(posts))

    def _encode(self, posts: Sequence[IndexablePost]) -> list[Point]:
        encoded = (encode(self.tenant_id, post, encoder_version=self.encoder_version) for post in posts)
        return [point for point in encoded if point is not None]

    async def reconcile(self) -> None:
        """Forget records whose point is lost, and delete points whose post is gone.

        One without a record whose post is there is another run's, which has yet to record it.
        """
        recorded = await self.ledger.indexed_posts(self.tenant_id, collection=self.collection)
        present = await self.index.post_ids(self.tenant_id, collection=self.collection)
        lost, orphaned = recorded - present, await self.ledger.deleted(self.tenant_id, present - recorded)
        log.warning(
            "search.index_differs",
            tenant_id=str(self.tenant_id),
            collection=self.collection,
            lost=len(lost),
            orphaned=len(orphaned),
        )
        if orphaned:
            await self.index.delete(self.tenant_id, orphaned, collection=self.collection)
        if lost:
            await self.ledger.forget(self.tenant_id, lost)


async def is_ready(tenant_id: TenantId, *, index: SearchIndex) -> bool:
    """Tell whether the tenant has an index with something in it.

    A check that fails lets the query go on: it is logged, and the query itself will tell.
    """
    try:
        points = await index.count(tenant_id)
    except IndexUnavailable as error:
        log.warning("search.readiness_unknown", tenant_id=str(tenant_id), error=str(error))
        return True
    if points and points < SMALL_INDEX_POSTS:
        log.warning("search.index_small", tenant_id=str(tenant_id), points=points)
    return bool(points)


async def search(tenant_id: TenantId, query: str, *, index: SearchIndex, limit: int = 10) -> list[Hit]:
    """Find a tenant's posts by words in any form, and by similar ones where a word is misread.

    Args:
        query: As typed.
        limit: Hits at most.

    Returns:
        Best first; none for a query without words.

    Raises:
        IndexUnavailable: Transient.
    """
    words = text.words(query)
    bm25, trigram = text.bm25_query(words), text.trigram_query(words)
    if bm25 is None or trigram is None:
        return []
    found = await index.query(tenant_id, bm25=bm25, trigram=trigram, limit=max(50, 5 * limit))
    stem_ids = frozenset(bm25.indices)
    hits = (_judge(item, words, stem_ids) for item in found)
    return [hit for hit in hits if hit is not None][:limit]


def _judge(found: Found, words: Sequence[str], stem_ids: frozenset[int]) -> Hit | None:
    """Label an answer of the index, or drop it as unrelated."""
    similar: tuple[str, ...] = ()
    if not found.stem_ids & stem_ids:
        similarity, similar = _resemblance(words, found.payload["words"])
        if similarity < LEAST_SIMILARITY:
            return None
    payload = found.payload
    return Hit(
        post_id=found.post_id,
        score=found.score,
        matched="fuzzy" if similar else "words",
        channel=payload["channel"],
        posted_at=datetime.fromisoformat(payload["posted_at"]),
        text=payload["text"],
        ocr_text=payload["ocr_text"],
        labels=tuple(payload["labels"]),
        s3_keys=tuple(payload["s3_keys"]),
        similar=similar,
    )


def _resemblance(words: Sequence[str], candidates: Sequence[str]) -> tuple[float, tuple[str, ...]]:
    """Tell the mean similarity of words to their best candidates, and those that are alike enough.

    Numbers resemble nothing: another digit is another number, not a slip.
    """
    candidates = [candidate for candidate in candidates if not candidate.isdigit()]
    total = 0.0
    similar = []
    for word in words:
        if word.isdigit() or not candidates:
            continue
        degree, best = max((text.similarity(word, candidate), candidate) for candidate in candidates)
        total += degree
        if degree >= LEAST_SIMILARITY:
            similar.append(best)
    return total / len(words), tuple(similar)
