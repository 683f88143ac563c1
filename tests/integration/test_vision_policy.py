"""What the policy decides in the pass of `vision_results`, and what becomes of it: skipped, deferred, read, looked at.

What is not here: the rules themselves (`unit/test_policy.py`), and calls by several workers (`test_single_flight.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.bench import ROOM, Bench, NewBench
from tests.paid_provider import PaidProvider
from tests.pictures import photo
from tests.posted import Posted
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.budget import Allowance, BudgetLimits, Period
from vision_assets.core.errors import AnswerRefused, ConfigurationError, DatabaseUnavailable
from vision_assets.core.policy import OcrOnly, VisionPolicy, rules_fingerprint
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision_ledger import Decided, Medium, ToDo

NO_ROOM = BudgetLimits(tenant={"day": Allowance(0)})
CLOSED = VisionPolicy(skipped_channels=frozenset({"closed"}))
RUSSIAN = "Завтра утром в районе отключат воду, поэтому запасайтесь заранее и предупредите соседей."
ENGLISH = "The water will be cut off in the whole district tomorrow morning, so please fill your bottles."
GERMAN = "Morgen früh wird in der ganzen Gegend das Wasser abgestellt, bitte füllen Sie rechtzeitig Ihre Flaschen."
UKRAINIAN = "Завтра вранці в районі відключать воду, тому запасайтеся заздалегідь і попередьте своїх сусідів."
DECISIONS = "SELECT sha256, verdict, reason FROM vision_decisions WHERE tenant_id = $1 ORDER BY sha256"
COUNTED = """
SELECT labels->>'decision', labels->>'reason', value FROM counters
WHERE tenant_id = $1 AND name = 'vision_policy_decisions_total' ORDER BY 1, 2
"""
SHOWN = "SELECT picture->>'reason' FROM post_enrichment, jsonb_array_elements(data->'media') AS picture ORDER BY 1"


@pytest.fixture
async def bench(new_bench: NewBench) -> Bench:
    """A tenant without pictures."""
    return await new_bench("Payer")


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, ...]:
    """Four pictures that do not look alike, each larger than the one before."""
    files = tuple(tmp_path / f"{number}.jpg" for number in range(4))
    for number, file in enumerate(files):
        photo(320 + 80 * number, 240 + 60 * number, seed=number).save(file, quality=95)
    return files


@dataclass(frozen=True, slots=True)
class Late(PostgresVision):
    """Lets something happen before decisions are written."""

    meanwhile: Callable[[], Awaitable[object]]

    async def record_decisions(self, tenant_id: TenantId, decided: Sequence[Decided], *, todo: ToDo) -> int:
        """Write late."""
        await self.meanwhile()
        return await PostgresVision.record_decisions(self, tenant_id, decided, todo=todo)


def todo(bench: Bench, *, now: datetime, with_budget: bool = False) -> ToDo:
    """What the bench's pass would ask for at that time."""
    rules = rules_fingerprint(bench.policy, calls_cost=True)
    return ToDo(provider=bench.provider, rules=rules, now=now, with_budget=with_budget)


async def test_the_largest_of_an_album_are_analysed(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """The others have a row that says why; they are done as soon as the policy lets them."""
    await bench.show(Posted(pictures))
    small, large = bench.sha256s[:2], bench.sha256s[2:]
    report = await bench.analyse()
    assert sorted(bench.provider.calls) == sorted(large)
    assert report.reasons == {"over_post_cap": 2}
    assert await bench.rows(DECISIONS, bench.tenant.id) == [
        (sha256, "skip", "over_post_cap") for sha256 in sorted(small)
    ]
    messages = await bench.rows("SELECT message, due_at FROM vision_decisions ORDER BY message")
    crowd = "by size of 4 pictures in the post; max_pictures_per_post: 2"
    assert messages == [(f"number 3 {crowd}", None), (f"number 4 {crowd}", None)]
    assert await bench.count() == 0
    assert (await bench.analyse()).decisions == {}
    assert len(bench.provider.calls) == 2
    bench.policy = VisionPolicy(max_pictures_per_post=4)
    assert await bench.count() == 2
    assert (await bench.analyse()).analyses == 2
    assert sorted(bench.provider.calls) == sorted(bench.sha256s)
    assert await bench.rows(DECISIONS, bench.tenant.id) == []


async def test_enrichment_tells_why_a_picture_is_skipped(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """A post is made anew when its picture is decided, and again when that is taken back."""
    bench.world.provider = bench.provider
    await bench.show(Posted(pictures))
    await bench.world.enrich(bench.tenant)
    assert await bench.rows(SHOWN) == [("not_analysed",)] * 4
    await bench.analyse()
    await bench.world.enrich(bench.tenant)
    assert await bench.rows(SHOWN) == [("over_post_cap",), ("over_post_cap",), (None,), (None,)]
    assert not (await bench.world.enrich(bench.tenant)).statuses
    bench.policy = VisionPolicy(max_pictures_per_post=4)
    await bench.analyse()
    await bench.world.enrich(bench.tenant)
    assert await bench.rows(SHOWN) == [(None,)] * 4
    assert await bench.rows("SELECT status, error FROM post_enrichment") == [("ok", None)]


async def test_a_post_of_another_channel_brings_a_skipped_picture_back(
    bench: Bench, pictures: tuple[Path, ...]
) -> None:
    """A picture of a skipped channel is analysed once a further post shows it."""
    bench.policy = CLOSED
    await bench.show(Posted(pictures[:2], channel="closed"))
    assert (await bench.analyse()).reasons == {"channel_skipped": 2}
    await bench.show(Posted(pictures[:1], channel="open"))
    assert await bench.count() == 1
    assert (await bench.analyse()).analyses == 1
    assert bench.provider.calls == bench.sha256s[:1]
    assert await bench.rows(DECISIONS, bench.tenant.id) == [(bench.sha256s[1], "skip", "channel_skipped")]


async def test_a_free_provider_looks_at_the_whole_album(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """The rules that save calls are not asked for it, whatever the budget; those about the post and the type are."""
    bench.provider = PaidProvider(tokens=0, estimated_tokens=None)
    bench.policy = VisionPolicy(skipped_channels=frozenset({"closed"}), mime_types=frozenset({"image/jpeg"}))
    bench.limits = NO_ROOM
    drawing = pictures[0].with_name("drawing.png")
    photo(200, 150, seed=7).save(drawing)
    elsewhere = [pictures[0].with_name(f"{name}.jpg") for name in ("closed", "german")]
    for seed, file in enumerate(elsewhere, start=10):
        photo(seed=seed).save(file)
    await bench.show(Posted((*pictures, drawing)))
    album = bench.sha256s
    await bench.show(Posted((elsewhere[0],), channel="closed"))
    await bench.show(Posted((elsewhere[1],), text=GERMAN, message_id=20))
    report = await bench.analyse()
    assert sorted(bench.provider.calls) == sorted(album[:4])
    assert report.reasons == {"type_not_allowed": 1, "channel_skipped": 1, "language_not_analysed": 1}


@pytest.mark.parametrize("text", [GERMAN, UKRAINIAN])
async def test_a_post_in_another_language_is_skipped_until_it_is_edited(
    bench: Bench, pictures: tuple[Path, ...], text: str
) -> None:
    """Imported again with a text in Russian, its picture is looked at."""
    await bench.show(Posted(pictures[:1], text=text))
    assert (await bench.analyse()).reasons == {"language_not_analysed": 1}
    await bench.show(Posted(pictures[:1], text=text))
    assert await bench.count() == 0
    await bench.show(Posted(pictures[:1], text=RUSSIAN))
    assert await bench.count() == 1
    assert (await bench.analyse()).analyses == 1


@pytest.mark.parametrize("text", [RUSSIAN, ENGLISH, "Schön!", ""])
async def test_a_post_in_a_language_that_is_analysed_or_not_known_is_analysed(
    bench: Bench, pictures: tuple[Path, ...], text: str
) -> None:
    """Russian, English, too short to tell, and no text at all."""
    await bench.show(Posted(pictures[:1], text=text))
    assert (await bench.analyse()).analyses == 1


async def test_a_reference_that_comes_while_the_pass_runs_keeps_the_picture_to_do(
    bench: Bench, pictures: tuple[Path, ...]
) -> None:
    """A decision that did not look at it is not written; the others are."""
    bench.policy = CLOSED
    await bench.show(Posted(pictures[:2], channel="closed"))
    late = Late(bench.world.database, partial(bench.show, Posted(pictures[:1], channel="open")))
    assert (await bench.analyse(ledger=late)).reasons == {"channel_skipped": 2}
    assert await bench.rows(DECISIONS, bench.tenant.id) == [(bench.sha256s[1], "skip", "channel_skipped")]
    assert (await bench.analyse()).analyses == 1
    assert bench.provider.calls == bench.sha256s[:1]


@pytest.mark.parametrize(("period", "reason"), [("day", "daily_limit"), ("month", "monthly_limit")])
async def test_over_budget_pictures_wait_until_the_reset(
    bench: Bench, pictures: tuple[Path, ...], period: Period, reason: str
) -> None:
    """None is dropped: they are due at the reset, and at once when the limit is raised."""
    bench.policy = VisionPolicy(max_pictures_per_post=4)
    bench.limits = BudgetLimits(tenant={period: Allowance(2000)})
    bench.provider.tokens = 1792
    await bench.show(Posted(pictures))
    noon = (datetime.now(UTC) + timedelta(days=40)).replace(day=15, hour=12)
    report = await bench.analyse(await bench.gate(ago=datetime.now(UTC) - noon))
    assert (report.analyses, report.deferred) == (1, {reason: 3})
    midnight = noon.replace(hour=0, minute=0, second=0, microsecond=0)
    reset = midnight + timedelta(days=1) if period == "day" else (midnight + timedelta(days=20)).replace(day=1)
    assert await bench.rows("SELECT DISTINCT verdict, reason, due_at FROM vision_decisions") == [
        ("defer", reason, reset)
    ]
    ledger = PostgresVision(bench.world.database)
    for now, count in ((reset - timedelta(seconds=1), 0), (reset, 3)):
        assert await ledger.count_unanalysed(bench.tenant.id, todo(bench, now=now)) == count
    assert not await bench.is_due(reset - timedelta(seconds=1))
    assert await bench.is_due(reset)
    bench.limits = ROOM
    assert await bench.count() == 3
    assert (await bench.analyse()).analyses == 3
    assert sorted(bench.provider.calls) == sorted(bench.sha256s)
    assert await bench.rows(DECISIONS, bench.tenant.id) == []


def reading(bench: Bench) -> PaidProvider:
    """Give a bench a local provider, and take its budget away."""
    bench.local = PaidProvider(tokens=0, text="прочитано", name="local", model="rules", estimated_tokens=None)
    bench.limits = NO_ROOM
    return bench.local


async def test_over_budget_texts_are_read(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """The result is kept in Postgres alone, shown, not made twice, and replaced as soon as there is room."""
    bench.world.provider = bench.provider
    bench.policy = VisionPolicy(max_pictures_per_post=4)
    local = reading(bench)
    await bench.show(Posted(pictures))
    report = await bench.analyse()
    assert (bench.provider.calls, sorted(local.calls)) == ([], sorted(bench.sha256s))
    assert (report.methods, report.analyses) == ({"fallback": 4}, 0)
    rows = "SELECT DISTINCT method, s3_key, reason, provenance->>'provider', tokens_used FROM vision_results"
    assert await bench.rows(rows) == [("fallback", None, "ocr_only_type_over_budget", "local", 0)]
    assert await bench.world.keys("vision/") == {}
    await bench.world.enrich(bench.tenant)
    assert await bench.rows("SELECT data->>'ocr_text', data->>'provider' FROM post_enrichment") == [
        ("прочитано", "local")
    ]
    await bench.analyse()
    await bench.wait_until_due()
    assert (await bench.analyse()).methods == {}
    assert len(local.calls) == 4
    bench.limits = ROOM
    assert (await bench.analyse()).analyses == 4
    assert await bench.rows("SELECT DISTINCT method, s3_key IS NOT NULL, reason FROM vision_results") == [
        ("new", True, None)
    ]
    assert len(await bench.world.keys(f"vision/{bench.tenant.id}/")) == 4
    assert await bench.rows(DECISIONS, bench.tenant.id) == []
    await bench.world.enrich(bench.tenant)
    assert await bench.rows("SELECT data->>'ocr_text', data->>'provider' FROM post_enrichment") == [
        ("без цифр", "paid")
    ]


async def test_what_was_read_is_given_to_no_copy(bench: Bench, tmp_path: Path) -> None:
    """A near-duplicate takes the provider's answer, never a text that was read for want of it."""
    local = reading(bench)
    local.text = bench.provider.text
    first = photo(seed=1)
    for name, picture in (("1.jpg", first), ("2.jpg", first.resize((480, 360)))):
        picture.save(tmp_path / name)
    await bench.show(Posted((tmp_path / "1.jpg",)))
    await bench.analyse()
    await bench.show(Posted((tmp_path / "2.jpg",), message_id=20))
    report = await bench.analyse()
    assert (report.methods, local.calls) == ({"fallback": 1}, bench.sha256s)
    bench.limits = ROOM
    assert (await bench.analyse()).methods == {"new": 1, "near_duplicate": 1}
    assert bench.provider.calls == bench.sha256s[:1]


async def test_an_answer_of_an_earlier_prompt_is_not_replaced_by_a_text(
    bench: Bench, pictures: tuple[Path, ...]
) -> None:
    """Until the provider answers the new prompt, the old answer is better than what is read for want of it."""
    await bench.show(Posted(pictures[:1]))
    await bench.analyse()
    answer = await bench.rows("SELECT * FROM vision_results")
    reading(bench)
    bench.provider.fingerprint = "prompt-2"
    await bench.analyse()
    assert await bench.rows("SELECT * FROM vision_results") == answer
    bench.limits = ROOM
    assert (await bench.analyse()).analyses == 1
    assert await bench.rows("SELECT fingerprint, method FROM vision_results") == [("prompt-2", "new")]


async def test_types_whose_text_alone_is_read_are_never_paid_for(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """With room in the budget they are read all the same, and stay so until the rules change."""
    local = reading(bench)
    bench.limits = ROOM
    bench.policy = VisionPolicy(ocr_only=OcrOnly(when="always"))
    await bench.show(Posted(pictures[:1]))
    assert (await bench.analyse()).methods == {"fallback": 1}
    assert await bench.rows("SELECT verdict, reason, due_at FROM vision_decisions") == [
        ("ocr_only", "ocr_only_type", None)
    ]
    assert await bench.count() == 0
    assert (bench.provider.calls, len(local.calls)) == ([], 1)
    bench.policy = VisionPolicy()
    assert (await bench.analyse()).analyses == 1


@pytest.mark.parametrize(
    ("over_budget", "row"),
    [("defer", ("defer", "daily_limit", 0)), ("ocr", ("ocr_only", "over_budget_ocr", 1))],
)
async def test_other_types_wait_or_are_read(
    bench: Bench, pictures: tuple[Path, ...], over_budget: str, row: tuple[object, ...]
) -> None:
    """What is none of `ocr_only.mime_types` waits or is read, as `over_budget` says, until there is room."""
    local = reading(bench)
    only_png = OcrOnly(mime_types=frozenset({"image/png"}))
    bench.policy = VisionPolicy.model_validate({"over_budget": over_budget, "ocr_only": only_png})
    await bench.show(Posted(pictures[:1]))
    await bench.analyse()
    assert [
        (*found, len(local.calls)) for found in await bench.rows("SELECT verdict, reason FROM vision_decisions")
    ] == [row]
    assert await bench.count() == 0
    bench.limits = ROOM
    assert (await bench.analyse()).analyses == 1


async def test_a_refused_answer_is_kept(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """What the provider really said stands beside the refusal."""

    async def refuse() -> None:
        raise AnswerRefused("answer_invalid", "No JSON.", tokens_used=9, raw_reply="Не могу помочь.")

    bench.provider.thinking = refuse
    await bench.show(Posted(pictures[:1]))
    assert (await bench.analyse()).statuses == {"error": 1}
    kept = await bench.rows("SELECT status, reason, provenance->>'raw_reply' FROM vision_results")
    assert kept == [("error", "answer_invalid", "Не могу помочь.")]


async def test_decisions_are_counted(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """The counters add up to the decisions of all passes, by verdict and reason; what needs none counts for none."""
    await bench.show(Posted(pictures))
    bench.policy = VisionPolicy(ocr_only=OcrOnly(when="never"))
    bench.provider.tokens = 1792
    bench.limits = BudgetLimits(tenant={"day": Allowance(2000)})
    await bench.analyse()
    counted = [("analyse", "allowed", 1), ("defer", "over_budget_deferred", 1), ("skip", "over_post_cap", 2)]
    assert await bench.rows(COUNTED, bench.tenant.id) == counted
    await bench.analyse()
    assert await bench.rows(COUNTED, bench.tenant.id) == counted
    bench.limits = ROOM
    await bench.analyse()
    counted[0] = ("analyse", "allowed", 2)
    assert await bench.rows(COUNTED, bench.tenant.id) == counted


async def test_a_pass_that_dies_before_its_decisions_are_written(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """The next pass decides the same; calls under way end first, and nothing is paid for twice."""
    await bench.show(Posted(pictures))

    async def die() -> None:
        raise DatabaseUnavailable("gone")

    with pytest.raises(DatabaseUnavailable):
        await bench.analyse(ledger=Late(bench.world.database, die))
    assert await bench.rows(DECISIONS, bench.tenant.id) == []
    report = await bench.analyse()
    assert report.reasons == {"over_post_cap": 2}
    assert sorted(bench.provider.calls) == sorted(bench.sha256s[2:])
    window = await bench.day()
    assert (window.used_tokens, window.used_requests, window.held_tokens) == (2 * 700, 2, 0)
    assert await bench.count() == 0


async def test_an_edit_while_the_pass_runs_keeps_the_picture_to_do(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """A decision about a text that has changed since it was read is not written."""
    await bench.show(Posted(pictures[:1], text=GERMAN))
    late = Late(bench.world.database, partial(bench.show, Posted(pictures[:1], text=RUSSIAN)))
    assert (await bench.analyse(ledger=late)).reasons == {"language_not_analysed": 1}
    assert await bench.count() == 1
    assert (await bench.analyse()).analyses == 1


async def test_a_decision_that_is_overtaken_leaves_something_to_do(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """Although nothing brings the tenant in line, as when the views of a post are counted meanwhile."""
    await bench.show(Posted(pictures[:1], text=GERMAN))
    views = partial(bench.rows, "UPDATE posts SET engagement = '{\"views\": 7}'")
    assert (await bench.analyse(ledger=Late(bench.world.database, views))).has_more
    assert await bench.count() == 1
    assert not (await bench.analyse()).has_more
    assert await bench.count() == 0


async def test_texts_alone_need_somebody_who_reads_them(bench: Bench) -> None:
    """Without a local provider, pictures that must never be paid for are not paid for."""
    bench.policy = VisionPolicy(ocr_only=OcrOnly(when="always"))
    with pytest.raises(ConfigurationError, match="ocr_only"):
        await bench.analyse()


async def test_a_decision_does_not_outlive_an_answer(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """What another worker has done since is not deferred, so nobody is called for it later."""
    await bench.show(Posted(pictures[:1]))
    bench.limits = NO_ROOM
    gate = await bench.gate()
    bench.limits = ROOM
    assert (await bench.analyse(gate, ledger=Late(bench.world.database, bench.analyse))).deferred == {"daily_limit": 1}
    assert bench.provider.calls == bench.sha256s
    assert await bench.rows(DECISIONS, bench.tenant.id) == []


async def test_calls_under_way_end_before_a_failure_of_the_registry(bench: Bench, pictures: tuple[Path, ...]) -> None:
    """When the list of pictures breaks off in the middle of a paid call, its answer is kept, and paid for once."""
    await bench.show(Posted(pictures[:1]))
    called, broken = asyncio.Event(), asyncio.Event()

    class BreaksOff(PostgresVision):
        """Cannot be reached for what is due."""

        async def unanalysed(
            self, tenant_id: TenantId, todo: ToDo, *, after: tuple[int, int, str], limit: int
        ) -> Sequence[Medium]:
            """List what is new."""
            if todo.part == "new":
                return await PostgresVision.unanalysed(self, tenant_id, todo, after=after, limit=limit)
            await called.wait()
            broken.set()
            raise DatabaseUnavailable("gone")

    async def think() -> None:
        called.set()
        await broken.wait()

    bench.provider.thinking = think
    gate = await bench.gate()
    one_pass = bench.one_pass(gate, world=bench.world, ledger=BreaksOff(bench.world.database))
    one_pass.limit = 2
    with pytest.raises(DatabaseUnavailable):
        await one_pass.analyse_media()
    await gate.aclose()
    assert (await bench.day()).used_tokens == 700
    assert await bench.count() == 0


async def test_decisions_of_one_tenant_never_touch_another(
    bench: Bench, new_bench: NewBench, pictures: tuple[Path, ...]
) -> None:
    """The same picture, looked at for one tenant, skipped for another and deferred for a third."""
    other, third = await new_bench("Other"), await new_bench("Third")
    bench.policy, third.limits, third.policy = CLOSED, NO_ROOM, VisionPolicy(ocr_only=OcrOnly(when="never"))
    for one in (bench, other, third):
        await one.show(Posted(pictures[:1], channel="closed"))
    skipped, deferred = (bench.sha256s[0], "skip", "channel_skipped"), (bench.sha256s[0], "defer", "daily_limit")
    await bench.analyse()
    await third.analyse()
    assert (await bench.count(), await other.count(), await third.count()) == (0, 1, 0)
    await other.analyse()
    assert (bench.provider.calls, other.provider.calls, third.provider.calls) == ([], bench.sha256s, [])
    # Neither a result, nor a further post, nor an edit, nor room in the budget of one changes another's decision.
    await other.show(Posted(pictures[:1], channel="open"))
    await other.show(Posted(pictures[:1], text=RUSSIAN, channel="closed"))
    await other.analyse()
    assert await bench.rows(DECISIONS, bench.tenant.id) == [skipped]
    assert await bench.rows(DECISIONS, other.tenant.id) == []
    assert await bench.rows(DECISIONS, third.tenant.id) == [deferred]
    assert await bench.rows(COUNTED, third.tenant.id) == [("defer", "over_budget_deferred", 1)]


async def test_what_was_decided_about_another_provider_is_forgotten(bench: Bench, tmp_path: Path) -> None:
    """When a tenant changes its provider, nothing waits any more for calls to the one before."""
    photo(320, 240, seed=1).save(tmp_path / "1.jpg")
    await bench.show(tmp_path)
    bench.limits = NO_ROOM
    await bench.analyse()
    assert await bench.rows("SELECT model FROM vision_decisions") == [("test-1",)]
    bench.provider.model = "test-2"
    await bench.analyse()
    assert await bench.rows("SELECT model FROM vision_decisions") == [("test-2",)]
