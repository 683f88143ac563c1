"""Calls that cost, made by the pass of `vision_results`: one a picture, whoever else works, and none without budget.

What is not here: the gate by itself (`test_budget_defects.py`).
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from tests.bench import ROOM, Bench, NewBench, soon
from tests.paid_provider import at_once
from tests.pictures import photo
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.analysis import MAX_CHARGED_ATTEMPTS, VisionPass
from vision_assets.core.budget import HOLD_LIFE, Allowance, BudgetLimits
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import (
    AnswerRefused,
    ConfigurationError,
    DatabaseConflict,
    InputRejected,
    ProviderUnavailable,
    StorageUnavailable,
)
from vision_assets.core.reuse import Judged
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import VisionProvider, VisionResult
from vision_assets.core.vision_ledger import Medium
from vision_assets.core.vision_report import VisionReport

Pictures = Callable[[dict[str, Image.Image]], Awaitable[Bench]]


@pytest.fixture
def with_pictures(tmp_path: Path, new_bench: NewBench) -> Pictures:
    """Store pictures, given by file name, for a tenant."""

    async def make(pictures: dict[str, Image.Image]) -> Bench:
        for name, picture in pictures.items():
            picture.save(tmp_path / name)
        bench = await new_bench("Payer")
        await bench.show(tmp_path)
        return bench

    return make


@pytest.fixture
async def bench(with_pictures: Pictures) -> Bench:
    """Six pictures that do not look alike."""
    return await with_pictures({f"{seed}.jpg": photo(320, 240, seed=seed) for seed in range(6)})


async def test_two_workers_make_one_call_a_picture(bench: Bench) -> None:
    """Two passes over the same tenant at once pay for each picture once; both end with nothing left to do."""

    async def think() -> None:
        await asyncio.sleep(0.05)

    bench.provider.thinking = think
    workers = [await bench.worlds() for _ in range(2)]
    reports = await asyncio.gather(*(bench.analyse(world=world) for world in workers))
    assert sorted(bench.provider.calls) == sorted(bench.sha256s)
    assert sum(report.analyses for report in reports) == 6
    assert not any(report.failures or report.deferred for report in reports)
    window = await bench.day()
    assert (window.used_tokens, window.used_requests, window.held_tokens) == (6 * 700, 6, 0)
    assert await bench.rows("SELECT count(*), sum(tokens_used) FROM vision_results WHERE status = 'ok'") == [(6, 4200)]


async def test_a_dead_workers_call_is_made_again(bench: Bench) -> None:
    """A worker that died in its call blocks that picture until its hold expires; then the call is made again."""
    await bench.leave_a_hold(bench.sha256s[0], ago=timedelta(seconds=10))
    report = await bench.analyse()
    assert bench.sha256s[0] not in bench.provider.calls
    assert report.deferred == {"in_flight": 1}
    waiting = "SELECT reason, due_at > now() + interval '5 minutes' FROM vision_decisions"
    assert await bench.rows(waiting) == [("in_flight", True)], "a run is started then, should there be none before"
    await bench.world.database.pool.execute("UPDATE budget_holds SET expires_at = now()")
    report = await bench.analyse()
    assert bench.provider.calls.count(bench.sha256s[0]) == 1
    assert not report.deferred
    window = await bench.day()
    assert (window.used_tokens, window.phantom_tokens, window.held_tokens) == (6 * 700 + 1792, 1792, 0)


async def test_a_picture_that_kills_its_workers_is_given_up(bench: Bench) -> None:
    """After three calls that ended without a trace there is no fourth: the picture goes to the dead letters."""
    for times in (3, 2, 1):
        await bench.leave_a_hold(bench.sha256s[0], ago=times * HOLD_LIFE)
        await (await bench.gate()).sweep()
    report = await bench.analyse()
    assert bench.sha256s[0] not in bench.provider.calls
    assert report.reasons == {"too_many_attempts": 1}
    assert await bench.rows("SELECT item, error_class FROM dead_letters") == [(bench.sha256s[0], "TooManyAttempts")]
    # Just after midnight some of them belong to yesterday.
    phantoms = "SELECT sum(phantom_tokens)::bigint FROM budget_windows WHERE period = 'day' AND scope = $1"
    assert await bench.rows(phantoms, bench.tenant.id) == [(3 * 1792,)]


async def test_calls_that_are_charged_in_vain_come_ever_more_seldom(bench: Bench) -> None:
    """A picture whose call was charged in vain rests, longer each time; when the provider is back it is done."""

    async def fail() -> None:
        raise ProviderUnavailable("no answer in time")

    bench.provider.thinking = fail
    due_in = "SELECT DISTINCT attempts, ceil(extract(epoch FROM due_at - decided_at) / 60)::int FROM vision_decisions"
    for attempts, minutes in ((1, 1), (2, 4), (3, 16)):
        report = await bench.analyse()
        assert (report.failures, report.deferred) == ([], {"provider_failed": 6})
        assert await bench.rows(due_in) == [(attempts, minutes)]
        assert (await bench.analyse()).deferred == {}, "none is due yet"
        await bench.wait_until_due()
    assert (await bench.day()).used_tokens == 3 * 6 * 1792
    bench.provider.thinking = at_once
    report = await bench.analyse()
    assert (report.analyses, report.reasons, report.deferred) == (6, {}, {})
    assert await bench.rows("SELECT * FROM vision_decisions") == []


async def test_a_picture_that_always_fails_is_given_up(bench: Bench) -> None:
    """A picture that never gets an answer costs eight calls, and is a dead letter then; the others are done at once."""

    async def fail_for_one() -> None:
        if bench.provider.calls[-1] == bench.sha256s[0]:
            raise ProviderUnavailable("no answer in time")

    bench.provider.thinking = fail_for_one
    bench.limits = BudgetLimits(tenant={"calls": Allowance(requests=1)})
    for _ in range(MAX_CHARGED_ATTEMPTS + 1):
        await bench.analyse()
        await bench.wait_until_due()
    assert bench.provider.calls.count(bench.sha256s[0]) == MAX_CHARGED_ATTEMPTS == 8
    assert len(bench.provider.calls) == MAX_CHARGED_ATTEMPTS + 5
    letters = await bench.rows("SELECT item, reason FROM dead_letters WHERE resolved_at IS NULL")
    assert letters == [(bench.sha256s[0], "provider_failed")]


async def test_an_outage_gives_no_picture_up(bench: Bench) -> None:
    """What was certainly not billed is charged to nobody and fails the run, and the next one tries again."""

    async def fail() -> None:
        raise ProviderUnavailable("502", sent=False)

    bench.provider.thinking = fail
    for _ in range(MAX_CHARGED_ATTEMPTS + 1):
        report = await bench.analyse()
        assert (len(report.failures), report.deferred) == (6, {})
    assert (await bench.day()).used_tokens == 0
    bench.provider.thinking = at_once
    assert (await bench.analyse()).analyses == 6


async def test_a_refusal_is_paid_for_once(bench: Bench) -> None:
    """A worker that waits for another's call sees that it was refused, and does not pay to hear the same."""

    async def refuse() -> None:
        await asyncio.sleep(0.05)
        raise AnswerRefused("blacklist", "The provider will not say.", tokens_used=9)

    class SlowToWrite(PostgresVision):
        """Gives others time between the refusal and its note."""

        async def record_error(
            self,
            tenant_id: TenantId,
            medium: Medium,
            error: InputRejected,
            *,
            provider: VisionProvider,
            cost_microunits: int = 0,
        ) -> None:
            """Write late."""
            await asyncio.sleep(0.2)
            await PostgresVision.record_error(
                self, tenant_id, medium, error, provider=provider, cost_microunits=cost_microunits
            )

    bench.provider.thinking = refuse
    workers = [await bench.worlds() for _ in range(2)]
    reports = await asyncio.gather(
        *(bench.analyse(world=world, ledger=SlowToWrite(world.database)) for world in workers)
    )
    assert sorted(bench.provider.calls) == sorted(bench.sha256s)
    assert sum((report.statuses for report in reports), Counter()) == {"error": 6}
    assert not any(report.failures or report.deferred for report in reports)
    window = await bench.day()
    assert (window.used_tokens, window.used_requests, window.held_tokens) == (6 * 9, 6, 0)
    assert await bench.rows("SELECT DISTINCT status, reason, tokens_used FROM vision_results") == [
        ("error", "blacklist", 9)
    ]


async def test_what_another_worker_has_just_done_is_not_paid_for_again(bench: Bench) -> None:
    """Between the look for work and the hold, another worker may have finished: seen under the hold, at no cost."""
    other = await bench.worlds()
    seen = asyncio.Event()

    async def think() -> None:
        if not seen.is_set():  # in the first call of the first worker, a second one does everything else
            seen.set()
            reports.append(await bench.analyse(world=other))

    reports: list[VisionReport] = []
    bench.provider.thinking = think
    reports.append(await bench.analyse())
    assert sorted(bench.provider.calls) == sorted(bench.sha256s)
    assert sum(report.analyses for report in reports) == 6
    window = await bench.day()
    assert (window.used_tokens, window.held_tokens, window.used_requests) == (6 * 700, 0, 6)


async def test_without_a_ledger_reuse_goes_on(with_pictures: Pictures) -> None:
    """With the budget out of reach no call is made, while near-duplicates and the cache still give their results."""
    first = photo(seed=1)
    bench = await with_pictures({"1.jpg": first, "2.jpg": photo(seed=2)})
    await bench.analyse()
    assert len(bench.provider.calls) == 2
    # The second result is left in S3 alone, as after a crash; a copy of the first picture and a new one come.
    await bench.world.database.pool.execute("DELETE FROM vision_results WHERE sha256 = $1", bench.sha256s[1])
    await with_pictures({"3.jpg": first.resize((480, 360)), "4.jpg": photo(seed=3)})
    async with PostgresBudget.open("postgresql://127.0.0.1:1/nowhere") as unreachable:
        report = await bench.analyse(BudgetGate(unreachable, ROOM, sleep=soon))
    assert len(bench.provider.calls) == 2
    assert report.methods == {"cache_hit": 1, "near_duplicate": 1}
    assert report.deferred == {"ledger_unavailable": 1}
    assert not report.failures
    blocked = "SELECT labels->>'reason', value FROM counters WHERE name = 'vision_budget_gate_blocks_total'"
    assert await bench.rows(blocked) == [("ledger_unavailable", 1)]
    # As soon as the ledger is back, what was deferred is done.
    assert (await bench.analyse()).analyses == 1


async def test_an_exhausted_tenant_is_deferred(bench: Bench) -> None:
    """With room for two calls two are made; the others wait for the next day, and nothing of them is charged."""
    bench.provider.tokens = 1792
    bench.limits = BudgetLimits(tenant={"day": Allowance(3 * 1792 - 1)})
    report = await bench.analyse()
    assert (report.analyses, report.deferred) == (2, {"daily_limit": 4})
    window = await bench.day()
    assert (window.used_tokens, window.held_tokens, window.used_requests) == (2 * 1792, 0, 2)
    bench.limits = ROOM
    assert (await bench.analyse()).analyses == 4


class BrokenForResults:
    """A bucket that takes no results."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket
        self.get, self.head, self.delete, self.list = bucket.get, bucket.head, bucket.delete, bucket.list

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Fail."""
        raise StorageUnavailable("503")


async def test_what_was_paid_for_is_kept(bench: Bench) -> None:
    """When S3 takes no results they are charged and kept in Postgres; the next run puts them without another call."""
    report = await bench.analyse(store=BrokenForResults(bench.world.bucket))
    assert len(report.failures) == 6
    assert (await bench.day()).used_tokens == 6 * 700
    calls = list(bench.provider.calls)
    report = await bench.analyse()
    assert (report.methods, report.failures) == ({"cache_hit": 6}, [])
    assert bench.provider.calls == calls
    assert len(await bench.world.keys(f"vision/{bench.tenant.id}/")) == 6


async def test_what_cannot_be_recorded_is_not_paid_for_again(bench: Bench) -> None:
    """When Postgres gives way, the hold lasts until the answer lies in S3, where other workers find it."""

    class GivesWay(PostgresVision):
        """Records no result that is not put yet."""

        async def record_result(
            self,
            tenant_id: TenantId,
            result: VisionResult,
            *,
            s3_key: str | None,
            s3_bytes: int | None,
            reason: str | None,
            decided: Sequence[Judged] = (),
        ) -> None:
            """Fail, or write."""
            if s3_key is None:
                raise DatabaseConflict("deadlock detected")
            await PostgresVision.record_result(
                self, tenant_id, result, s3_key=s3_key, s3_bytes=s3_bytes, reason=reason, decided=decided
            )

    class SlowForResults(BrokenForResults):
        """A bucket that takes its time."""

        async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
            """Put late."""
            await asyncio.sleep(0.2)
            await self._bucket.put(key, body, mime=mime, encoding=encoding)

    workers = [await bench.worlds() for _ in range(2)]
    reports = await asyncio.gather(
        *(
            bench.analyse(world=world, ledger=GivesWay(world.database), store=SlowForResults(world.bucket))
            for world in workers
        )
    )
    assert sorted(bench.provider.calls) == sorted(bench.sha256s)
    assert not any(report.failures or report.deferred for report in reports)
    window = await bench.day()
    assert (window.used_tokens, window.used_requests, window.held_tokens) == (6 * 700, 6, 0)


# Neither Postgres nor UTF-8 can hold them; in JSON they are escaped, and come through.
UNSTORABLE = "\0bro\ud83dken"


@pytest.mark.parametrize(
    "error",
    [
        AnswerRefused("parse_failed", f"no answer: {UNSTORABLE}", tokens_used=9, raw_reply=UNSTORABLE),
        InputRejected("refused_by_provider", UNSTORABLE),
        ProviderUnavailable(UNSTORABLE),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_provider_says_can_be_kept(bench: Bench, error: Exception) -> None:
    """No character in a provider's words keeps what became of a call from being written, so it is not made again."""

    async def fail() -> None:
        raise error

    bench.provider.thinking = fail
    assert (await bench.analyse()).failures == []
    assert await bench.count() == 0
    said = (
        "SELECT DISTINCT said LIKE '%broken' FROM (SELECT error AS said FROM vision_results "
        "UNION ALL SELECT message FROM dead_letters UNION ALL SELECT message FROM vision_decisions) AS kept"
    )
    assert await bench.rows(said) == [(True,)]


async def test_nothing_is_due_of_a_picture_that_is_done(bench: Bench) -> None:
    """With a prompt that is changed and changed back, what was deferred meanwhile is due no more."""
    await bench.analyse()

    async def fail() -> None:
        raise ProviderUnavailable("no answer in time")

    bench.provider.fingerprint, bench.provider.thinking = "prompt-2", fail
    assert (await bench.analyse()).deferred == {"provider_failed": 6}
    await bench.wait_until_due()
    assert await bench.is_due(datetime.now(UTC))
    bench.provider.fingerprint = "prompt-1"
    assert (await bench.analyse()).analyses == 0
    assert not await bench.is_due(datetime.now(UTC))


async def test_nothing_is_paid_for_without_a_gate(bench: Bench) -> None:
    """A provider whose calls cost is refused where no budget stands before it."""
    with pytest.raises(ConfigurationError, match="no budget"):
        VisionPass(
            tenant_id=bench.tenant.id,
            provider=bench.provider,
            store=bench.world.bucket,
            quota=bench.world.quota(),
            ledger=PostgresVision(bench.world.database),
        )
