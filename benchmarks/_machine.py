"""The machine that a figure was taken on. What is not here: any measurement of the project."""

import os
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    """Tell what a reader must know to judge the figures; the load is what others did just before."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": names[0].split(":", 1)[1].strip() if names else platform.machine(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "fsync_milliseconds": fsync_milliseconds(),
    }


def fsync_milliseconds(repeats: int = 200) -> float:
    """Measure how long a write of 8 KiB takes to be durable, as far as the disk tells the truth; the median."""
    taken = []
    with TemporaryFile(buffering=0) as file:
        for _ in range(repeats):
            file.write(b"\0" * 8192)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - started)
    return round(statistics.median(taken) * 1000, 3)


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Sum up the CPU time of processes and their children, those that have ended included, user and system."""
    seconds = 0.0
    for parent in processes:
        for process in (parent, *parent.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
