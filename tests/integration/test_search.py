"""The search index on the real Postgres and the real engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from qdrant_client import AsyncQdrantClient, models
from typer.testing import CliRunner, Result

from vision_assets.cli.search import NOT_READY
from vision_assets.cli.search import search as search_command
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.search import PostgresIndexLedger
from vision_assets.clients.qdrant import QdrantIndex, alias_name
from vision_assets.core import search
from vision_assets.core.errors import IndexUnavailable
from vision_assets.core.tenants import TenantId
from vision_assets.core.turns import NO_POST
from vision_assets.settings import Settings


@dataclass(frozen=True)
class Library:
    """One tenant's posts and their index."""

    tenant_id: TenantId
    channel_id: UUID
    database: Database
    index: QdrantIndex
    qdrant: AsyncQdrantClient

    async def post(self, text: str, **enrichment: Any) -> UUID:
        """Add a post, and its enrichment if there is any."""
        post_id = uuid4()
        await self.database.pool.execute(
            """INSERT INTO posts (id, tenant_id, channel_id, message_id, posted_at, text)
               VALUES ($1, $2, $3, $4, $5, $6)""",
            *(post_id, self.tenant_id, self.channel_id, uuid4().int % 2**60, datetime(2024, 3, 1, tzinfo=UTC), text),
        )
        if enrichment:
            await self.enrich(post_id, **enrichment)
        return post_id

    async def enrich(self, post_id: UUID, **data: Any) -> None:
        """Write a post's enrichment as the pipeline does, with another hash of its inputs each time."""
        await self.database.pool.execute(
            """INSERT INTO post_enrichment (post_id, kind, tenant_id, provider, params_hash, data, status)
               VALUES ($1, 'vision', $2, 'local', $3, $4, 'ok')
               ON CONFLICT (post_id, kind) DO UPDATE SET params_hash = excluded.params_hash, data = excluded.data""",
            *(post_id, self.tenant_id, uuid4().hex, {"ocr_text": None, "description": None, **data}),
        )

    async def index_posts(self, **options: Any) -> search.IndexReport:
        """Run the indexing."""
        return await search.index_posts(
            self.tenant_id, ledger=PostgresIndexLedger(self.database), index=self.index, **options
        )

    async def find(self, query: str) -> list[search.Hit]:
        """Ask the index."""
        return await search.search(self.tenant_id, query, index=self.index)

    async def found(self, query: str) -> dict[UUID, str]:
        """Tell which posts are found and how."""
        return {hit.post_id: hit.matched for hit in await self.find(query)}


@pytest.fixture
async def libraries(parts: Settings, database: str) -> AsyncIterator[tuple[Library, Library]]:
    """Give two tenants without posts."""
    assert parts.qdrant_url
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(Database.open(database))
        index = await stack.enter_async_context(QdrantIndex(parts.qdrant_url))
        client = AsyncQdrantClient(url=parts.qdrant_url, check_compatibility=False)
        stack.push_async_callback(client.close)
        made = []
        for name in ("alpha", "beta"):
            tenant_id, channel_id = TenantId(uuid4()), uuid4()
            await opened.pool.execute(
                "INSERT INTO tenants (id, name) VALUES ($1, $2)", tenant_id, f"{name}-{tenant_id}"
            )
            await opened.pool.execute(
                "INSERT INTO channels (id, tenant_id, source_key, title) VALUES ($1, $2, 'folder:test', $3)",
                *(channel_id, tenant_id, f"Канал {name}"),
            )
            made.append(Library(tenant_id, channel_id, opened, index, client))
        yield made[0], made[1]


@pytest.fixture
def library(libraries: tuple[Library, Library]) -> Library:
    """Give one tenant without posts."""
    return libraries[0]


async def test_words_are_found_in_any_form(library: Library) -> None:
    """Russian and English inflections, in the text, the OCR text and the labels, lead to the post."""
    mortgage = await library.post("Банки снизили ставки по ипотеке для молодых семей")
    hedgehog = await library.post("Смешная картинка", ocr_text="Стадо ЁЖИКОВ на прогулке", vision_labels_agg=["meme"])
    invoice = await library.post("", ocr_text="Two invoices were paid yesterday", barcodes=["INV-778"])
    report = await library.index_posts()
    assert (report.upserted, report.points, report.expected, report.ready) == (3, 3, 3, True)
    for query, post in [
        ("ипотекой", mortgage),
        ("молодая семья", mortgage),
        ("ежик", hedgehog),
        ("memes", hedgehog),
        ("invoice paying", invoice),
        ("778", invoice),
    ]:
        hits = await library.find(query)
        assert (hits[0].post_id, hits[0].matched) == (post, "words"), query
    assert await library.find("что это и как?") == []


async def test_hit_carries_what_people_need(library: Library) -> None:
    """A hit names its channel, time, texts, labels and pictures."""
    await library.post(
        "Чек из кафе",
        ocr_text="Капучино 250",
        vision_labels_agg=["document"],
        s3_keys_list=[{"sha256": "00", "s3_key": "media/x/00/00.jpg", "analyzed_at": "2024-03-01T00:00:00Z"}],
    )
    await library.index_posts()
    (hit,) = await library.find("капучино")
    assert (hit.channel, hit.text, hit.ocr_text) == ("Канал alpha", "Чек из кафе", "Капучино 250")
    assert (hit.labels, hit.s3_keys) == (("document",), ("media/x/00/00.jpg",))
    assert hit.posted_at == datetime(2024, 3, 1, tzinfo=UTC)


async def test_misread_words_are_found_and_labelled(library: Library) -> None:
    """A slip of OCR is found by its trigrams and says so; unrelated posts are not shown."""
    misread = await library.post("", ocr_text="СБЕР6АНК: годовой илотечный отчет")
    await library.post("Погода на выходные: дождь и ветер до пятнадцати метров")
    await library.post("Рецепт пирога с вишней и творогом")
    await library.index_posts()
    (hit,) = await library.find("сбербанк")
    assert (hit.post_id, hit.matched, hit.similar) == (misread, "fuzzy", ("сбер6анк",))
    assert await library.found("ипотечный") == {misread: "fuzzy"}
    assert await library.found("отчеты сбербанка") == {misread: "words"}
    assert await library.found("электросамокат") == {}


async def test_tenants_never_see_each_other(libraries: tuple[Library, Library]) -> None:
    """The same text in two tenants: each finds its own post only, even in a collection that holds both."""
    alpha, beta = libraries
    own = {library: await library.post("Курс доллара вырос") for library in libraries}
    reports = {library: await library.index_posts() for library in libraries}
    for library in libraries:
        assert await library.found("курс доллара") == {own[library]: "words"}
    # Put beta's point into alpha's collection, as a shared one would have it.
    (record,), _ = await alpha.qdrant.scroll(reports[beta].collection, with_vectors=True)
    await alpha.qdrant.upsert(
        reports[alpha].collection,
        [models.PointStruct(id=record.id, vector=record.vector or {}, payload=record.payload)],
        wait=True,
    )
    assert await alpha.found("курс доллара") == {own[alpha]: "words"}
    assert await alpha.found("курз доллора") == {own[alpha]: "fuzzy"}
    assert await alpha.index.count(alpha.tenant_id) == 1


async def test_only_changes_are_indexed(library: Library) -> None:
    """A second run writes nothing; a changed enrichment, one post; pages do not matter."""
    posts = [await library.post(f"Новость номер {number}") for number in range(5)]
    pages: list[int] = []
    assert (await library.index_posts(page_size=2, on_progress=pages.append)).upserted == 5
    assert pages == [2, 2, 1]
    assert (await library.index_posts()).upserted == 0
    await library.enrich(posts[3], ocr_text="Скидки на велосипеды")
    assert (await library.index_posts()).upserted == 1
    assert await library.found("велосипед") == {posts[3]: "words"}
    assert (await library.index_posts()).points == 5


async def test_broken_off_run_goes_on(library: Library) -> None:
    """What was written before a fault stays; the next run does the rest, and nothing is there twice."""
    for number in range(4):
        await library.post(f"Новость номер {number}")

    def fail_after_a_page(_: int) -> None:
        raise IndexUnavailable("gone")

    with pytest.raises(IndexUnavailable):
        await library.index_posts(page_size=3, on_progress=fail_after_a_page)
    assert not await search.is_ready(library.tenant_id, index=library.index)
    report = await library.index_posts()
    assert (report.upserted, report.points, report.healed, report.ready) == (1, 4, False, True)


async def test_post_without_words_is_skipped_with_a_reason(library: Library) -> None:
    """An emoji-only post is accounted for; a post that loses its words loses its point."""
    await library.post("🔥🔥❤️")
    post = await library.post("Слова есть")
    report = await library.index_posts()
    assert (report.points, dict(report.skipped), report.ready) == (1, {"no_text": 1}, True)
    await library.database.pool.execute("UPDATE posts SET text = '👍' WHERE id = $1", post)
    report = await library.index_posts()
    assert (report.points, dict(report.skipped), report.ready) == (0, {"no_text": 2}, True)
    assert await library.found("слова") == {}


async def test_lost_collection_heals(library: Library) -> None:
    """A collection that vanished, a point that did, and a point too many are each made up for in one run."""
    first = await library.post("Открыли новую станцию метро")
    second = await library.post("Закрыли старый мост")
    collection = (await library.index_posts()).collection

    await library.qdrant.delete_collection(collection)
    report = await library.index_posts()
    assert (report.upserted, report.healed, report.ready) == (2, True, True)
    assert await library.found("станция") == {first: "words"}

    await library.index.delete(library.tenant_id, [second], collection=collection)
    report = await library.index_posts()
    assert (report.upserted, report.healed, report.ready) == (1, True, True)

    await library.database.pool.execute("DELETE FROM posts WHERE id = $1", first)
    report = await library.index_posts()
    assert (report.upserted, report.healed, report.points, report.ready) == (0, True, 1, True)
    assert await library.found("станция") == {}


async def test_points_of_another_run_stay(library: Library) -> None:
    """A point that is written and not recorded yet, while the collection is held against the posts, is not deleted."""
    first = await library.post("Открыли новую станцию метро")
    await library.post("Закрыли старый мост")
    collection = (await library.index_posts()).collection
    await library.database.pool.execute("DELETE FROM search_index WHERE post_id = $1", first)
    await library.database.pool.execute("DELETE FROM posts WHERE text = 'Закрыли старый мост'")

    class Slower(PostgresIndexLedger):
        """Lets another run record first what this one has found to be changed."""

        async def posts_to_index(self, *arguments: Any, **options: Any) -> list[search.IndexablePost]:
            return []

    report = await search.index_posts(library.tenant_id, ledger=Slower(library.database), index=library.index)
    assert (report.healed, report.points) == (True, 1)
    assert await library.index.post_ids(library.tenant_id, collection=collection) == {first}


async def test_another_encoder_gets_a_collection_of_its_own(library: Library) -> None:
    """Readers stay on the old collection until the new one is complete; then the old one is dropped."""
    post = await library.post("Выставка кошек")
    old = (await library.index_posts()).collection
    asked_during: list[int | None] = []

    class Watched(PostgresIndexLedger):
        async def record(self, tenant_id: TenantId, *arguments: Any, **options: Any) -> None:
            await super().record(tenant_id, *arguments, **options)
            aliases = await library.qdrant.get_collection_aliases(old)
            asked_during.append(len(aliases.aliases))

    report = await search.index_posts(
        library.tenant_id, ledger=Watched(library.database), index=library.index, encoder_version="v2-test"
    )
    assert asked_during == [1]
    assert (report.upserted, report.healed, report.ready) == (1, False, True)
    assert report.collection == f"{alias_name(library.tenant_id)}_v2-test"
    assert not await library.qdrant.collection_exists(old)
    assert await library.found("кошка") == {post: "words"}


async def test_a_share_is_indexed_at_a_time(library: Library) -> None:
    """What is indexed is found at once; the collection is held against the posts when the last share is done."""
    posts = [await library.post(f"Новость номер {number}") for number in range(5)]
    reports = [await library.index_posts(limit=3, page_size=2)]
    assert sorted(await library.found("новость")) == sorted(posts[:3])
    reports += [await library.index_posts(limit=3, page_size=2) for _ in range(2)]
    assert [(report.upserted, report.has_more, report.ready) for report in reports] == [
        (3, True, False),
        (2, False, True),
        (0, False, True),
    ]


async def test_readers_see_a_new_encoders_collection_when_the_last_share_is_done(library: Library) -> None:
    """Until then they have the old one, with all that is in it."""
    posts = [await library.post(f"Новость номер {number}") for number in range(3)]
    old = (await library.index_posts()).collection
    assert (await library.index_posts(limit=2, encoder_version="v2-test")).has_more
    assert sorted(await library.found("новость")) == sorted(posts)
    assert await library.qdrant.collection_exists(old)
    assert not (await library.index_posts(limit=2, encoder_version="v2-test")).has_more
    assert not await library.qdrant.collection_exists(old)
    assert sorted(await library.found("новость")) == sorted(posts)


async def test_posts_of_before_are_not_looked_at(library: Library) -> None:
    """But for those that the collection does not have at all, as when it is new or lost."""
    posts = [await library.post(f"Новость номер {number}") for number in range(3)]
    await library.index_posts()
    [last] = await library.database.pool.fetch("SELECT seq FROM posts WHERE id = $1", posts[-1])
    await library.database.pool.execute("UPDATE search_index SET content_hash = 'of before'")
    assert (await library.index_posts(since=NO_POST)).upserted == 0
    assert (await library.index_posts(since=last["seq"])).upserted == 1
    shares = [await library.index_posts(since=NO_POST, limit=2, encoder_version="v2-test") for _ in range(2)]
    assert [(report.upserted, report.ready) for report in shares] == [(2, False), (1, True)]
    await library.qdrant.delete_collection(shares[-1].collection)
    lost = await library.index_posts(since=NO_POST, encoder_version="v2-test")
    assert (lost.upserted, lost.healed, lost.ready) == (3, True, True)


async def test_readiness(library: Library) -> None:
    """No collection and an empty one are not ready; a server that does not answer lets the query go on."""
    assert not await search.is_ready(library.tenant_id, index=library.index)
    assert await library.find("кошка") == []
    await library.index_posts()
    assert not await search.is_ready(library.tenant_id, index=library.index)
    await library.post("Кошка")
    await library.index_posts()
    assert await search.is_ready(library.tenant_id, index=library.index)
    async with QdrantIndex("http://127.0.0.1:1", timeout_seconds=2) as absent:
        assert await search.is_ready(library.tenant_id, index=absent)
        with pytest.raises(IndexUnavailable):
            await search.search(library.tenant_id, "кошка", index=absent)


async def test_command_line(library: Library, parts: Settings, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says when there is no index yet, and shows hits with how they matched."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("QDRANT_URL", parts.qdrant_url or "")
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.command()(search_command)

    async def run(*arguments: str) -> Result:
        # The command has a loop of its own.
        return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--tenant", str(library.tenant_id)])

    answer = await run("кошка")
    assert (answer.exit_code, NOT_READY in answer.output) == (1, True)
    await library.post("Выставка [красных] кошек", ocr_text="Билеты в кассе")
    await library.index_posts()
    answer = await run("кошка")
    assert answer.exit_code == 0, answer.output
    assert "Выставка [красных] кошек" in answer.output
    assert "words" in answer.output
    answer = await run("былеты")
    assert "similar: билеты" in answer.output
    answer = await run("электросамокат")
    assert (answer.exit_code, "Nothing found" in answer.output) == (0, True)
    answer = await asyncio.to_thread(CliRunner().invoke, app, ["кошка", "--tenant", "nobody"])
    assert (answer.exit_code, "nobody" in answer.output) == (1, True)
