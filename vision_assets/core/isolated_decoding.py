"""Decoding in a process of its own, which may take only so much memory and time.

For formats whose decoder takes what the file asks for, whatever its header says. It costs a start of Python a picture.
What is not here: the program that the process runs (`isolated_decoder.py`).
"""

import os
import subprocess
import sys

from PIL import Image

from vision_assets.core.errors import InputRejected
from vision_assets.core.storable_text import storable

MAX_ADDRESS_SPACE_BYTES = 3 * 2**29
"""Of the process, Python included; 25 MP with an alpha channel need half of it."""

MAX_SECONDS = 60
"""25 MP take about three."""

REJECTED = 3
"""The exit code when the answer is a reason and a message, one a line; with 0 it is the size and the pixels."""

SIZE_BYTES = 8
"""Width and height before the pixels, four bytes each, the most significant first."""

_PROGRAM = "vision_assets.core.isolated_decoder"


def decode_isolated(content: bytes) -> Image.Image:
    """Decode to RGB in another process, as `pictures.decode_here` does it.

    Raises:
        InputRejected: As from `decode_here`, and `decode_failed` when the process took too much or ended by itself.
    """
    # glibc would lay out 64 MiB of address space for each thread of the decoder.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-m", _PROGRAM]
    try:
        ended = subprocess.run(
            command, input=content, capture_output=True, env=environment, timeout=MAX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputRejected("decode_failed", f"the picture takes more than {MAX_SECONDS} seconds to decode") from error
    if ended.returncode == REJECTED:
        reason, _, message = ended.stdout.decode().partition("\n")
        raise InputRejected(reason, message)
    if ended.returncode != 0:
        complaint = storable(ended.stderr[-200:].decode(errors="replace"))
        message = f"the picture's decoder ended with {ended.returncode}; open it in an editor and save it again"
        raise InputRejected("decode_failed", f"{message} ({complaint})")
    width, height = (int.from_bytes(ended.stdout[at : at + 4], "big") for at in (0, 4))
    return Image.frombytes("RGB", (width, height), memoryview(ended.stdout)[SIZE_BYTES:])
