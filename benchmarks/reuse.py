"""Is reuse safe? How often each rule takes two pictures for one, by what the two have in common.

Different photographs and screens: every pair. Pairs that differ in one small thing that changes what they say. Copies
in another compression, size or colour. Pictures that something was done to. All are drawn by a seed, from the example
photographs and from pages rendered in Chromium. What is not here: how they are drawn (the modules with an underscore).
"""

import argparse
import asyncio
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks._browser import rendered
from benchmarks._edits import changed, copies
from benchmarks._judging import Judge, Picture, Verdict, picture
from benchmarks._machine import machine
from benchmarks._memory import write_result
from benchmarks._pairs import CLASSES, pairs, sent_small
from benchmarks._photographs import meme, photographs, price_tag, tiles
from benchmarks._screens import APPS, screen
from vision_assets.core.detail import compare_detail
from vision_assets.core.neighbours import RADIUS_BITS
from vision_assets.core.pictures import decode_upright

MEANING, SMALL, COPY, CHANGED, DIFFERENT = "one meaning changed", "and sent small", "copy", "changed", "different"
REENCODED = ("recompressed", "resized", "resized and recompressed")
GOALS = {
    DIFFERENT: "none reused",
    MEANING: "at most 1 % reused",
    SMALL: "at most 1 % reused",
    COPY: "at least 98.5 % of the recompressed and resized taken for one picture, normal_in_detail",
}
_FIRST_SEED_OF_ORIGINALS = 700_000
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is drawn: pairs of each class, screens of each program, originals that are copied of each source."""

    pairs: int
    screens: int
    originals: int
    tiles: int


FULL = Sizes(pairs=30, screens=36, originals=14, tiles=450)
QUICK = Sizes(pairs=3, screens=2, originals=2, tiles=50)


class Row(NamedTuple):
    """A judged pair.

    Attributes:
        group: Of classes: what the two have in common.
        kind: The class.
        name: What was done, within the class.
    """

    group: str
    kind: str
    name: str
    verdict: Verdict


def meaning_of(kind: str, count: int) -> list[Row]:
    """Judge pairs of one class."""

    async def judge() -> list[Row]:
        async with Judge.open() as judge:
            rows = []
            for seed, one, other in made:
                donor = picture(one)
                rows.append(Row(MEANING, kind, str(seed), await judge.judge(donor, picture(other))))
                if seed % 3 == 0:
                    small = picture(sent_small(other, seed))
                    rows.append(Row(SMALL, kind, str(seed), await judge.judge(donor, small)))
            return rows

    made = list(pairs(kind, range(count)))
    return asyncio.run(judge())


def copies_of(content: bytes) -> list[Row]:
    """Judge copies of a picture, and what it is made into."""

    async def judge() -> list[Row]:
        original, image = picture(content), decode_upright(content)
        async with Judge.open() as judge:
            return [
                Row(group, kind, name, await judge.judge(original, picture(edited)))
                for group, edits in ((COPY, copies(image)), (CHANGED, changed(image)))
                for kind, name, edited in edits
            ]

    return asyncio.run(judge())


def taken_in(contents: Sequence[bytes]) -> list[Picture]:
    """Take pictures in."""
    return [picture(content) for content in contents]


def screens_of(app: str, count: int) -> list[Picture]:
    """Render different screens of one program."""
    return taken_in(rendered(screen(app, seed) for seed in range(count)))


def different(kind: str, pictures: Sequence[Picture]) -> list[Row]:
    """Judge every pair of pictures that all show something else."""

    async def judge() -> list[Row]:
        async with Judge.open() as judge:
            return [
                Row(DIFFERENT, kind, f"{one} {other}", await judge.judge(pictures[one], pictures[other]))
                for one, other in near
            ]

    near = list(_within_the_radius([one.fingerprint.phash for one in pictures]))
    judged = asyncio.run(judge())
    rest = len(pictures) * (len(pictures) - 1) // 2 - len(judged)
    return judged + [Row(DIFFERENT, kind, "far", Verdict())] * rest


def _within_the_radius(hashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    values = np.array(hashes, dtype=np.uint64)
    for own, value in enumerate(values):
        distances = np.bitwise_count(values[own + 1 :] ^ value)
        yield from ((own, own + 1 + int(other)) for other in np.flatnonzero(distances <= RADIUS_BITS))


def originals(count: int) -> list[bytes]:
    """Pictures to be copied: photographs, screens, captioned photographs, price tags."""
    seeds = range(_FIRST_SEED_OF_ORIGINALS, _FIRST_SEED_OF_ORIGINALS + count)
    drawn = [screen(list(APPS)[seed % len(APPS)], seed) for seed in seeds]
    drawn += [draw(seed) for seed in seeds[: -(-count // 4)] for draw in (meme, price_tag)]
    return [*photographs()[:count], *rendered(drawn)]


def judged(sizes: Sizes, *, workers: int = 2) -> list[Row]:
    """Draw and judge everything."""
    with ProcessPoolExecutor(workers) as pool:
        first = pool.submit(originals, sizes.originals)
        meanings = [pool.submit(meaning_of, kind, sizes.pairs) for kind in CLASSES]
        screens = [pool.submit(screens_of, app, sizes.screens) for app in APPS]
        cut = list(tiles())[:: max(1, 450 // sizes.tiles)]
        photos = [pool.submit(taken_in, cut[start : start + 50]) for start in range(0, len(cut), 50)]
        copied = [pool.submit(copies_of, content) for content in first.result()]
        done = [*meanings, *copied]
        rows = list(chain.from_iterable(job.result() for job in track(as_completed(done), "judging", len(done))))
        for kind, jobs in (("photographs", photos), ("screens", screens)):
            rows += different(kind, [one for job in jobs for one in job.result()])
    return rows


def shares(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, int]]]:
    """Count, by group and class, the pairs and how many of them each rule takes for one."""
    counts: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        counts[row.group][row.kind].update(_counted(row.verdict))
    return {group: {kind: dict(found) for kind, found in kinds.items()} for group, kinds in counts.items()}


def lost(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Count the recompressed and resized copies that were not all recognised, by what was done to them."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.kind in REENCODED:
            counts[row.name].update(_counted(row.verdict))
    return {name: dict(found) for name, found in counts.items() if found["normal_in_detail"] < found["pairs"]}


def _counted(verdict: Verdict) -> dict[str, int]:
    return {"pairs": 1, **{rule: int(says) for rule, says in verdict._asdict().items()}}


def reached(counts: dict[str, dict[str, dict[str, int]]]) -> dict[str, dict[str, float]]:
    """Tell the figures that the goals are about."""
    different, copied = sums(counts[DIFFERENT]), sums(counts[COPY], REENCODED)
    return {
        DIFFERENT: {rule: different[rule] for rule in Verdict._fields},
        **{group: _share_by_rule(sums(counts[group])) for group in (MEANING, SMALL)},
        COPY: _share_by_rule(copied),
    }


def _share_by_rule(found: Counter[str]) -> dict[str, float]:
    return {rule: round(found[rule] / found["pairs"], 4) for rule in Verdict._fields}


def detail_milliseconds(repeats: int = 20) -> float:
    """Measure the CPU time that two decoded photographs of 1024 px take to be compared; the median."""
    photo = decode_upright(photographs()[0])
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        compare_detail(photo, photo)
        taken.append(time.process_time() - started)
    return round(statistics.median(taken) * 1000, 1)


def sums(counts: dict[str, dict[str, int]], kinds: Sequence[str] | None = None) -> Counter[str]:
    """Add up classes."""
    total: Counter[str] = Counter()
    for kind, found in counts.items():
        if kinds is None or kind in kinds:
            total.update(found)
    return total


def main() -> None:
    """Judge everything, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pictures, and no result is written")
    options = parser.parse_args()
    started, before = time.perf_counter(), machine()
    rows = judged(QUICK if options.quick else FULL)
    counts = shares(rows)
    result: dict[str, Any] = {
        "what": "pairs that each rule takes for one picture, by what the two have in common",
        "machine": before,
        "seconds": round(time.perf_counter() - started, 1),
        "counts": counts,
        "lost_copies": lost(rows),
        "detail_milliseconds": detail_milliseconds(),
        "reached": reached(counts),
        "goals": GOALS,
    }
    if not options.quick:
        write_result("reuse", result)
    table = Table("", "pairs", *(rule.replace("_", " ") for rule in Verdict._fields), title=result["what"])
    for group, kinds in counts.items():
        table.add_section()
        for kind, found in kinds.items():
            table.add_row(kind, *_cells(found))
        table.add_row(f"[b]{group}[/b]", *_cells(sums(kinds)))
    table.add_section()
    table.add_row("[b]recompressed and resized[/b]", *_cells(sums(counts[COPY], REENCODED)))
    console = Console(width=170)
    console.print(table)
    for group, goal in GOALS.items():
        console.print(f"{group}: {result['reached'][group]}; goal: {goal}")


def _cells(found: dict[str, int] | Counter[str]) -> list[str]:
    return [f"{found['pairs']:,}", *(f"{found[rule]} {found[rule] / found['pairs']:.1%}" for rule in Verdict._fields)]


if __name__ == "__main__":
    main()
