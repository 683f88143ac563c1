"""Tesseract by its command line: which passes a picture needs, and which of them is believed.

What is not here: decoding (`core/pictures.py`), and conclusions from the words (`core/kind.py`).
"""

import asyncio
import contextlib
import os
import resource
import signal
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image

from vision_assets.core.kind import Word
from vision_assets.core.measurement import scaled_down
from vision_assets.core.vision import Ocr

log = structlog.get_logger(__name__)

LEAST_WORD_CONFIDENCE = 0.6
# Below this edge there is nothing to read, and Tesseract invents letters.
LEAST_EDGE = 32
_LONGEST_EDGE = 2560
# Whoever reads this many words in the plain picture looks at a page; a mask pass takes long there and finds nothing.
_WORDS_OF_A_PAGE = 15
# The pass for shaded scans sees words in grain too; it counts only if it is sure of most of what it saw.
_LEAST_SHARE_OF_SURE_WORDS = 0.6

# White captions; the shares are those of white in the whole picture that leave room for a caption and for a photo.
_CAPTION_LUMA = 225
_CAPTION_SHARES = (0.002, 0.35)
_CAPTION_WORD_CONFIDENCE = 0.8
_LEAST_CAPTION_LETTERS = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """What one picture says.

    Attributes:
        ocr: For the result.
        words: With their boxes, for the kind; None where nothing could be read.
    """

    ocr: Ocr
    words: tuple[Word, ...] | None


@dataclass(frozen=True, slots=True)
class Tesseract:
    """The installed program, or why it cannot be used. Made by `find`.

    Attributes:
        languages: As Tesseract takes them, for example `rus+eng`.
        version: Of the program; None where there is none.
        unavailable: None when it can read; else what is missing and what to install.
        command: Name or path of the program.
        pass_cpu_seconds: After which a pass is ended. CPU time, so that a busy machine reads what an idle one does.
        pass_timeout_seconds: After which a pass is killed whatever it does.
    """

    languages: str
    version: str | None
    unavailable: str | None
    command: str
    pass_cpu_seconds: int
    pass_timeout_seconds: float

    @classmethod
    async def find(
        cls,
        *,
        languages: str,
        command: str = "tesseract",
        pass_cpu_seconds: int = 10,
        pass_timeout_seconds: float = 60.0,
    ) -> "Tesseract":
        """Ask the program for its version and languages; asked once, because `-l` with an unknown one exits with 0."""
        version, unavailable = await _inquire(command, languages, pass_timeout_seconds)
        return cls(languages, version, unavailable, command, pass_cpu_seconds, pass_timeout_seconds)

    @property
    def engine(self) -> str:
        """Name, version and languages, for the result and the fingerprint."""
        return f"tesseract {self.version} {self.languages}" if self.version else "tesseract"

    async def read(self, image: Image.Image) -> Reading:
        """Read an upright bitmap; at most three passes, each in a child process.

        Never raises for a bad picture: where a pass breaks off and no text was found, the status is `failed`.
        """
        if self.unavailable is not None:
            return Reading(Ocr(status="unavailable", reason=self.unavailable), words=None)
        if min(image.size) < LEAST_EDGE:
            return Reading(Ocr(status="ok", text=""), words=())
        page = await asyncio.to_thread(_prepare, image)
        failures: list[str] = []
        best = await self._attempt(page.plain, failures)
        if failures:
            return Reading(Ocr(status="failed", engine=self.engine, reason=failures[0]), words=None)
        if page.captions and len(best.words) < _WORDS_OF_A_PAGE:
            captions = _captions(await self._attempt(page.captions, failures, "--psm", "6"))
            if captions.letters > best.letters:
                return _reading(captions, self.engine)
        if page.is_shaded and best.seen:
            shaded = await self._attempt(page.plain, failures, "-c", "thresholding_method=2")
            if shaded.letters > best.letters and len(shaded.words) >= _LEAST_SHARE_OF_SURE_WORDS * shaded.seen:
                best = shaded
        if failures and not best.words:
            return Reading(Ocr(status="failed", engine=self.engine, reason=failures[0]), words=None)
        return _reading(best, self.engine)

    async def _attempt(self, pgm: bytes, failures: list[str], *options: str) -> "_Pass":
        try:
            arguments = ("stdin", "stdout", "-l", self.languages, "--dpi", "300", *options, "tsv")
            tsv = await _run(
                self.command,
                *arguments,
                timeout_seconds=self.pass_timeout_seconds,
                cpu_seconds=self.pass_cpu_seconds,
                stdin=pgm,
            )
        except (_PassFailed, OSError) as error:
            log.warning("ocr.pass_failed", options=" ".join(options), error=str(error))
            failures.append(str(error))
            return _Pass(lines=(), seen=0)
        return _parse(tsv.decode("utf-8", "replace"))


class _PassFailed(Exception):
    """One run of the program gave no output; the text says why."""


@dataclass(frozen=True, slots=True)
class _Pass:
    lines: tuple[tuple[Word, ...], ...]
    seen: int

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for line in self.lines for word in line)

    @property
    def letters(self) -> float:
        """Letters and digits, weighted with the confidence: more is a better reading of the same picture."""
        return sum(word.letters * word.confidence for word in self.words)


@dataclass(frozen=True, slots=True)
class _Page:
    plain: bytes
    captions: bytes | None
    is_shaded: bool


def _prepare(image: Image.Image) -> _Page:
    grey = scaled_down(image.convert("L"), _LONGEST_EDGE)
    luma = np.asarray(grey)
    white = luma > _CAPTION_LUMA
    captions = None
    if _CAPTION_SHARES[0] <= white.mean() <= _CAPTION_SHARES[1]:
        captions = _pgm(Image.fromarray(np.where(_without_specks(white), 0, 255).astype(np.uint8)))
    return _Page(_pgm(grey), captions, _is_shaded(luma))


def _is_shaded(luma: NDArray[np.uint8]) -> bool:
    """Tell whether the background (the brightest pixel of each block) drifts, as paper in uneven light does."""
    block = max(8, max(luma.shape) // 32)
    rows, columns = luma.shape[0] // block, luma.shape[1] // block
    if rows < 2 or columns < 2:
        return False
    background = (
        luma[: rows * block, : columns * block].reshape(rows, block, columns, block).max(axis=(1, 3)).astype(int)
    )
    low, high = np.percentile(background, (5, 95))
    drift = np.median(np.abs(np.diff(background, axis=1)))
    return bool(high - low >= 40 and drift >= 1)


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep what a 3×3 square fits into: without it Tesseract takes ten times as long over grain, and loses captions."""
    wide = mask[:, :-2] & mask[:, 1:-1] & mask[:, 2:]
    core = np.pad(wide[:-2] & wide[1:-1] & wide[2:], 2)
    tall = core[:-2] | core[1:-1] | core[2:]
    return tall[:, :-2] | tall[:, 1:-1] | tall[:, 2:]


def _pgm(grey: Image.Image) -> bytes:
    return b"P5 %d %d 255\n" % grey.size + grey.tobytes()


def _parse(tsv: str) -> _Pass:
    """Read Tesseract's table: level 1 is the page, 5 a word; pages without words have no level 5."""
    lines: dict[tuple[str, ...], list[Word]] = {}
    seen = 0
    page_width = page_height = 1
    for row in tsv.splitlines()[1:]:
        cells = row.split("\t")
        if len(cells) < 12:
            continue
        left, top, width, height = (int(cell) for cell in cells[6:10])
        if cells[0] == "1":
            page_width, page_height = max(width, 1), max(height, 1)
        text = cells[11].strip()
        if cells[0] != "5" or not text:
            continue
        seen += 1
        confidence = float(cells[10]) / 100
        if confidence >= LEAST_WORD_CONFIDENCE:
            box = (left / page_width, top / page_height, width / page_width, height / page_height)
            lines.setdefault(tuple(cells[2:5]), []).append(Word(text, confidence, *box))
    return _Pass(tuple(map(tuple, lines.values())), seen)


def _captions(found: _Pass) -> _Pass:
    """Keep the lines with a clear word: white spots of the photo come out as signs and single letters between them."""
    clear = [
        [word for word in line if word.letters]
        for line in found.lines
        if any(word.letters >= 2 and word.confidence >= _CAPTION_WORD_CONFIDENCE for word in line)
    ]
    if sum(word.letters for line in clear for word in line) < _LEAST_CAPTION_LETTERS:
        clear = []
    return _Pass(tuple(map(tuple, clear)), found.seen)


def _reading(found: _Pass, engine: str) -> Reading:
    words = found.words
    # A lone sign or letter in a picture is texture, not text.
    if not any(word.letters >= 2 for word in words):
        return Reading(Ocr(status="ok", text="", engine=engine), words=())
    text = "\n".join(" ".join(word.text for word in line) for line in found.lines)
    confidence = round(sum(word.confidence for word in words) / len(words), 3)
    return Reading(Ocr(status="ok", text=text, engine=engine, confidence=confidence), words)


async def _inquire(command: str, languages: str, timeout_seconds: float) -> tuple[str | None, str | None]:
    """Find the version, and what is missing."""
    try:
        version = (await _run(command, "--version", timeout_seconds=timeout_seconds)).split()[1].decode()
        listing = await _run(command, "--list-langs", timeout_seconds=timeout_seconds)
    except (FileNotFoundError, PermissionError):
        return None, "Tesseract is not installed; install tesseract-ocr and tesseract-ocr-rus"
    except (_PassFailed, IndexError, OSError) as error:
        return None, f"Tesseract does not start ({error}); reinstall tesseract-ocr"
    installed = listing.decode().splitlines()[1:]
    missing = [language for language in languages.split("+") if language not in installed]
    if not missing:
        return version, None
    packages = " ".join(f"tesseract-ocr-{language.replace('_', '-')}" for language in missing)
    return version, f"Tesseract lacks {', '.join(missing)}; install {packages}"


async def _run(
    command: str, *arguments: str, timeout_seconds: float, cpu_seconds: int | None = None, stdin: bytes = b""
) -> bytes:
    process = await asyncio.create_subprocess_exec(
        command,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # More threads only burn CPU on one picture.
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
    )
    try:
        if cpu_seconds is not None and hasattr(resource, "prlimit"):  # Linux; elsewhere the wall clock alone counts
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
        async with asyncio.timeout(timeout_seconds):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError as error:
        raise _PassFailed(f"Tesseract took longer than {timeout_seconds:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == -signal.SIGXCPU:
        raise _PassFailed(f"Tesseract took longer than {cpu_seconds} s of CPU time")
    if process.returncode:
        raise _PassFailed(
            f"Tesseract exited with {process.returncode}: {stderr.decode('utf-8', 'replace')[:200].strip()}"
        )
    return stdout
