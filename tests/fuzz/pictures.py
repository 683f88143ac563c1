"""Fuzz `examine` with atheris: `make fuzz`, or `python -m tests.fuzz.pictures CORPUS [libFuzzer's options]`.

The seeds are written into the corpus first. A finding ends the run, and its input is left where `-artifact_prefix`
says: an error other than `InputRejected`, a warning, a text that Postgres cannot hold, a hang (`-timeout`) or too much
memory (`-rss_limit_mb`). When it is mended it goes to `tests/safety/findings/`.
"""

import random
import struct
import sys
import warnings
import zlib
from pathlib import Path

import atheris

from tests.fuzz.seeds import seeds

# Before the imports: what the core lets pass it says later, so that holds.
warnings.simplefilter("error")

with atheris.instrument_imports(include=["PIL", "vision_assets.core"]):
    from vision_assets.core.errors import InputRejected
    from vision_assets.core.isolated_decoder import decode
    from vision_assets.core.media import examine
    from vision_assets.core.pictures import probe

_LONGEST_MESSAGE = 1_000
_PNG = b"\x89PNG\r\n\x1a\n"


def one_input(content: bytes) -> None:
    """Examine one file as a step does; whatever is not a result or a clean refusal escapes."""
    try:
        if content[4:8] == b"ftyp":
            _in_this_process(content)
        else:
            examine(content)[2].model_dump_json()
    except InputRejected as error:
        message = str(error)
        if len(message) > _LONGEST_MESSAGE or "\0" in message:
            raise ValueError(f"a message of {len(message)} characters: {message[:200]!r}") from error


def _in_this_process(avif: bytes) -> None:
    """Do what `examine` does of an AVIF, where its time and memory can be seen."""
    probe(avif)
    try:
        decode(avif)
    except Exception as error:  # noqa: BLE001 - as the process that decodes, which passes on what its decoder says
        str(error).encode()


def mutated(content: bytes, max_size: int, seed: int) -> bytes:
    """Mutate a file and, mostly, put its checksums and lengths right again, so that it gets past the first check."""
    changed = bytes(atheris.Mutate(content, max_size))
    if random.Random(seed).random() < 0.1:
        return changed
    if changed.startswith(_PNG):
        return _with_checksums(changed)[:max_size]
    if changed[:4] == b"RIFF" and changed[8:12] == b"WEBP":
        return changed[:4] + struct.pack("<I", len(changed) - 8) + changed[8:]
    return changed


def _with_checksums(content: bytes) -> bytes:
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        end = at + 8 + min(int.from_bytes(content[at : at + 4], "big"), len(content) - at - 12)
        body = content[at + 4 : end]
        parts.append(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
        at = end + 4
    return b"".join(parts) + content[at:]


if __name__ == "__main__":
    for name, seed in seeds().items():
        Path(sys.argv[1], name).write_bytes(seed)
        one_input(seed)  # once outside: what is compiled at its first use takes its seconds here
    atheris.Setup(sys.argv, one_input, custom_mutator=mutated)
    atheris.Fuzz()
