"""A quote tells what the pass then does, over the real Postgres and S3; and it changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg2
import pytest
from PIL import Image
from psycopg2 import sql
from typer.testing import CliRunner, Result

from tests.paid_provider import PaidProvider
from tests.pictures import photo
from tests.world import ROOMY, World
from vision_assets.cli import app
from vision_assets.clients.local_vision import LocalVision
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.quote import PostgresQuote
from vision_assets.clients.postgres.reuse import deny
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.analysis import VisionPass
from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import AnswerRefused
from vision_assets.core.policy import OcrOnly, VisionPolicy
from vision_assets.core.price import TokenPrice
from vision_assets.core.quote import Quote, Work
from vision_assets.core.quoting import Quoting
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision import VisionProvider
from vision_assets.core.vision_ledger import ToDo
from vision_assets.core.vision_report import VisionReport
from vision_assets.settings import Settings

PRICE = TokenPrice(Decimal(1500), "RUB")
SIZE = (320, 240)


def copy_of(seed: int) -> Image.Image:
    """The same picture, smaller."""
    return photo(*SIZE, seed=seed).resize((240, 180), Image.Resampling.LANCZOS)


@dataclass(slots=True)
class Backfill:
    """A tenant with stored pictures, to be quoted and then done."""

    world: World
    budget: PostgresBudget
    tenant: Tenant
    folder: Path
    provider: VisionProvider = field(default_factory=PaidProvider)
    policy: VisionPolicy = field(default_factory=VisionPolicy)
    limits: BudgetLimits = field(default_factory=BudgetLimits)
    local: VisionProvider | None = None

    async def store(self, pictures: dict[str, Image.Image]) -> None:
        """Import pictures, by file name in the order of the names, and store them."""
        folder = self.folder / f"{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        for name, picture in pictures.items():
            picture.save(folder / name)
        await self.world.load(self.tenant, folder)
        await self.world.store_media(self.tenant)

    async def quote(self, database: Database | None = None) -> Quote:
        """Tell what it takes."""
        database = database or self.world.database
        return await Quoting(
            tenant_id=self.tenant.id,
            provider=self.provider,
            ledger=PostgresQuote(database),
            policy=self.policy,
            gate=BudgetGate(PostgresBudget(database), self.limits),
            has_local=self.local is not None,
            concurrency=1,
            price=PRICE,
        ).quote()

    async def analyse(self, *, store: ObjectStore | None = None) -> VisionReport:
        """Do it: one call after the other."""
        async with aclosing(BudgetGate(self.budget, self.limits)) as gate:
            return await VisionPass(
                tenant_id=self.tenant.id,
                provider=self.provider,
                store=store or self.world.bucket,
                quota=self.world.quota(),
                ledger=PostgresVision(self.world.database),
                policy=self.policy,
                gate=gate,
                local=self.local,
                concurrency=1,
                price=PRICE,
            ).analyse_media()

    async def execute(self, statement: str) -> None:
        """Run a statement."""
        await self.world.database.pool.execute(statement)


@pytest.fixture
async def backfill(tmp_path: Path, world: World, database: str) -> AsyncIterator[Backfill]:
    """A tenant without pictures yet."""
    async with PostgresBudget.open(database) as budget:
        yield Backfill(world, budget, await world.tenant("Payer"), tmp_path)


POLICY = VisionPolicy(mime_types=frozenset({"image/jpeg", "image/bmp"}), max_image_bytes=200_000)


async def of_every_kind(backfill: Backfill) -> None:
    """Leave pictures whose results are there, in S3 alone and in Postgres alone; then new ones and copies of all."""
    backfill.policy = POLICY
    await backfill.store({f"{seed}.jpg": photo(*SIZE, seed=seed) for seed in range(4)})
    await backfill.analyse()
    await backfill.store({f"{seed}.jpg": photo(*SIZE, seed=seed) for seed in (10, 11)})
    backfill.world.limits = replace(ROOMY, type_bytes={**ROOMY.type_bytes, "vision": 1})
    await backfill.analyse()
    backfill.world.limits = ROOMY
    first_two = "SELECT sha256 FROM media_objects ORDER BY first_post_seq LIMIT 2"
    await backfill.execute(f"DELETE FROM vision_results WHERE sha256 IN ({first_two})")  # noqa: S608
    await backfill.store(
        {
            **{f"a{seed}.jpg": photo(*SIZE, seed=seed) for seed in range(20, 24)},
            "b.jpg": copy_of(2),  # of one that is done
            "c.jpg": copy_of(0),  # of one whose result lies in S3 alone
            "d.jpg": copy_of(10),  # of one whose result is in Postgres alone
            "e.jpg": copy_of(20),  # of one that is to do
            "f.jpg": copy_of(20).resize((200, 150)),
            "g.png": photo(*SIZE, seed=30),
            "h.jpg": copy_of(30),  # of one that is skipped
            "i.bmp": photo(*SIZE, seed=31),
            "j.png": copy_of(20),  # what is free comes before the policy
        }
    )


async def test_the_pass_does_what_was_quoted(backfill: Backfill) -> None:
    """Results in S3 or Postgres alone, near-duplicates of what is done and of what is to do, skips: all as told."""
    await of_every_kind(backfill)
    quote = await backfill.quote()
    assert quote.work == Work(
        media=17,
        in_storage=2,
        kept=2,
        near_duplicates=6,
        skipped={"type_not_allowed": 1, "image_too_large": 1},
        analyses=5,
        analyses_at_most=10,
    )
    assert (quote.calls, quote.tokens, quote.tokens_at_most) == (5, 5 * 704, 10 * 1792)
    before = len(paid(backfill).calls)
    report = await backfill.analyse()
    assert report.failures == []
    assert report.analyses == len(paid(backfill).calls) - before == quote.calls
    assert report.methods == {"cache_hit": 4, "near_duplicate": 6, "new": 5}
    assert report.reasons == quote.work.skipped


async def test_look_alikes_are_those_of_the_pass(backfill: Backfill) -> None:
    """Asked for many pictures at once, they are the same as asked for one; and each knows whether a later one asks."""
    await of_every_kind(backfill)
    provider, tenant_id = backfill.provider, backfill.tenant.id
    todo = ToDo(provider=provider, rules="none", now=datetime.now(UTC), with_budget=True)
    quoted, passed = PostgresQuote(backfill.world.database), PostgresVision(backfill.world.database)
    media = await passed.unanalysed(tenant_id, todo, after=(-1, -1, ""), limit=100)
    found = await quoted.near(tenant_id, media, provider=provider)
    alone = {
        medium.sha256: list(await passed.earlier_neighbours(tenant_id, medium, provider=provider)) for medium in media
    }
    assert {sha256: list(near.earlier) for sha256, near in found.items() if near.earlier} == {
        sha256: neighbours for sha256, neighbours in alone.items() if neighbours
    }
    asked_for = {neighbour.sha256 for neighbours in alone.values() for neighbour in neighbours}
    assert {sha256 for sha256, near in found.items() if near.is_awaited} >= asked_for & set(alone)
    assert len(asked_for & set(alone)) == 6


async def test_answers_that_may_not_be_reused(backfill: Backfill) -> None:
    """Should every answer hold a digit, the calls are at most as many as told."""
    backfill.provider = PaidProvider(text="5 минут")
    pictures = {"a.jpg": photo(*SIZE, seed=1), "b.jpg": copy_of(1), "c.jpg": copy_of(1).resize((200, 150))}
    await backfill.store(pictures | {"d.jpg": photo(*SIZE, seed=2)})
    quote = await backfill.quote()
    assert (quote.calls, quote.calls_at_most, quote.work.near_duplicates) == (2, 4, 2)
    assert (await backfill.analyse()).analyses == 4


async def test_what_was_taken_from_a_denied_picture_is_to_be_paid_for(backfill: Backfill) -> None:
    """Though its result lies in S3: neither that nor the denied one is an answer, and the quote says so before."""
    await backfill.store({"a.jpg": photo(*SIZE, seed=1), "b.jpg": copy_of(1)})
    assert (await backfill.analyse()).methods == {"new": 1, "near_duplicate": 1}
    row = await backfill.world.database.pool.fetchrow("SELECT donor_sha256 FROM vision_results WHERE method <> 'new'")
    assert row is not None
    assert await deny(backfill.world.database, backfill.tenant.id, row["donor_sha256"], reason="never") == 1
    assert (await backfill.quote()).work == Work(media=1, analyses=1, analyses_at_most=1)
    assert (await backfill.analyse()).methods == {"new": 1}


async def test_where_nothing_is_reused_every_picture_is_quoted(backfill: Backfill) -> None:
    """A tenant whose policy says never pays for each copy, as told."""
    backfill.policy = VisionPolicy(reuse="never")
    await backfill.store({"a.jpg": photo(*SIZE, seed=1), "b.jpg": copy_of(1)})
    assert (await backfill.quote()).work == Work(media=2, analyses=2, analyses_at_most=2)
    assert (await backfill.analyse()).analyses == 2


async def test_results_of_another_question_do_not_count(backfill: Backfill) -> None:
    """Their objects lie under the same key, and the pass looks again, as told."""
    await backfill.store({f"{seed}.jpg": photo(*SIZE, seed=seed) for seed in range(3)})
    await backfill.analyse()
    assert (await backfill.quote()).work == Work()
    backfill.provider = PaidProvider(fingerprint="prompt-2")
    quote = await backfill.quote()
    assert (quote.calls, quote.work.in_storage) == (3, 0)
    assert (await backfill.analyse()).analyses == 3


async def test_what_the_budget_lets_through(backfill: Backfill) -> None:
    """Calls of today are those that the pass then makes, and what waits for the budget is still part of the quote."""
    await backfill.store({f"{seed}.jpg": photo(*SIZE, seed=seed) for seed in range(9)})
    backfill.limits = BudgetLimits(tenant={"day": Allowance(1792 + 2 * 700)})
    unlearned = await backfill.quote()
    assert (unlearned.calls, unlearned.tokens, unlearned.settled_calls) == (9, 9 * 1792, 0)
    assert (await backfill.analyse()).analyses == 3
    backfill.limits = BudgetLimits(tenant={"day": Allowance(1792 + 5 * 700 + 300)})
    quote = await backfill.quote()
    assert (quote.calls, quote.tokens, quote.settled_calls) == (6, 6 * 704, 3)
    assert (quote.calls_today, quote.days) == (3, 2)
    report = await backfill.analyse()
    assert (report.analyses, report.deferred) == (3, {"daily_limit": 3})
    exhausted = await backfill.quote()
    assert (exhausted.calls, exhausted.calls_today, exhausted.days) == (3, 0, 2)
    assert (await backfill.analyse()).analyses == 0
    backfill.limits = BudgetLimits()
    assert (await backfill.quote()).calls_today == 3
    assert (await backfill.analyse()).analyses == 3


async def test_texts_that_are_read_at_no_cost(backfill: Backfill) -> None:
    """Where the policy asks for the text alone the local provider reads it; that is no call, and answers no copy."""
    backfill.policy = VisionPolicy(ocr_only=OcrOnly(mime_types=frozenset({"image/png"}), when="always"))
    await backfill.store({"a.png": photo(*SIZE, seed=1), "b.jpg": copy_of(1), "c.png": photo(*SIZE, seed=2)})
    async with LocalVision.open() as backfill.local:
        quote = await backfill.quote()
        assert quote.work == Work(media=3, text_only=2, analyses=1, analyses_at_most=1)
        report = await backfill.analyse()
    assert (report.analyses, report.methods["fallback"]) == (1, 2)


async def test_a_free_provider(backfill: Backfill) -> None:
    """It looks at all pictures, and that is no call."""
    backfill.provider = PaidProvider(estimated_tokens=None, tokens=0)
    await backfill.store({f"{seed}.jpg": photo(*SIZE, seed=seed) for seed in range(3)})
    quote = await backfill.quote()
    assert (quote.work.analyses, quote.calls, quote.tokens, quote.days) == (3, 0, 0, 0)
    assert (await backfill.analyse()).analyses == 3


async def test_how_long_calls_take_is_learned(backfill: Backfill) -> None:
    """Each answer is measured for its tenant and provider; before the first one an assumption stands in."""
    await backfill.store({f"{seed}.jpg": photo(*SIZE, seed=seed) for seed in range(3)})
    quote = await backfill.quote()
    assert (quote.measured_calls, quote.seconds) == (0, 3 * 5.0)
    await backfill.analyse()
    rows = await backfill.world.database.pool.fetch(
        "SELECT labels FROM counters WHERE name = 'vision_analysis_duration_milliseconds_total' AND tenant_id = $1",
        backfill.tenant.id,
    )
    assert [row["labels"] for row in rows] == [{"model": "test-1", "provider": "paid"}]
    await backfill.execute(
        "UPDATE counters SET value = 4500 WHERE name = 'vision_analysis_duration_milliseconds_total'"
    )
    await backfill.store({f"{seed}.jpg": photo(*SIZE, seed=seed) for seed in (5, 6)})
    quote = await backfill.quote()
    assert (quote.measured_calls, quote.seconds) == (3, 2 * 1.5)
    backfill.provider = PaidProvider(model="test-2")
    assert (await backfill.quote()).measured_calls == 0


async def test_results_say_what_they_cost(backfill: Backfill) -> None:
    """In Postgres and in S3: the tokens as billed at the price; what was reused cost nothing."""
    await backfill.store({"a.jpg": photo(*SIZE, seed=1), "b.jpg": copy_of(1), "c.jpg": photo(*SIZE, seed=2)})
    await backfill.analyse()
    rows = await backfill.world.database.pool.fetch(
        "SELECT method, tokens_used, cost_microunits, (result ->> 'cost_microunits')::bigint AS told"
        " FROM vision_results ORDER BY method, sha256"
    )
    cost = 700 * 1500
    assert [tuple(row) for row in rows] == [("near_duplicate", 0, 0, 0), *[("new", 700, cost, cost)] * 2]


async def test_an_answer_that_is_refused_costs_too(backfill: Backfill) -> None:
    """What was billed for it stands beside its error."""
    await backfill.store({"a.jpg": photo(*SIZE, seed=1)})

    async def refuse() -> None:
        raise AnswerRefused("blacklist", "The provider will not say.", tokens_used=9)

    paid(backfill).thinking = refuse
    await backfill.analyse()
    row = await backfill.world.database.pool.fetchrow("SELECT status, cost_microunits FROM vision_results")
    assert tuple(row or ()) == ("error", 9 * 1500)


async def test_nothing_is_changed(backfill: Backfill, database: str, parts: Settings) -> None:
    """A quote needs no leave to write: neither the core nor the command."""
    await of_every_kind(backfill)
    execute(database, "ALTER DATABASE {} SET default_transaction_read_only = on")
    async with Database.open(database) as read_only:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await read_only.pool.execute("DELETE FROM vision_results")
        assert (await backfill.quote(read_only)).calls == 5
    told = await asyncio.to_thread(typed, database, "--json")
    assert told.exit_code == 0, told.output


def paid(backfill: Backfill) -> PaidProvider:
    """The tenant's provider."""
    assert isinstance(backfill.provider, PaidProvider)
    return backfill.provider


def execute(database: str, statement: str) -> None:
    """Run a statement about the database itself; `{}` stands for its name."""
    with closing(psycopg2.connect(database)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(sql.Identifier(urlsplit(database).path[1:])))


def typed(database: str, *arguments: str, **settings: str) -> Result:
    """Type the command, in a wide terminal, for a policy without limits of posts and GigaChat as the provider."""
    environment = {
        "COLUMNS": "300",
        "DATABASE_URL": database,
        "VISION_PROVIDER": "gigachat",
        "GIGACHAT_MODEL": "GigaChat-2-Max",
        "GIGACHAT_SCOPE": "GIGACHAT_API_B2B",
        "VISION_POLICY_FILE": "",
        **settings,
    }
    return CliRunner(env=environment).invoke(app, ["quote", *arguments])


def cells(result: Result, name: str) -> list[str]:
    """Read a tenant's figures: of its pictures, and of what they take."""
    lines = [line for line in result.stdout.splitlines() if line.startswith(f"│ {name} ")]
    return [cell.strip() for line in lines for cell in line.strip("│").split("│")[1:]]


async def test_two_tenants_on_the_command_line(backfill: Backfill, database: str) -> None:
    """A row each and a total; one tenant alone; the same as JSON; without a connection to the provider."""
    other = replace(backfill, tenant=await backfill.world.tenant("[b]Бета"))
    await backfill.store({"a.jpg": photo(*SIZE, seed=1), "b.jpg": copy_of(1), "c.jpg": photo(*SIZE, seed=2)})
    await other.store({"d.jpg": photo(*SIZE, seed=1), "e.bmp": photo(*SIZE, seed=3)})
    await other.execute(
        """UPDATE tenants SET settings = '{"vision": {"mime_types": ["image/jpeg"]}}' WHERE name LIKE '%Бета'"""
    )

    told = await asyncio.to_thread(typed, database, "--json", VISION_PRICE_PER_MILLION_TOKENS="2000.5")
    assert told.exit_code == 0, told.output
    document: dict[str, Any] = json.loads(told.stdout)
    by_name = {one["tenant"]: one for one in document["tenants"]}
    beta, payer = by_name.pop("[b]Бета"), by_name.pop("Payer")
    assert (beta["tenant_id"], by_name) == (str(other.tenant.id), {})
    assert (beta["media"], beta["calls"], beta["skipped"]) == (2, 1, {"type_not_allowed": 1})
    assert (payer["media"], payer["calls"], payer["calls_at_most"], payer["near_duplicates"]) == (3, 2, 3, 1)
    assert document["total"]["calls"] == 3
    assert document["total"]["tokens"] == beta["tokens"] + payer["tokens"] > 0
    assert document["total"]["cost_microunits"] == document["total"]["tokens"] * 2000.5
    assert document["total"]["currency"] == "RUB"

    shown = await asyncio.to_thread(typed, database)
    assert cells(shown, "[b]Бета")[:7] == ["2", "0", "0", "1", "0", "1", "1"]
    assert cells(shown, "total")[:7] == ["5", "0", "1", "1", "0", "3", "3"]
    assert cells(shown, "total")[8:] == ["no price set", "3", "1", "0:00:08"]
    assert " ≤ 4 │" in shown.stdout
    assert "no call measured yet; 5 s a call are assumed" in shown.stdout
    assert "type_not_allowed" in shown.stdout
    alone = await asyncio.to_thread(typed, database, "--tenant", "Payer")
    assert "Бета" not in alone.stdout
    assert cells(alone, "total") == cells(alone, "Payer")


async def test_nothing_to_do(backfill: Backfill, database: str) -> None:
    """All zeros, and a line for people."""
    assert await backfill.quote() == Quote(
        work=Work(),
        calls=0,
        calls_at_most=0,
        tokens=0,
        tokens_at_most=0,
        cost_microunits=0,
        cost_at_most_microunits=0,
        currency="RUB",
        calls_today=0,
        days=0,
        seconds=0,
        measured_calls=0,
        settled_calls=0,
    )
    told = await asyncio.to_thread(typed, database)
    assert (told.exit_code, told.stdout) == (
        0,
        "Nothing to do: every picture has its result, or a decision why it gets none.\n",
    )


async def test_one_tenants_wrong_settings(backfill: Backfill, database: str) -> None:
    """The others are quoted all the same, and the command fails with what is wrong."""
    await backfill.store({"a.jpg": photo(*SIZE, seed=1)})
    await backfill.world.tenant("Wrong")
    await backfill.execute("""UPDATE tenants SET settings = '{"vision": {"cap": 1}}' WHERE name = 'Wrong'""")
    told = await asyncio.to_thread(typed, database)
    assert told.exit_code == 1
    assert cells(told, "Payer")[0] == "1"
    assert "vision.cap" in told.stderr
