"""What the chaos tests share: how long they run, their chance, and the figures that the long form leaves behind.

Everything here is bounded in time, listens on the loopback interface only, and ends no process but its own.
"""

import json
import random
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chaos.figures import write_section
from tests.chaos.postgres import OwnPostgres, own_postgres
from vision_assets.settings import Settings


@dataclass(slots=True)
class Run:
    """One test's run.

    Attributes:
        long: Whether it is the long form.
        seed: Of all chance in it; printed.
        folder: For workers' tallies and output.
        figures: What it has to say; the long form writes it to `.data/chaos.json`.
    """

    name: str
    long: bool
    seed: int
    folder: Path
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def chance(self) -> random.Random:
        """Chance that the seed repeats."""
        return random.Random(self.seed)

    def choose(self, short: int, long: int) -> int:
        """Choose a size by the form."""
        return long if self.long else short


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """This run of a test: its form, its seed, its figures."""
    long = bool(request.config.getoption("--long"))
    name = request.node.name.removeprefix("test_")
    this = Run(name, long, random.SystemRandom().randrange(2**32), tmp_path)
    print(f"{name}: seed {this.seed}")
    started = time.monotonic()
    yield this
    seconds = round(time.monotonic() - started, 1)
    failed = request.node.stash.get(FAILED, False)
    section = {"seed": this.seed, "passed": not failed, "duration_seconds": seconds, **this.figures}
    print(json.dumps({name: section}, indent=2, ensure_ascii=False))
    if long:
        write_section(name, section)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the fixture above know how its test ended."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
def s3_port(parts: Settings) -> int:
    """The port of the real S3 part."""
    port = urlsplit(parts.s3_endpoint_url or "").port
    assert port
    return port


@pytest.fixture
def postgres(parts: Settings) -> Iterator[OwnPostgres]:
    """A Postgres server of the test's own, which it may stop and kill; the S3 part stays the session's."""
    with own_postgres() as server:
        yield server
