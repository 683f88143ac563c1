"""Embedded parts of a test's own. What is not here: the fixtures that all tests share (`conftest.py`)."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from vision_assets.devstack.parts import stop_parts
from vision_assets.settings import Settings


@contextmanager
def own_data_dir() -> Iterator[pytest.MonkeyPatch]:
    """Have an empty data folder and no setting in the environment; stop the parts and remove the data afterwards.

    Not pytest's own temporary folder: that is closed to other users, and as root Postgres runs as one.
    """
    folder = Path(tempfile.mkdtemp(prefix="vision-assets-"))
    folder.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        patch.setenv("VISION_ASSETS_DATA_DIR", str(folder))
        try:
            yield patch
        finally:
            patch.setenv("VISION_ASSETS_DATA_DIR", str(folder))
            stop_parts()
            shutil.rmtree(folder)


def alive(process: psutil.Process) -> bool:
    """Tell whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    """Kill without warning, and wait until it is dead."""
    process = psutil.Process(pid)
    process.kill()
    while alive(process):
        time.sleep(0.01)
