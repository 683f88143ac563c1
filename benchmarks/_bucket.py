"""A bucket of many objects on a real S3 server: rclone over a folder of files without content.

rclone reads only the folders that a page of a listing needs, so its cost does not grow with the bucket.
What is not here: who lists it (`reconcile.py`).
"""

import hashlib
import http.client
import os
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from vision_assets.core.storage import media_key
from vision_assets.core.tenants import TenantId
from vision_assets.devstack.processes import free_port

BUCKET = "benchmark"
ACCESS_KEY_ID, SECRET_ACCESS_KEY = "benchmark-key-id", "benchmark-secret-key"
_START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Server:
    """A running S3 server."""

    endpoint_url: str
    process: psutil.Process


def objects(tenant_id: TenantId, count: int) -> Iterator[tuple[str, int]]:
    """Name a tenant's objects, always the same ones, with their sizes in bytes."""
    for number in range(count):
        sha256 = hashlib.sha256(b"%d" % number).hexdigest()
        yield media_key(tenant_id, sha256, extension="jpg"), 1_000 + number % 100_000


def fill(folder: Path, tenant_id: TenantId, count: int) -> None:
    """Write the objects as files that have a size and no content."""
    parents = set()
    bucket = folder / BUCKET
    for key, size in objects(tenant_id, count):
        parent, _, name = key.rpartition("/")
        if parent not in parents:
            (bucket / parent).mkdir(parents=True)
            parents.add(parent)
        file = os.open(f"{bucket}/{parent}/{name}", os.O_WRONLY | os.O_CREAT)
        os.ftruncate(file, size)
        os.close(file)


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """Serve a folder, whose own folders are buckets, as S3 on the loopback interface."""
    port = free_port()
    program = Path(sysconfig.get_path("scripts")) / "rclone"
    server = subprocess.Popen(
        [
            *(program, "serve", "s3", folder, "--addr", f"127.0.0.1:{port}", "--config", os.devnull),
            *("--auth-key", f"{ACCESS_KEY_ID},{SECRET_ACCESS_KEY}", "--read-only"),
            *("--etag-hash", "", "--dir-cache-time", "24h", "--vfs-refresh"),  # it neither hashes nor looks twice
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_start(port)
        yield Server(f"http://127.0.0.1:{port}", psutil.Process(server.pid))
    finally:
        server.terminate()
        server.wait()


def _await_start(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        finally:
            connection.close()
