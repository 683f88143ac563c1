"""Decoding in a process of its own, which may take only so much memory and time.

For AVIF, whose decoder takes what the stream asks for, whatever the file's header says. It costs a start of Python a
picture. What is not here: the program that the process runs (`isolated_decoder.py`), and what a refusal is called.
"""

import os
import signal
import subprocess
import sys

from PIL import Image

from vision_assets.core.errors import DecoderUnavailable

MAX_ADDRESS_SPACE_BYTES = 3 * 2**29
"""Of the process, Python included; 25 MP with an alpha channel need half of it."""

MAX_CPU_SECONDS = 60
"""Of the process; 25 MP take about two."""

_PATIENCE_SECONDS = 600
# What ends a process from outside: an operator, a container that stops, a machine that is short of memory.
_ENDED_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})

REJECTED = 3
"""The exit code when the answer is what the decoder says; with 0 it is the picture."""

MODE_BYTES, EDGE_BYTES = 8, 4
"""Before the pixels: Pillow's name of their layout, filled up with blanks, then width and height, big-endian."""

_PROGRAM = "vision_assets.core.isolated_decoder"


def decode_isolated(content: bytes) -> Image.Image:
    """Decode the first frame of an AVIF in another process, as it is stored.

    Raises:
        ValueError: It cannot be decoded, not within the limits, or the decoder ended by itself.
        DecoderUnavailable: Transient: it did not start, or was ended from outside.
    """
    # glibc would lay out 64 MiB of address space for each thread of the decoder.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-m", _PROGRAM]
    try:
        ended = subprocess.run(
            command, input=content, capture_output=True, env=environment, timeout=_PATIENCE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DecoderUnavailable(f"The process that decodes AVIF did not run: {error}") from error
    if ended.returncode in _ENDED_FROM_OUTSIDE:
        raise DecoderUnavailable(f"The process that decodes AVIF was ended by signal {-ended.returncode}.")
    if ended.returncode == -signal.SIGXCPU:
        raise ValueError(f"it takes more than {MAX_CPU_SECONDS} seconds")
    if ended.returncode == REJECTED:
        raise ValueError(ended.stdout.decode())
    if ended.returncode != 0:
        last_words = ended.stderr[-100:].decode(errors="replace").strip()
        raise ValueError(f"its decoder ended with {ended.returncode}: {last_words}")
    edges_at, pixels_at = MODE_BYTES, MODE_BYTES + 2 * EDGE_BYTES
    width, height = (
        int.from_bytes(ended.stdout[at : at + EDGE_BYTES], "big") for at in (edges_at, edges_at + EDGE_BYTES)
    )
    mode = ended.stdout[:MODE_BYTES].decode().strip()
    return Image.frombytes(mode, (width, height), memoryview(ended.stdout)[pixels_at:])
