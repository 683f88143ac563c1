"""Qdrant through its stock client: one collection per tenant and encoder, reached by the alias `t{tenant_id}_posts`.

What is not here: vectors and the judging of hits (`core/`), and the embedded engine (`devstack/`).
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID, uuid5

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from vision_assets.core.errors import CollectionMissing, ConfigurationError, IndexUnavailable
from vision_assets.core.search import Found, Point
from vision_assets.core.tenants import TenantId
from vision_assets.core.text import SparseVector

UPSERT_POINTS = 200
SCROLL_POINTS = 2_000
DELETE_POINTS = 5_000
TIMEOUT_SECONDS = 30

_SPARSE = models.SparseVectorParams(modifier=models.Modifier.IDF)


_Item = TypeVar("_Item")


def alias_name(tenant_id: TenantId) -> str:
    """Name what readers ask; the form is a contract with other readers."""
    return f"t{tenant_id}_posts"


class QdrantIndex:
    """The `SearchIndex` of one Qdrant server. An async context manager: its connections belong to one event loop."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_seconds: int = TIMEOUT_SECONDS) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            url: http(s)://host:port.
            api_key: None for a server without keys.
            timeout_seconds: Of one request.
        """
        # The client's own check of the server's version is a blocking call, so it is off.
        self._client = AsyncQdrantClient(url=url, api_key=api_key, timeout=timeout_seconds, check_compatibility=False)
        self._url = url
        self._ensured: set[str] = set()
        self._published: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ping(self) -> None:
        """Ask for the list of collections.

        Raises:
            IndexUnavailable: No answer.
        """
        with self._errors():
            await self._client.get_collections()

    async def ensure(self, tenant_id: TenantId, *, encoder_version: str) -> str:
        """Make sure, once, that the tenant has a collection for this encoder, and tell its name."""
        collection = f"{alias_name(tenant_id)}_{encoder_version}"
        if collection in self._ensured:
            return collection
        with self._errors():
            if not await self._client.collection_exists(collection):
                await self._create(collection)
            # Repeated by each client: a crash after the creation must not leave a collection without its index.
            await self._client.create_payload_index(
                collection,
                field_name="tenant_id",
                field_schema=models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
            )
        self._ensured.add(collection)
        return collection

    async def _create(self, collection: str) -> None:
        try:
            await self._client.create_collection(
                collection, vectors_config={}, sparse_vectors_config={"bm25": _SPARSE, "trigram": _SPARSE}
            )
        except UnexpectedResponse as error:
            if error.status_code != HTTPStatus.CONFLICT:  # another run was faster
                raise

    async def publish(self, tenant_id: TenantId, *, collection: str) -> None:
        """Point the tenant's alias, once, to this collection, in one step, and drop the tenant's older ones."""
        if collection in self._published:
            return
        alias = alias_name(tenant_id)
        with self._errors():
            aliases = {item.alias_name: item.collection_name for item in (await self._client.get_aliases()).aliases}
            if aliases.get(alias) != collection:
                drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
                create = models.CreateAliasOperation(
                    create_alias=models.CreateAlias(collection_name=collection, alias_name=alias)
                )
                await self._client.update_collection_aliases([drop, create] if alias in aliases else [create])
            for other in (await self._client.get_collections()).collections:
                if other.name.startswith(f"{alias}_") and other.name != collection:
                    await self._client.delete_collection(other.name)
        self._published.add(collection)

    async def upsert(self, tenant_id: TenantId, points: Sequence[Point], *, collection: str) -> None:
        """Write points, each over its earlier self, and wait until they can be found."""
        with self._errors():
            for batch in _batches(points, UPSERT_POINTS):
                await self._client.upsert(
                    collection,
                    points=[
                        models.PointStruct(
                            id=_point_id(tenant_id, point.post_id),
                            vector={"bm25": _sparse(point.bm25), "trigram": _sparse(point.trigram)},
                            payload=dict(point.payload),
                        )
                        for point in batch
                    ],
                    wait=True,
                )

    async def delete(self, tenant_id: TenantId, post_ids: Collection[UUID], *, collection: str) -> None:
        """Remove the points of posts, where there are any."""
        with self._errors():
            for batch in _batches(post_ids, DELETE_POINTS):
                await self._client.delete(
                    collection,
                    points_selector=models.PointIdsList(points=[_point_id(tenant_id, post_id) for post_id in batch]),
                    wait=True,
                )

    async def count(self, tenant_id: TenantId, *, collection: str | None = None) -> int | None:
        """Count the tenant's points exactly; None where there is no such collection, or none is published."""
        try:
            with self._errors():
                answer = await self._client.count(
                    collection or alias_name(tenant_id), count_filter=_only(tenant_id), exact=True
                )
        except CollectionMissing:
            return None
        return answer.count

    async def post_ids(self, tenant_id: TenantId, *, collection: str) -> set[UUID]:
        """List the posts that have a point."""
        found: set[UUID] = set()
        offset: Any = None
        with self._errors():
            while True:
                records, offset = await self._client.scroll(
                    collection,
                    scroll_filter=_only(tenant_id),
                    limit=SCROLL_POINTS,
                    offset=offset,
                    with_payload=["post_id"],
                )
                found.update(UUID(record.payload["post_id"]) for record in records if record.payload)
                if offset is None:
                    return found

    async def query(self, tenant_id: TenantId, *, bm25: SparseVector, trigram: SparseVector, limit: int) -> list[Found]:
        """Rank the tenant's posts by both vectors, fused by reciprocal rank; nothing where no index is published."""
        own = _only(tenant_id)
        try:
            with self._errors():
                answer = await self._client.query_points(
                    alias_name(tenant_id),
                    prefetch=[
                        models.Prefetch(query=_sparse(bm25), using="bm25", filter=own, limit=limit),
                        models.Prefetch(query=_sparse(trigram), using="trigram", filter=own, limit=limit),
                    ],
                    query=models.FusionQuery(fusion=models.Fusion.RRF),
                    query_filter=own,
                    limit=2 * limit,
                    with_payload=True,
                    with_vectors=["bm25"],
                )
        except CollectionMissing:
            return []
        return [_found(point) for point in answer.points]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the client's errors into the project's."""
        try:
            yield
        except (ResponseHandlingException, ResourceExhaustedResponse) as error:
            raise IndexUnavailable(
                f"Qdrant does not answer at {self._url}: {error}. Start the parts with `vision-assets up`."
            ) from error
        except UnexpectedResponse as error:
            match error.status_code:
                case HTTPStatus.NOT_FOUND:
                    # A collection may vanish between two calls; whoever comes next makes it again.
                    self._ensured.clear()
                    self._published.clear()
                    raise CollectionMissing(f"Qdrant has no such collection: {error}") from error
                case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                    raise ConfigurationError(f"Qdrant refuses the key: set QDRANT_API_KEY. {error}") from error
                case int(code) if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise IndexUnavailable(f"Qdrant failed: {error}") from error
            raise


def _point_id(tenant_id: TenantId, post_id: UUID) -> str:
    return str(uuid5(tenant_id, str(post_id)))


def _only(tenant_id: TenantId) -> models.Filter:
    """Keep to the tenant's points, even where several tenants should share a collection."""
    return models.Filter(must=[models.FieldCondition(key="tenant_id", match=models.MatchValue(value=str(tenant_id)))])


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))


def _found(point: models.ScoredPoint) -> Found:
    payload = point.payload or {}
    vectors: Any = point.vector or {}
    return Found(UUID(payload["post_id"]), point.score, frozenset(vectors["bm25"].indices), payload)


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
