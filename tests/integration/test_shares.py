"""Passes that take a share of a tenant's pictures, and tell whether there are more."""

from pathlib import Path

import pytest

from tests.bench import Bench, NewBench
from tests.pictures import photo
from tests.world import World
from vision_assets.core.budget import Allowance, BudgetLimits

PICTURES = 5


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


async def test_pictures_that_wait_are_no_more_to_do(new_bench: NewBench, folder: Path) -> None:
    """Lest a tenant comes up at once, again and again, for pictures that are deferred each time."""
    bench = await bench_with(new_bench, folder)
    bench.limits = BudgetLimits(tenant={"day": Allowance(0)})
    assert await share(bench, 2) == (0, 2, False)
