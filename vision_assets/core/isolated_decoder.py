"""The program that decodes one picture within a limit of memory: a file at its input, RGB pixels at its output.

What is not here: who starts it, and what its answers mean (`isolated_decoding.py`).
"""

import resource
import sys

from vision_assets.core.errors import InputRejected
from vision_assets.core.isolated_decoding import MAX_ADDRESS_SPACE_BYTES, REJECTED, SIZE_BYTES
from vision_assets.core.pictures import decode_here


def _main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE_BYTES, MAX_ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        image = decode_here(sys.stdin.buffer.read())
    except InputRejected as error:
        sys.stdout.write(f"{error.reason}\n{error}")
        return REJECTED
    except MemoryError:
        megabytes = MAX_ADDRESS_SPACE_BYTES // 2**20
        sys.stdout.write(f"decode_failed\nthe picture takes more than {megabytes} MiB to decode; send it smaller")
        return REJECTED
    for edge in image.size:
        sys.stdout.buffer.write(edge.to_bytes(SIZE_BYTES // 2, "big"))
    sys.stdout.buffer.write(image.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
