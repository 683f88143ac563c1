"""The same calls on the embedded server and on the client's own local mode; the answers are compared."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import httpx
import pytest
from qdrant_client import AsyncQdrantClient
from qdrant_client import models as m
from qdrant_client.http.exceptions import UnexpectedResponse

from vision_assets.devstack.processes import free_port

NAMESPACE = UUID("6a2f41a3-c54c-fce8-32d2-0324e1c32e22")
TENANTS = [str(uuid5(NAMESPACE, name)) for name in ("alpha", "beta")]
Call = Callable[[AsyncQdrantClient], Awaitable[Any]]


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run the embedded server as its own process."""
    port = free_port()
    command = [sys.executable, "-m", "vision_assets.devstack.qdrant", "--port", str(port), "--dir", str(folder)]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the server ended at its start"
            try:
                httpx.get(f"{url}/readyz").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a server of this module's own."""
    with served(tmp_path_factory.mktemp("qdrant")) as (address, _):
        yield address


def point(number: int) -> m.PointStruct:
    """Make a point; every third has no dense vector, as a post without an embedding.

    The weights are exact in 32 bits and no two points score alike: order among equals is nobody's promise.
    """
    weight = (1 + number * 7 % 24) / 32
    vector: dict[str, Any] = {
        "bm25": m.SparseVector(indices=[1, 2 + number % 5, 10 + number], values=[weight, 0.5 + weight, 2.0]),
    }
    if number % 3:
        vector["dense"] = [1.0 + weight, 1.0, number / 8, 0.25]
    return m.PointStruct(
        id=str(uuid5(NAMESPACE, str(number))),
        vector=vector,
        payload={
            "tenant_id": TENANTS[number % 2],
            "number": number,
            "labels": ["cat"] if number % 4 else ["dog", "cat"],
            "posted_at": datetime(2025, 1, 1 + number, tzinfo=UTC).isoformat(),
            "maybe": None if number % 2 else "set",
        },
    )


POINTS = [point(number) for number in range(24)]
CONFIG: dict[str, Any] = {
    "vectors_config": {"dense": m.VectorParams(size=4, distance=m.Distance.COSINE)},
    "sparse_vectors_config": {"bm25": m.SparseVectorParams(modifier=m.Modifier.IDF)},
}


async def fill(client: AsyncQdrantClient, name: str) -> None:
    """Make a collection with points and an alias."""
    await client.create_collection(name, **CONFIG)
    await client.upsert(name, POINTS, wait=True)
    await client.update_collection_aliases(
        [m.CreateAliasOperation(create_alias=m.CreateAlias(collection_name=name, alias_name=f"{name}_alias"))]
    )


@pytest.fixture
async def pair(url: str, request: pytest.FixtureRequest) -> AsyncIterator[tuple[AsyncQdrantClient, AsyncQdrantClient]]:
    """Give both clients, each with the same filled collection `posts`."""
    embedded, local = AsyncQdrantClient(url=url), AsyncQdrantClient(":memory:")
    for client in (embedded, local):
        await fill(client, "posts")
    yield embedded, local
    await embedded.delete_collection("posts")
    await embedded.close()
    await local.close()


def tenant(index: int) -> m.Filter:
    """Filter one tenant's points."""
    return m.Filter(must=[m.FieldCondition(key="tenant_id", match=m.MatchValue(value=TENANTS[index]))])


SPARSE = m.SparseVector(indices=[3, 1, 15], values=[1.0, 1.0, 1.0])
DENSE = [2.0, 1.0, 0.7, 0.1]
IDS = [str(one.id) for one in POINTS[:3]]
FILTERS: dict[str, m.Filter] = {
    "match": tenant(0),
    "any": m.Filter(must=[m.FieldCondition(key="labels", match=m.MatchAny(any=["dog", "bird"]))]),
    "except": m.Filter(must=m.FieldCondition(key="number", match=m.MatchExcept(**{"except": [1, 2]}))),
    "range": m.Filter(must=[m.FieldCondition(key="number", range=m.Range(gte=3, lt=9))]),
    "dates": m.Filter(
        must=[m.FieldCondition(key="posted_at", range=m.DatetimeRange(gt=datetime(2025, 1, 20, tzinfo=UTC)))]
    ),
    "should": m.Filter(
        should=[m.HasIdCondition(has_id=IDS), m.FieldCondition(key="number", match=m.MatchValue(value=9))],
        must_not=[m.FieldCondition(key="number", match=m.MatchValue(value=1))],
    ),
    "null": m.Filter(must=[m.IsNullCondition(is_null=m.PayloadField(key="maybe"))]),
    "empty": m.Filter(must=[m.IsEmptyCondition(is_empty=m.PayloadField(key="absent"))]),
    "vector": m.Filter(must=[m.HasVectorCondition(has_vector="dense")]),
    "count": m.Filter(must=[m.FieldCondition(key="labels", values_count=m.ValuesCount(gt=1))]),
    "nested": m.Filter(must=[tenant(0), m.Filter(must_not=[m.IsNullCondition(is_null=m.PayloadField(key="maybe"))])]),
}


def hits(points: list[m.ScoredPoint]) -> list[tuple[float, dict[str, Any] | None]]:
    """Give scores and payloads, best first; ranks that fuse to equal scores have no order of their own."""
    found = ((round(one.score, 4), one.payload) for one in points)
    return sorted(found, key=lambda hit: (-hit[0], str(hit[1])))


QUERIES: dict[str, dict[str, Any]] = {
    "dense": {"query": DENSE, "using": "dense"},
    "sparse": {"query": SPARSE, "using": "bm25"},
    "page": {"query": SPARSE, "using": "bm25", "limit": 5, "offset": 5},
    "threshold": {"query": DENSE, "using": "dense", "score_threshold": 0.9},
    "filtered": {"query": DENSE, "using": "dense", "query_filter": tenant(1)},
    "rrf": {
        "prefetch": [
            m.Prefetch(query=SPARSE, using="bm25", limit=20, filter=tenant(0)),
            m.Prefetch(query=DENSE, using="dense", limit=20, filter=tenant(0)),
        ],
        "query": m.FusionQuery(fusion=m.Fusion.RRF),
    },
    "rrf, k and weights": {
        "prefetch": [
            m.Prefetch(query=SPARSE, using="bm25", limit=20),
            m.Prefetch(query=DENSE, using="dense", limit=20),
        ],
        "query": m.RrfQuery(rrf=m.Rrf(k=60, weights=[2.0, 1.0])),
    },
}


@pytest.mark.parametrize("name", FILTERS)
async def test_filters_find_the_same_points(pair: tuple[AsyncQdrantClient, AsyncQdrantClient], name: str) -> None:
    """Every kind of condition selects the same points, in a count and in a scroll, and not all or none by accident."""
    numbers = []
    for client in pair:
        points, _ = await client.scroll("posts_alias", scroll_filter=FILTERS[name], limit=100)
        assert (await client.count("posts", count_filter=FILTERS[name], exact=True)).count == len(points)
        numbers.append(sorted(one.payload["number"] for one in points if one.payload))
    assert numbers[0] == numbers[1]
    assert numbers[0]


@pytest.mark.parametrize("name", QUERIES)
async def test_queries_score_the_same(pair: tuple[AsyncQdrantClient, AsyncQdrantClient], name: str) -> None:
    """Dense, sparse with IDF and fused queries give the same points with the same scores."""
    embedded, local = [
        hits((await client.query_points("posts_alias", **{"limit": 24} | QUERIES[name])).points) for client in pair
    ]
    assert embedded == local
    assert embedded


CALLS: dict[str, Call] = {
    "exists": lambda c: c.collection_exists("posts"),
    "alias exists": lambda c: c.collection_exists("posts_alias"),
    "absent": lambda c: c.collection_exists("other"),
    "aliases": lambda c: c.get_collection_aliases("posts"),
    "collections": lambda c: c.get_collections(),
    "retrieve": lambda c: c.retrieve("posts", [*IDS, str(UUID(int=5))], with_vectors=["bm25"]),
    "payload keys": lambda c: c.retrieve("posts", IDS, with_payload=["number", "maybe"]),
    "payload but": lambda c: c.retrieve("posts", IDS, with_payload=m.PayloadSelectorExclude(exclude=["labels"])),
    "no payload": lambda c: c.retrieve("posts", IDS, with_payload=False),
    "delete": lambda c: c.delete("posts", m.PointIdsList(points=[*IDS])),
    "delete by filter": lambda c: c.delete("posts", m.FilterSelector(filter=tenant(0))),
    "delete absent": lambda c: c.delete_collection("other"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_calls_answer_the_same(pair: tuple[AsyncQdrantClient, AsyncQdrantClient], name: str) -> None:
    """Single calls give equal answers, and leave equally many points."""
    embedded, local = [await CALLS[name](client) for client in pair]
    assert embedded == local
    counts = [(await client.count("posts")).count for client in pair]
    assert counts[0] == counts[1]


async def test_scroll_pages_cover_all(pair: tuple[AsyncQdrantClient, AsyncQdrantClient]) -> None:
    """Paging by the offset that a page names gives every point once, in the order of ids."""
    seen = []
    for client in pair:
        ids: list[Any] = []
        offset: Any = None
        while True:
            page, offset = await client.scroll("posts", limit=7, offset=offset, with_payload=False)
            ids += [str(one.id) for one in page]
            if offset is None:
                break
        seen.append(ids)
    assert seen[0] == sorted(str(one.id) for one in POINTS)
    assert sorted(seen[1]) == seen[0]


async def test_upsert_replaces(pair: tuple[AsyncQdrantClient, AsyncQdrantClient]) -> None:
    """The same id again replaces vectors and payload, in the list form and in the batch form."""
    for client in pair:
        await client.upsert("posts", [m.PointStruct(id=IDS[0], vector={"dense": DENSE}, payload={"a": 1})])
        batch = m.Batch(ids=[IDS[1]], vectors={"dense": [DENSE]}, payloads=[{"a": 2}])
        await client.upsert("posts", batch)
    embedded, local = [await client.retrieve("posts", IDS[:2], with_vectors=True) for client in pair]
    assert [one.payload for one in embedded] == [one.payload for one in local] == [{"a": 1}, {"a": 2}]
    assert all(isinstance(one.vector, dict) and set(one.vector) == {"dense"} for one in embedded)


async def test_alias_moves_at_once(pair: tuple[AsyncQdrantClient, AsyncQdrantClient]) -> None:
    """Delete and create of an alias in one request move it; deleting the collection deletes its alias."""
    for client in pair:
        await client.create_collection("posts_v2", **CONFIG)
        await client.update_collection_aliases(
            [
                m.DeleteAliasOperation(delete_alias=m.DeleteAlias(alias_name="posts_alias")),
                m.CreateAliasOperation(
                    create_alias=m.CreateAlias(collection_name="posts_v2", alias_name="posts_alias")
                ),
            ]
        )
        assert (await client.count("posts_alias")).count == 0
        assert await client.delete_collection("posts_v2")
        assert not await client.collection_exists("posts_alias")


async def test_indexes_and_counts_are_shown(url: str) -> None:
    """A tenant index is stored as sent and shown with its points; the vectors' schema comes back."""
    client = AsyncQdrantClient(url=url)
    await client.create_collection("indexed", metadata={"version": 3}, **CONFIG)
    tenant_index = m.KeywordIndexParams(type=m.KeywordIndexType.KEYWORD, is_tenant=True)
    await client.create_payload_index("indexed", "tenant_id", tenant_index, wait=True)
    await client.create_payload_index("indexed", "posted_at", m.PayloadSchemaType.DATETIME, wait=True)
    await client.upsert("indexed", POINTS)
    info = await client.get_collection("indexed")
    assert info.status == m.CollectionStatus.GREEN
    assert info.points_count == len(POINTS)
    assert info.config.params.vectors == CONFIG["vectors_config"]
    assert info.config.params.sparse_vectors == CONFIG["sparse_vectors_config"]
    assert info.config.metadata == {"version": 3}
    assert info.payload_schema["tenant_id"].params == tenant_index
    assert {field: index.points for field, index in info.payload_schema.items()} == {"tenant_id": 24, "posted_at": 24}
    assert await client.delete_collection("indexed")
    await client.close()


REFUSED: dict[str, tuple[int, Call]] = {
    "no collection": (404, lambda c: c.count("absent")),
    "twice": (409, lambda c: c.create_collection("refusing", **CONFIG)),
    "bad id": (400, lambda c: c.retrieve("refusing", ["not-a-uuid"])),
    "bad size": (400, lambda c: c.query_points("refusing", [1.0], using="dense")),
    "bad name": (400, lambda c: c.query_points("refusing", DENSE, using="other")),
    "bad alias": (
        404,
        lambda c: c.update_collection_aliases(
            [m.CreateAliasOperation(create_alias=m.CreateAlias(collection_name="absent", alias_name="a"))]
        ),
    ),
    "route": (501, lambda c: c.facet("refusing", "labels")),
    "option": (501, lambda c: c.query_points("refusing", m.SampleQuery(sample=m.Sample.RANDOM))),
    "quantization": (
        501,
        lambda c: c.create_collection(
            "q", quantization_config=m.BinaryQuantization(binary=m.BinaryQuantizationConfig()), **CONFIG
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusals_name_the_reason(url: str, name: str) -> None:
    """What is wrong gets the server's status, what is not built gets 501; nothing is dropped silently."""
    client = AsyncQdrantClient(url=url)
    if not await client.collection_exists("refusing"):
        await client.create_collection("refusing", **CONFIG)
    status, call = REFUSED[name]
    with pytest.raises(UnexpectedResponse) as refused:
        await call(client)
    assert refused.value.status_code == status
    assert refused.value.structured()["status"]["error"]
    await client.close()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_data_outlives_the_process(tmp_path: Path, end: signal.Signals) -> None:
    """Points, indexes and aliases are there after kill -9 (write-ahead log) and after a clean end."""
    with served(tmp_path) as (address, process):
        client = AsyncQdrantClient(url=address, check_compatibility=False)
        await fill(client, "posts")
        await client.create_payload_index("posts", "number", m.PayloadSchemaType.INTEGER)
        await client.create_collection("gone", **CONFIG)
        await client.delete_collection("gone")
        await client.close()
        process.send_signal(end)
        process.wait(20)
    with served(tmp_path) as (address, _):
        client = AsyncQdrantClient(url=address, check_compatibility=False)
        assert (await client.count("posts_alias", count_filter=tenant(0))).count == 12
        assert (await client.get_collection("posts")).payload_schema["number"].points == 24
        assert [one.name for one in (await client.get_collections()).collections] == ["posts"]
        await client.close()


async def test_many_at_once(url: str) -> None:
    """Concurrent writers and readers of one collection do not fail or lose points."""
    client = AsyncQdrantClient(url=url)
    await client.create_collection("busy", **CONFIG)

    async def write(number: int) -> None:
        await client.upsert("busy", [point(number).model_copy(update={"id": number})])
        assert (await client.query_points("busy", SPARSE, using="bm25", limit=3)).points

    await asyncio.gather(*(write(number) for number in range(30)))
    assert (await client.count("busy")).count == 30
    await client.delete_collection("busy")
    await client.close()
