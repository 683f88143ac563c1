"""Counts of a worker that outlive it: a kill takes the process, and the kernel keeps the page.

What is not here: what is counted (`worker.py`, `kill_points.py`).
"""

import mmap
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_LINE = struct.Struct("<q48s")
_LINES = 128


class Tally:
    """Named counts in a file of its own, written by one process."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_LINE.size * _LINES))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 0)
        self._counts: dict[str, int] = {}
        self._places: dict[str, int] = {}

    def add(self, name: str, amount: int = 1) -> None:
        """Raise a count."""
        place = self._places.setdefault(name, len(self._places))
        self._counts[name] = self._counts.get(name, 0) + amount
        _LINE.pack_into(self._page, place * _LINE.size, self._counts[name], name.encode())


def total(paths: Iterable[Path]) -> Counter[str]:
    """Sum up the tallies of workers, living or dead."""
    counts: Counter[str] = Counter()
    for path in paths:
        for count, name in _LINE.iter_unpack(path.read_bytes()):
            if name[0]:
                counts[name.rstrip(b"\0").decode()] += count
    return counts
