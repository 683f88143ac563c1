"""`vision-assets up`, `status`, `config` and `down`, as commands, with the real Dagster."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.devstack import alive, kill, own_data_dir
from vision_assets.devstack import dagster
from vision_assets.settings import data_dir

COMMAND = str(Path(sys.executable).with_name("vision-assets"))


@pytest.fixture(autouse=True)
def data_folder() -> Iterator[None]:
    """Give an empty data folder of the test's own; whatever a test leaves running is ended."""
    with own_data_dir() as patch:
        patch.setenv("COLUMNS", "200")
        yield
        dagster.end_up()


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)


@contextlib.contextmanager
def up() -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Run `up` until its UI answers, as a script's background job: with SIGINT ignored."""
    output = data_dir() / "up.txt"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with output.open("wb") as file:
            process = subprocess.Popen([COMMAND, "up", "--port", "0"], stdout=file, stderr=file)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 200
        while not (found := re.search(r"UI: (http://127\.0\.0\.1:\d+)", output.read_text())):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


def family(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """List a process' children and theirs."""
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
def test_up_ends_cleanly() -> None:
    """The metrics are served beside the UI, a second `up` is refused; Ctrl-C ends the UI, the daemon and the parts."""
    with up() as (process, url):
        assert "dagster_version" in httpx.get(f"{url}/server_info").json()
        metrics = re.search(r"Metrics: (http://127\.0\.0\.1:\d+/metrics)", (data_dir() / "up.txt").read_text())
        assert metrics
        assert 'vision_assets_read_success{source="dagster"} 1.0' in httpx.get(metrics[1]).text
        assert metrics[1] in run("status").stdout
        second = run("up")
        assert second.returncode == 1
        assert url in second.stderr
        children = family(process)
        assert len(children) >= 6
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not any(alive(child) for child in children)
    assert "Stopped" in (data_dir() / "up.txt").read_text()


@pytest.mark.slow
def test_a_killed_up_is_cleaned_away() -> None:
    """What a killed `up` leaves running is ended by `down`."""
    with up() as (process, _):
        children = family(process)
        kill(process.pid)
        assert any(alive(child) for child in children)
        done = run("down")
        assert "dagster" in done.stdout
        assert not any(alive(child) for child in children)


def test_parts_in_the_background() -> None:
    """`up --parts` returns with parts running; status and config show them, with secrets masked; down stops them."""
    started = run("up", "--parts")
    assert started.returncode == 0, started.stderr
    shown = run("status").stdout
    assert shown.count("running") == 3
    config = run("config").stdout
    exported = run("config", "--export").stdout
    password = re.search(r"DATABASE_URL=postgresql://vision_assets:([^@]+)@", exported)
    secret = re.search(r"AWS_SECRET_ACCESS_KEY=(\S+)", exported)
    assert password
    assert secret
    assert password[1] not in config + shown
    assert secret[1] not in config + shown
    assert len(re.findall(r"(postgres|s3|qdrant) +│ [\d.]+ ms", config)) == 3
    assert f"DAGSTER_HOME={data_dir() / 'dagster'}" in exported
    shell = subprocess.run(
        ["/bin/sh", "-c", 'eval "$1"; echo "$DAGSTER_POSTGRES_URL"', "sh", exported], capture_output=True, check=True
    )
    assert shell.stdout.startswith(b"postgresql+psycopg2://")
    assert "postgres, s3, qdrant" in run("down").stdout
    assert "Nothing was running" in run("down").stdout


def test_config_without_parts_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs: config tells for each part how to get it, and where each setting is from."""
    monkeypatch.setenv("S3_BUCKET", "chosen")
    shown = run("config").stdout
    assert shown.count("vision-assets up --parts") == 3
    assert re.search(r"S3_BUCKET +│ chosen +│ environment", shown)
    assert re.search(r"AWS_REGION +│ us-east-1 +│ default", shown)
