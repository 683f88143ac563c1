"""The process that decodes AVIF: what befalls it from outside is not the picture's fault."""

import os
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from PIL import Image

from tests.pictures import encoded
from vision_assets.core.errors import DecoderUnavailable
from vision_assets.core.pictures import decode_upright


def decoders() -> list[psutil.Process]:
    """List the processes that decode for this one."""
    running = psutil.process_iter(["ppid", "cmdline"])  # passes over those that end meanwhile
    ours = [process for process in running if process.info["ppid"] == os.getpid()]
    return [child for child in ours if "isolated_decoder" in " ".join(child.info["cmdline"] or ())]


def when_it_runs(act: Callable[[psutil.Process], None]) -> None:
    """Do something to a decoder as soon as there is one."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for process in decoders():
            act(process)
            return
        time.sleep(0.001)


def test_a_decoder_that_is_killed_rejects_no_picture() -> None:
    """A machine short of memory kills it; the picture stays to do."""
    large = encoded(Image.effect_noise((4000, 3000), 60), "AVIF", speed=10)
    with ThreadPoolExecutor(1) as pool:
        decoding = pool.submit(decode_upright, large)
        killing = threading.Thread(target=when_it_runs, args=[psutil.Process.kill])
        killing.start()
        with pytest.raises(DecoderUnavailable, match="signal 9"):
            decoding.result(60)
        killing.join()
    assert decode_upright(large).size == (4000, 3000)


def test_a_decoder_that_cannot_start_rejects_no_picture() -> None:
    """Without a file descriptor left no process is started; the picture stays to do."""
    small = encoded(Image.new("RGB", (64, 64), "teal"), "AVIF")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those that are open stay so
    try:
        with pytest.raises(DecoderUnavailable, match="did not run"):
            decode_upright(small)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert decode_upright(small).size == (64, 64)
