"""Memory of a measured side: each runs in a process of its own, so nothing is shared but the input.

What is not here: what is measured (the modules without an underscore).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MIB = 2**20


def memory_bytes(field: str) -> int:
    """Ask Linux about this process: `VmRSS` is its memory now, `VmHWM` the most that it ever had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def quarters(samples: list[int]) -> list[int]:
    """Tell the samples at 0, 25, 50, 75 and 100 % of the work."""
    return [samples[(len(samples) - 1) * quarter // 4] for quarter in range(5)]


def measure(module: str, *arguments: str) -> dict[str, Any]:
    """Run one side in a process of its own and read what it prints last."""
    child = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def tell(result: dict[str, Any]) -> None:
    """Print a side's result, with its peak, as the last line."""
    sys.stdout.write("\n" + json.dumps(result | {"peak_rss_bytes": memory_bytes("VmHWM")}) + "\n")


def write_result(name: str, result: dict[str, Any]) -> None:
    """Write `results/NAME.json`."""
    file = Path(__file__).with_name("results") / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
