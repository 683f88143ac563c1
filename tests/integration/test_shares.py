"""Passes that take a share of a tenant's pictures or posts, and tell whether there are more."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import ROOM, Bench, NewBench
from tests.pictures import photo
from tests.posted import Posted
from tests.world import World
from vision_assets.clients.postgres.limits import clear_storage_limits, set_storage_limits
from vision_assets.clients.telegram_export import TelegramExport
from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.settings import PROJECT_ROOT

PICTURES = 5
CITY = PROJECT_ROOT / "examples" / "city_walks"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures that do not look alike."""
    for seed in range(PICTURES):
        photo(160, 120, seed=seed).save(tmp_path / f"{seed}.jpg")
    return tmp_path


def hide(folder: Path, pattern: str) -> None:
    """Let pictures be missing."""
    for path in folder.glob(pattern):
        path.rename(path.with_suffix(".away"))


async def test_the_media_pass_takes_its_share(world: World, folder: Path) -> None:
    """Again and again, until there are no more; each picture once."""
    tenant = await world.tenant("Large")
    await world.load(tenant, folder)
    done = []
    for _ in range(4):
        one_pass = world.media_pass(tenant)
        one_pass.limit = 2
        report = await one_pass.store_media()
        done.append((report.states.total(), report.has_more))
    assert done == [(2, True), (2, True), (1, False), (0, False)]
    assert (await world.media_pass(tenant).store_media()).has_more is False


async def test_a_share_is_of_new_pictures(world: World, folder: Path) -> None:
    """What was not there is looked for again by a pass without a limit alone."""
    tenant = await world.tenant("Large")
    await world.load(tenant, folder)
    hide(folder, "[012].jpg")

    async def states(limit: int | None) -> dict[str, int]:
        one_pass = world.media_pass(tenant)
        one_pass.limit = limit
        return dict((await one_pass.store_media()).states)

    assert [await states(limit) for limit in (3, 3, None)] == [{"missing": 3}, {"stored": 2}, {"missing": 3}]


async def test_the_enrichment_takes_its_share(world: World) -> None:
    """Albums whose summary has no room are no more to do; a pass without a limit puts it as soon as there is some."""
    tenant, roomy = await world.tenant("Album"), world.limits
    await world.load(tenant, TelegramExport(CITY))
    await world.store_media(tenant)
    posts = await world.database.pool.fetchval("SELECT count(DISTINCT post_id) FROM post_media")
    world.limits = replace(roomy, type_bytes={**roomy.type_bytes, "vision": 1})
    reports = [await world.enrich(tenant, limit=2) for _ in range(posts // 2)]
    assert [report.statuses.total() for report in reports] == [2] * len(reports)
    assert all(report.has_more for report in reports)
    last = await world.enrich(tenant, limit=2)
    assert (last.statuses.total(), last.has_more) == (posts % 2, False)
    world.limits = roomy
    assert not (await world.enrich(tenant, limit=2)).statuses
    assert (await world.enrich(tenant)).albums == 2


async def bench_with(new_bench: NewBench, folder: Path) -> Bench:
    """A tenant whose pictures are stored."""
    bench = await new_bench("Large")
    await bench.show(folder)
    return bench


async def share(bench: Bench, limit: int) -> tuple[int, int, bool]:
    """Give a tenant's pictures their results: tells calls, deferrals, and whether there are more."""
    gate = await bench.gate()
    one_pass = bench.one_pass(gate, world=bench.world)
    one_pass.limit = limit
    report = await one_pass.analyse_media()
    await gate.aclose()
    return report.analyses, report.deferred.total(), report.has_more


async def test_the_vision_pass_takes_its_share(new_bench: NewBench, folder: Path) -> None:
    """The same with calls to a provider."""
    bench = await bench_with(new_bench, folder)
    assert [await share(bench, 2) for _ in range(4)] == [(2, 0, True), (2, 0, True), (1, 0, False), (0, 0, False)]
    assert len(bench.provider.calls) == PICTURES


async def test_what_the_quota_keeps_out_of_s3_is_left_to_passes_without_a_share(
    new_bench: NewBench, folder: Path
) -> None:
    """Although these results come first, each share goes on to pictures that have none."""
    bench = await bench_with(new_bench, folder)
    await set_storage_limits(bench.world.database, bench.tenant.id, {"vision": 1})
    assert [await share(bench, 2) for _ in range(4)] == [(2, 0, True), (2, 0, True), (1, 0, False), (0, 0, False)]
    await clear_storage_limits(bench.world.database, bench.tenant.id)
    assert await share(bench, 2) == (0, 0, False)
    assert (await bench.analyse()).puts == PICTURES


async def test_a_result_that_is_paid_for_and_not_put_is_put_by_the_next_share(
    new_bench: NewBench, folder: Path
) -> None:
    """As after a crash between the two: it is nobody's quota."""
    bench = await bench_with(new_bench, folder)
    await bench.analyse()
    await bench.rows(
        "UPDATE vision_results SET s3_key = NULL, reason = 'put_pending' WHERE sha256 = $1", bench.sha256s[0]
    )
    assert await share(bench, 1) == (0, 0, True)
    assert await bench.rows("SELECT FROM vision_results WHERE s3_key IS NULL") == []


async def test_a_share_is_of_pictures_without_an_answer_to_an_earlier_question(
    new_bench: NewBench, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After a change of the prompt a new picture is looked at; those before it are left to passes without a share."""
    bench = await bench_with(new_bench, folder)
    await bench.analyse()
    bench.provider.fingerprint = "prompt-2"
    await add(bench, tmp_path_factory.mktemp("later"))
    assert [await share(bench, 1) for _ in range(2)] == [(1, 0, True), (0, 0, False)]
    assert bench.provider.calls[PICTURES:] == bench.sha256s[PICTURES:]
    assert (await bench.analyse()).analyses == PICTURES


async def test_answers_that_were_deferred_come_after_new_pictures(
    new_bench: NewBench, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What the budget did not let a pass without a share ask anew, shares ask once it does."""
    bench = await bench_with(new_bench, folder)
    await bench.analyse()
    bench.provider.fingerprint = "prompt-2"
    bench.limits = BudgetLimits(tenant={"day": Allowance(0)})
    assert (await bench.analyse()).deferred.total() == PICTURES
    await add(bench, tmp_path_factory.mktemp("later"))
    bench.limits = ROOM
    assert await share(bench, 1) == (1, 0, True)
    assert bench.provider.calls[PICTURES:] == bench.sha256s[PICTURES:]
    assert [await share(bench, 3) for _ in range(3)] == [(3, 0, True), (2, 0, False), (0, 0, False)]


async def add(bench: Bench, folder: Path) -> None:
    """Show one more picture, after the others."""
    photo(160, 120, seed=PICTURES).save(folder / "later.jpg")
    await bench.show(Posted((folder / "later.jpg",)))


async def test_pictures_that_wait_are_no_more_to_do(new_bench: NewBench, folder: Path) -> None:
    """Lest a tenant comes up at once, again and again, for pictures that are deferred each time."""
    bench = await bench_with(new_bench, folder)
    bench.limits = BudgetLimits(tenant={"day": Allowance(0)})
    assert await share(bench, 2) == (0, 2, False)
