"""Pictures a second that are hashed, against imagehash on the same files; one thread and two.

Ours is all that storing a picture needs to know of its hash: sha256, sniffing and limits, decoding, both hashes, the
thumbnail, quality and flags; "measured" is with colours, blur, barcodes and kind, as when it is stored. The peer only
opens the file and computes one hash, or both. The sides take turns on the same pictures, so that the machine's moods
hit all alike; every bit that differs from imagehash's is counted.
"""

import argparse
import hashlib
import io
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import imagehash
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks._machine import machine
from benchmarks._memory import measure, tell, write_result
from tests.pictures import encoded, photo, screenshot
from vision_assets.core.media import examine, examine_hash
from vision_assets.core.reduction import COMPILED_AFTER, compiled_reduction, reduction

GOALS = {"jpeg_1280": 2.0, "jpeg_4000": 3.2}
PEER = "imagehash"
SIDES = {
    "ours": "ours: sha256 to flags",
    "ours_measured": "ours, measured too",
    PEER: "imagehash, 64 bits",
    "imagehash_both": "imagehash, 64 and 256",
}
THREADS = (1, 2)


@dataclass(frozen=True, slots=True)
class Workload:
    """Pictures of one kind.

    Attributes:
        what: For the table.
        count: Pictures of a slice.
        draw: Makes the file number so much; no two are the same.
    """

    what: str
    count: int
    draw: Callable[[int], bytes]


def jpeg_1280(seed: int) -> bytes:
    """Encode a photo as a messenger sends it."""
    return encoded(photo(1280, 960, seed=seed), quality=85)


def jpeg_4000(seed: int) -> bytes:
    """Encode a photo as a camera stores it."""
    return encoded(photo(4000, 3000, seed=seed), quality=85)


def png_screenshot(seed: int) -> bytes:
    """Encode a screenshot of a phone."""
    return encoded(screenshot(1080, 1920 + 40 * seed), "PNG")


def webp_1280(seed: int) -> bytes:
    """Encode a photo as web sites do."""
    return encoded(photo(1280, 960, seed=seed), "WEBP", quality=80)


WORKLOADS: Mapping[str, Workload] = {
    "jpeg_1280": Workload("JPEG, 1280×960", 24, jpeg_1280),
    "jpeg_4000": Workload("JPEG, 4000×3000", 4, jpeg_4000),
    "png_screenshot": Workload("PNG, screenshots 1080 px wide", 8, png_screenshot),
    "webp_1280": Workload("WebP, 1280×960", 12, webp_1280),
}


def ours(content: bytes) -> tuple[int, int]:
    """Do what a stored picture needs for its hash; tells both hashes."""
    hashlib.sha256(content).hexdigest()
    hashed = examine_hash(content)
    return hashed.phash, int.from_bytes(hashed.phash256, "big")


def ours_measured(content: bytes) -> tuple[int, int]:
    """Do all that is done with the bytes of a picture that is stored."""
    hashlib.sha256(content).hexdigest()
    _, hashed, _ = examine(content)
    return hashed.phash, int.from_bytes(hashed.phash256, "big")


def peer(content: bytes) -> tuple[int, int]:
    """Compute imagehash's hash of 64 bits."""
    with Image.open(io.BytesIO(content)) as image:
        return int(str(imagehash.phash(image)), 16), 0


def peer_both(content: bytes) -> tuple[int, int]:
    """Compute imagehash's hashes of 64 and 256 bits from one decoded picture."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return int(str(imagehash.phash(image)), 16), int(str(imagehash.phash(image, hash_size=16)), 16)


CALLS: Mapping[str, Callable[[bytes], tuple[int, int]]] = {
    "ours": ours,
    "ours_measured": ours_measured,
    PEER: peer,
    "imagehash_both": peer_both,
}


@dataclass(frozen=True, slots=True)
class Slice:
    """One side's turn."""

    pictures_a_second: float
    cpu_milliseconds_a_picture: float


def run_slice(call: Callable[[bytes], object], files: Sequence[bytes], pool: ThreadPoolExecutor) -> Slice:
    """Hash all pictures once."""
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in pool.map(call, files):
        pass
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Slice(len(files) / seconds, cpu_seconds / len(files) * 1000)


def run_rounds(files: Sequence[bytes], *, threads: int, rounds: int) -> dict[str, list[Slice]]:
    """Let the sides take turns."""
    taken: dict[str, list[Slice]] = {side: [] for side in SIDES}
    with ThreadPoolExecutor(threads) as pool:
        for call in CALLS.values():
            run_slice(call, files[:2], pool)
        for _ in range(rounds):
            for side, call in CALLS.items():
                taken[side].append(run_slice(call, files, pool))
    return taken


def summary(taken: Sequence[Slice]) -> dict[str, float]:
    """Sum up a side's turns."""
    rates = [one.pictures_a_second for one in taken]
    return {
        "pictures_a_second": round(statistics.median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
        "cpu_milliseconds_a_picture": round(statistics.median(one.cpu_milliseconds_a_picture for one in taken), 2),
    }


def ratios(taken: Mapping[str, Sequence[Slice]]) -> dict[str, float]:
    """Compare ours with each peer, turn by turn; by CPU time, which others on the machine disturb less."""
    return {
        f"to_{side}": round(
            statistics.median(
                theirs.cpu_milliseconds_a_picture / own.cpu_milliseconds_a_picture
                for own, theirs in zip(taken["ours"], taken[side], strict=True)
            ),
            2,
        )
        for side in (PEER, "imagehash_both")
    }


def differing_bits(files: Sequence[bytes]) -> dict[str, dict[str, int]]:
    """Count pictures by the bits in which ours differ from imagehash's."""
    distances = [
        [(own ^ theirs).bit_count() for own, theirs in zip(ours(content), peer_both(content), strict=True)]
        for content in files
    ]
    return {
        f"of_{size}": {str(bits): count for bits, count in sorted(Counter(column).items())}
        for size, column in zip((64, 256), zip(*distances, strict=True), strict=True)
    }


def measure_workload(workload: Workload, *, rounds: int) -> dict[str, Any]:
    """Draw the pictures, and measure all sides on them."""
    with ProcessPoolExecutor() as pool:
        files = list(pool.map(workload.draw, range(workload.count)))
    result: dict[str, Any] = {
        "what": workload.what,
        "bytes_a_picture": sum(map(len, files)) // len(files),
        "differing_bits": differing_bits(files),
    }
    for threads in THREADS:
        taken = run_rounds(files, threads=threads, rounds=rounds)
        result[f"threads_{threads}"] = {side: summary(slices) for side, slices in taken.items()} | {
            "ratios": ratios(taken)
        }
    return result


def tell_loading() -> None:
    """Load the compiled passes, as one process does once, and tell what it takes."""
    started = time.process_time()
    compiled_reduction()
    tell({"cpu_seconds": round(time.process_time() - started, 2)})


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(
        *("pictures", "", "a second, one thread", "two threads", "CPU ms", "ratio to ours"), title=result["what"]
    )
    for name in WORKLOADS:
        figures = result[name]
        one, two = figures["threads_1"], figures["threads_2"]
        for side, what in SIDES.items():
            ratio = one["ratios"].get(f"to_{side}")
            table.add_row(
                figures["what"] if side == "ours" else "",
                what,
                f"{one[side]['pictures_a_second']:g} ({one[side]['lowest']:g} to {one[side]['highest']:g})",
                f"{two[side]['pictures_a_second']:g}",
                f"{one[side]['cpu_milliseconds_a_picture']:g}",
                f"x{ratio:g}" if ratio else "",
            )
    console = Console()
    console.print(table)
    for name in WORKLOADS:
        console.print(f"{name}: pictures by bits that differ from imagehash's: {result[name]['differing_bits']}")
    console.print(f"Loading the compiled passes, once a process: {result['loading']['cpu_seconds']:g} s of CPU.")
    console.print(f"Goal: {result['goal']}.")


def main() -> None:
    """Measure all sides, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--loading", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loading:
        tell_loading()
        return
    facts = machine()
    for _ in range(COMPILED_AFTER):
        reduction()  # as in a process that has hashed many
    result = {
        "what": f"pictures hashed a second; medians of {options.rounds} rounds, sides in turns; ratios of CPU time",
        "machine": facts,
        "sides": SIDES,
        "loading": measure("benchmarks.hashing", "--loading"),
        **{name: measure_workload(workload, rounds=options.rounds) for name, workload in WORKLOADS.items()},
        "goal": ", ".join(f"{name}, one thread: to_{PEER} >= {goal}" for name, goal in GOALS.items()),
    }
    write_result("hashing", result)
    show(result)


if __name__ == "__main__":
    main()
