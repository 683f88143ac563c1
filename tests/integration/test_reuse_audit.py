"""The shadow audit in the pass of `vision_results`: about which reuses the provider is asked, and what becomes of it.

What is not here: what counts as a difference (`unit/test_audit.py`).
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.bench import ROOM, Bench, NewBench
from tests.paid_provider import at_once
from tests.pictures import photo
from tests.posted import Posted
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.audit import Audits
from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.core.errors import AnswerRefused, ConfigurationError, ProviderBudgetGone, ProviderUnavailable
from vision_assets.core.policy import VisionPolicy

ALL = VisionPolicy(reuse_audit_share=1)
NONE = VisionPolicy(reuse_audit_share=0)
RESULTS = "SELECT method, count(*) FROM vision_results GROUP BY method ORDER BY method"
AUDITS = "SELECT sha256, donor_sha256, differences FROM reuse_audits"
REFUSALS = "SELECT sha256, candidate_sha256, verdict, reason FROM reuse_decisions"
COUNTED = "SELECT labels->>'outcome', value FROM counters WHERE name = 'vision_reuse_audits_total'"


@pytest.fixture
async def bench(new_bench: NewBench, tmp_path: Path) -> Bench:
    """A tenant with a picture and a smaller copy of it."""
    bench = await new_bench("Audited")
    picture = photo(960, 720)
    files = tmp_path / "1.jpg", tmp_path / "2.jpg"
    picture.save(files[0], quality=95)
    picture.resize((640, 480)).save(files[1], quality=85)
    await bench.show(Posted(files))
    return bench


async def audits(bench: Bench, *, ago: timedelta = timedelta(days=1)) -> Audits:
    """What the ledger tells of audits."""
    ledger = PostgresVision(bench.world.database)
    return await ledger.audits(bench.tenant.id, provider=bench.provider, since=datetime.now(UTC) - ago)


async def test_none_is_audited_at_zero(bench: Bench) -> None:
    """A share of 0 costs nothing."""
    bench.policy = NONE
    await bench.analyse()
    assert len(bench.provider.calls) == 1
    assert await bench.rows(RESULTS) == [("near_duplicate", 1), ("new", 1)]
    assert await bench.rows(AUDITS) == []


async def test_the_answer_is_kept_and_held_against_the_other(bench: Bench) -> None:
    """What is paid for is the picture's own result; the two answers agree, and that is told once."""
    bench.policy = ALL
    report = await bench.analyse()
    first, second = bench.sha256s
    assert bench.provider.calls == [first, second]
    assert await bench.rows(RESULTS) == [("new", 2)]
    assert await bench.rows(AUDITS) == [(second, first, [])]
    assert await bench.rows(REFUSALS) == [(second, first, "refused", "audited")]
    assert report.audits == Counter(agrees=1)
    assert report.reuse == {("refused", "audited"): 1}
    assert await audits(bench) == Audits(1, 0, {})
    assert (await audits(bench, ago=timedelta())).total == 0
    assert await bench.rows(COUNTED) == [("agrees", 1)]
    assert (await bench.analyse()).analyses == 0


async def test_an_answer_that_says_other_things_is_told(bench: Bench) -> None:
    """The picture keeps its own answer, which reuse would have got wrong."""
    bench.policy = ALL

    async def look_closer() -> None:
        if len(bench.provider.calls) > 1:
            bench.provider.text = "Вход закрыт до 9 утра"

    bench.provider.thinking = look_closer
    await bench.analyse()
    first, second = bench.sha256s
    assert await bench.rows(AUDITS) == [(second, first, ["numbers", "text"])]
    assert await audits(bench) == Audits(0, 1, {"numbers": 1, "text": 1})
    texts = await bench.rows("SELECT result->'ocr'->>'text' FROM vision_results WHERE sha256 = $1", second)
    assert texts == [("Вход закрыт до 9 утра",)]


async def test_nothing_waits_for_an_audit(bench: Bench) -> None:
    """Without room in the budget the result is reused, at once."""
    bench.policy = ALL
    bench.limits = BudgetLimits(tenant={"day": Allowance(700 + 1791), "calls": Allowance(requests=1)})
    report = await bench.analyse()
    assert len(bench.provider.calls) == 1
    assert await bench.rows(RESULTS) == [("near_duplicate", 1), ("new", 1)]
    assert (report.deferred, report.failures) == ({}, [])
    assert await bench.count() == 0


async def test_a_provider_that_fails_spoils_no_reuse(bench: Bench) -> None:
    """A call that was charged and brought no answer is none; the result is reused."""
    bench.policy = ALL

    async def fail_later() -> None:
        if len(bench.provider.calls) > 1:
            raise ProviderUnavailable("broke off")

    bench.provider.thinking = fail_later
    report = await bench.analyse()
    assert await bench.rows(RESULTS) == [("near_duplicate", 1), ("new", 1)]
    assert (report.failures, await bench.rows(AUDITS)) == ([], [])
    assert (await bench.day()).used_tokens == 700 + 1792


@pytest.mark.parametrize("error", [ProviderBudgetGone("empty"), ConfigurationError("a wrong key")])
async def test_a_provider_that_answers_nobody_spoils_no_reuse(bench: Bench, error: Exception) -> None:
    """What is free needs no account."""
    bench.policy = ALL

    async def fail_later() -> None:
        if len(bench.provider.calls) > 1:
            raise error

    bench.provider.thinking = fail_later
    report = await bench.analyse()
    assert await bench.rows(RESULTS) == [("near_duplicate", 1), ("new", 1)]
    assert (report.failures, report.hopeless) == ([], False)


async def test_a_refusal_stands(bench: Bench) -> None:
    """A picture of which the provider will not speak gets no other's words."""
    bench.policy = ALL

    async def refuse_later() -> None:
        if len(bench.provider.calls) > 1:
            raise AnswerRefused("blacklist", "not this one", tokens_used=9)

    bench.provider.thinking = refuse_later
    await bench.analyse()
    statuses = await bench.rows("SELECT sha256, status, reason FROM vision_results ORDER BY status")
    assert statuses == [(bench.sha256s[1], "error", "blacklist"), (bench.sha256s[0], "ok", None)]
    assert await bench.rows(AUDITS) == []
    bench.provider.thinking = at_once
    assert (await bench.analyse()).analyses == 0


async def test_what_the_policy_skips_is_not_audited(bench: Bench) -> None:
    """A reuse costs nothing, so no rule is asked; a call does, so it is."""
    bench.policy, bench.limits = ALL, ROOM
    await bench.world.database.pool.execute(
        "UPDATE channels SET username = 'news' WHERE tenant_id = $1", bench.tenant.id
    )
    await bench.analyse()
    await bench.world.database.pool.execute("DELETE FROM vision_results WHERE sha256 = $1", bench.sha256s[1])
    await bench.world.bucket.delete(
        [key for key in await bench.world.keys() if bench.sha256s[1] in key and "vision" in key]
    )
    bench.policy = ALL.model_copy(update={"skipped_channels": frozenset({"news"})})
    await bench.analyse()
    assert len(bench.provider.calls) == 2
    assert await bench.rows(RESULTS) == [("near_duplicate", 1), ("new", 1)]
