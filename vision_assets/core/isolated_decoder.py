"""The program that decodes one AVIF within a limit of memory: the file at its input, the pixels at its output.

It imports little, as it is started for every picture. What is not here: who starts it, and what its answers mean
(`isolated_decoding.py`).
"""

import io
import resource
import sys

from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile

from vision_assets.core.isolated_decoding import (
    EDGE_BYTES,
    MAX_ADDRESS_SPACE_BYTES,
    MAX_CPU_SECONDS,
    MODE_BYTES,
    REJECTED,
)


def decode(content: bytes) -> Image.Image:
    """Decode the first frame as it is stored, in this process."""
    image = AvifImageFile(io.BytesIO(content))
    image.load()
    return image


def _main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE_BYTES, MAX_ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        image = decode(sys.stdin.buffer.read())
    except MemoryError:
        sys.stdout.write(f"it takes more than {MAX_ADDRESS_SPACE_BYTES // 2**20} MiB of memory")
        return REJECTED
    except Exception as error:  # noqa: BLE001 - the decoder says of foreign bytes what it likes; it is passed on
        sys.stdout.write(str(error))
        return REJECTED
    sys.stdout.buffer.write(image.mode.ljust(MODE_BYTES).encode())
    for edge in image.size:
        sys.stdout.buffer.write(edge.to_bytes(EDGE_BYTES, "big"))
    sys.stdout.buffer.write(image.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
