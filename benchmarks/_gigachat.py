"""The emulated GigaChat in a process of its own, so that its work is not done in the loop that is measured.

What is not here: what it answers (`vision_assets/devstack/gigachat*.py`), and who calls it (`pipeline.py`).
"""

import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.emulated_gigachat import EmulatedGigaChat
from vision_assets.devstack.gigachat_tls import CA_FILE
from vision_assets.devstack.processes import accepts, free_port

_START_SECONDS = 30


@contextmanager
def running_gigachat(folder: Path) -> Iterator[tuple[EmulatedGigaChat, psutil.Process]]:
    """Run an emulator until the block is left.

    Args:
        folder: For its certificates.
    """
    port = free_port()
    module = (sys.executable, "-m", "vision_assets.devstack.gigachat")
    server = subprocess.Popen([*module, "--port", str(port), "--dir", str(folder)])
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not accepts(port):
            assert server.poll() is None, "the emulator did not start"
            assert time.monotonic() < deadline, "the emulator does not answer"
            time.sleep(0.05)
        trust = ssl.create_default_context(cafile=folder / CA_FILE)
        with httpx.Client(verify=trust, trust_env=False) as control:
            emulator = EmulatedGigaChat(f"https://127.0.0.1:{port}", folder / CA_FILE, trust, control)
            yield emulator, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()
