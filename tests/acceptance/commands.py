"""The command line as a user has it: real processes in a data folder of the test's own."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("vision-assets"))
# What this session's own parts are found by must not reach the commands under test.
FOREIGN = (
    "DATABASE_URL",
    "DAGSTER_POSTGRES_URL",
    "DAGSTER_HOME",
    "QDRANT_URL",
    "S3_",
    "AWS_",
    "GIGACHAT_",
    "OPENAI_",
    "VISION_PROVIDER",
    "VISION_POLICY_FILE",
    "TELEGRAM_",
    "ALERT_",
    "DAGSTER_UI_URL",
)


@dataclass(frozen=True, slots=True)
class Up:
    """A running `vision-assets up`."""

    ui_url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of its own: one data folder, with whatever runs in it.

    Attributes:
        settings: Environment variables that its user has set.
    """

    data: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its user; several machines start at once, so each takes whatever ports are free."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        own = {"VISION_ASSETS_DATA_DIR": str(self.data), "COLUMNS": "200", "SERVICE_PORT": "0"}
        return {**kept, **own, **self.settings}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command in a session of its own."""
        return subprocess.Popen(
            [COMMAND, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> str:
        """Run a command to its end; its output is the failure's text."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=280)
        assert process.returncode == 0, output
        return output

    @contextmanager
    def up(self) -> Iterator[Up]:
        """`vision-assets up`, ended as an operator's shell does."""
        process = self.start("up", "--port", "0")
        try:
            yield Up(_told_url(process), process.pid)
        finally:
            os.kill(process.pid, signal.SIGTERM)
            try:
                output, _ = process.communicate(timeout=90)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0, output

    def figures(self) -> dict[str, Any]:
        """What the demo has written."""
        figures: dict[str, Any] = json.loads((self.data / "demo.json").read_text())
        return figures

    def endpoints(self) -> dict[str, str]:
        """Where the embedded parts are."""
        endpoints: dict[str, str] = json.loads((self.data / "endpoints.json").read_text())
        return endpoints


def _told_url(up: "subprocess.Popen[str]") -> str:
    """Wait until `up` tells the UI's URL."""
    lines: list[str] = []
    for line in up.stdout or ():
        lines.append(line)
        if url := re.search(r"UI: (http://127\.0\.0\.1:\d+)", line):
            return url[1]
    raise AssertionError("".join(lines))
