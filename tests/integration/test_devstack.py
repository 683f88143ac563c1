"""The embedded parts: they survive being killed, are reused, and live side by side."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from obstore.store import S3Store
from qdrant_client import AsyncQdrantClient, models

from tests.devstack import alive, kill, own_data_dir
from vision_assets.devstack import postgres, processes
from vision_assets.devstack.parts import Endpoints, running_parts, start_parts, status, stop_parts
from vision_assets.settings import Settings, data_dir, endpoints_file

ELSEWHERE = "http://somewhere.else"


@pytest.fixture
def environment() -> Iterator[pytest.MonkeyPatch]:
    """Give an empty data folder of the test's own."""
    with own_data_dir() as patch:
        yield patch


def pids() -> dict[str, int]:
    """Tell the pid of each running part."""
    return {part.name: part.pid for part in status() if part.pid}


def store(settings: Settings) -> S3Store:
    """Open the bucket that the settings lead to."""
    assert settings.aws_access_key_id
    assert settings.aws_secret_access_key
    return S3Store(
        settings.s3_bucket,
        endpoint=settings.s3_endpoint_url,
        access_key_id=settings.aws_access_key_id.get_secret_value(),
        secret_access_key=settings.aws_secret_access_key.get_secret_value(),
        region=settings.aws_region,
        client_options={"allow_http": True},
    )


async def write(settings: Settings) -> None:
    """Write something into each part, as its client does."""
    assert settings.database_url
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    await connection.execute("CREATE TABLE kept (word text); INSERT INTO kept VALUES ('котёнок')")
    await connection.close()
    await store(settings).put_async("folder/kept.txt", "щенок".encode())
    client = AsyncQdrantClient(url=settings.qdrant_url, check_compatibility=False)
    await client.create_collection("kept", {"dense": models.VectorParams(size=2, distance=models.Distance.COSINE)})
    await client.upsert("kept", [models.PointStruct(id=1, vector={"dense": [1.0, 0.0]}, payload={"word": "ёж"})])
    await client.close()


async def read(settings: Settings) -> list[object]:
    """Read back what `write` wrote."""
    assert settings.database_url
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    word = await connection.fetchval("SELECT word FROM kept WHERE lower(word) = lower('КОТЁНОК')")
    await connection.close()
    body = bytes(await (await store(settings).get_async("folder/kept.txt")).bytes_async())
    client = AsyncQdrantClient(url=settings.qdrant_url, check_compatibility=False)
    points = await client.retrieve("kept", [1])
    await client.close()
    return [word, body.decode(), points[0].payload]


async def test_data_outlives_a_kill_of_everything(environment: pytest.MonkeyPatch) -> None:
    """After kill -9 of all parts, starting again repairs all, on the same URLs, with the data."""
    first = start_parts()
    await write(Settings())
    for pid in pids().values():
        kill(pid)
    assert {part.state for part in status()} == {"dead"}
    again = start_parts()
    assert {part.state for part in status()} == {"running"}
    assert [getattr(again, name) for name in Endpoints.__slots__] == [
        getattr(first, name) for name in Endpoints.__slots__
    ]
    assert await read(Settings()) == ["котёнок", "щенок", {"word": "ёж"}]
    stop_parts()
    start_parts()
    assert await read(Settings()) == ["котёнок", "щенок", {"word": "ёж"}]


async def test_one_dead_part_is_replaced_alone(environment: pytest.MonkeyPatch) -> None:
    """What lives is reused, and its pid stays."""
    start_parts()
    before = pids()
    kill(before["qdrant"])
    start_parts()
    after = pids()
    assert after["qdrant"] != before["qdrant"]
    assert [after["postgres"], after["s3"]] == [before["postgres"], before["s3"]]


def test_two_starts_at_once_make_one_stack(environment: pytest.MonkeyPatch) -> None:
    """Two commands at the same time in one data folder start each part once."""
    environment.setenv("QDRANT_URL", ELSEWHERE)
    command = [sys.executable, "-c", "from vision_assets.devstack.parts import start_parts; start_parts()"]
    commands = [subprocess.Popen(command) for _ in range(2)]
    assert [one.wait(120) for one in commands] == [0, 0]
    folder = str(data_dir())
    servers = [one.pid for one in psutil.process_iter(["cmdline"]) if folder in " ".join(one.info["cmdline"] or ())]
    assert sorted(servers) == sorted(pid for name, pid in pids().items() if name != "s3")
    assert len(pids()) == 2


async def test_two_data_folders_side_by_side(environment: pytest.MonkeyPatch) -> None:
    """Another checkout has ports and data of its own; stopping one leaves the other alone."""
    one = start_parts()
    folder = data_dir()
    with own_data_dir():
        two = start_parts()
        assert one.database_url != two.database_url
        assert one.qdrant_url != two.qdrant_url
        assert one.s3_endpoint_url != two.s3_endpoint_url
        await write(Settings())
    environment.setenv("VISION_ASSETS_DATA_DIR", str(folder))
    assert {part.state for part in status()} == {"running"}
    await write(Settings())


def test_parts_are_private(environment: pytest.MonkeyPatch) -> None:
    """They listen on the loopback interface only, and what holds secrets is readable by its owner only."""
    start_parts()
    listening = [
        connection.laddr
        for pid in pids().values()
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert {address.ip for address in listening} == {"127.0.0.1"}
    for file in (endpoints_file(), data_dir() / "credentials.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "password" not in repr(start_parts())


def test_stop_removes_the_endpoints(environment: pytest.MonkeyPatch) -> None:
    """Settings lead nowhere once the parts are stopped, and stopping again is no error."""
    start_parts()
    assert Settings().database_url
    assert sorted(stop_parts()) == ["postgres", "qdrant", "s3"]
    assert not endpoints_file().exists()
    assert Settings().database_url is None
    assert stop_parts() == []


def test_external_parts_are_left_alone(environment: pytest.MonkeyPatch) -> None:
    """A part whose URL is set is not started, and its URL stays in force."""
    environment.setenv("DATABASE_URL", "postgresql://somewhere/else")
    environment.setenv("S3_ENDPOINT_URL", ELSEWHERE)
    start_parts()
    assert {part.name: part.state for part in status()} == {
        "postgres": "external",
        "s3": "external",
        "qdrant": "running",
    }
    settings = Settings()
    assert settings.database_url
    assert settings.database_url.get_secret_value() == "postgresql://somewhere/else"
    assert set(json.loads(endpoints_file().read_bytes())) == {"qdrant_url"}


def test_running_parts_stops_only_what_it_started(environment: pytest.MonkeyPatch) -> None:
    """A command that needs parts for a while leaves those running that ran before it."""
    environment.setenv("QDRANT_URL", ELSEWHERE)
    with running_parts():
        assert len(pids()) == 2
    assert pids() == {}
    start_parts()
    before = pids()
    with running_parts():
        assert pids() == before
    assert pids() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only as root does Postgres run as another user")
def test_a_closed_data_folder(environment: pytest.MonkeyPatch) -> None:
    """Below a folder that is closed to others, Postgres' data goes where its user can reach it, and status says so."""
    closed = data_dir() / "closed"
    closed.mkdir(mode=0o700)
    environment.setenv("VISION_ASSETS_DATA_DIR", str(closed))
    environment.setenv("S3_ENDPOINT_URL", ELSEWHERE)
    environment.setenv("QDRANT_URL", ELSEWHERE)
    folder = postgres.folder()
    try:
        start_parts()
        assert closed not in folder.parents
        assert status()[0].folder == folder
        assert (folder / "data" / "PG_VERSION").exists()
    finally:
        stop_parts()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_killed_server_that_is_not_written_down(environment: pytest.MonkeyPatch) -> None:
    """A Postgres whose state file is lost is ended, and its data folder taken over."""
    environment.setenv("S3_ENDPOINT_URL", ELSEWHERE)
    environment.setenv("QDRANT_URL", ELSEWHERE)
    start_parts()
    before = psutil.Process(pids()["postgres"])
    processes.forget("postgres")
    start_parts()
    assert pids()["postgres"] != before.pid
    assert not alive(before)


def test_logs_of_a_failed_part_are_quoted(environment: pytest.MonkeyPatch) -> None:
    """A part that cannot start says why, and the others are started and usable all the same."""
    start_parts()
    stop_parts(["qdrant"])
    shutil.rmtree(data_dir() / "qdrant")
    Path(data_dir() / "qdrant").write_text("a file where a folder should be")
    with pytest.raises(processes.PartFailed, match=r"(?s)qdrant ended at its start.*FileExistsError"):
        start_parts()
    assert set(pids()) == {"postgres", "s3"}
    assert Settings().database_url
