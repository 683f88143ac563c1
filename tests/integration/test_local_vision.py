"""The local provider with the real Tesseract, and with programs that stand in for a broken one."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageFilter
from structlog.testing import capture_logs

from tests import pictures
from tests.results import seen_by
from vision_assets.clients.local_vision import LocalVision
from vision_assets.clients.tesseract import Tesseract
from vision_assets.core.errors import InputRejected
from vision_assets.core.vision import Analysis, Kind, VisionProvider

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="needs tesseract-ocr and tesseract-ocr-rus from the distribution"
)


async def look_at(image: Image.Image, picture_format: str = "JPEG") -> Analysis:
    """Analyse one picture with the real program."""
    async with LocalVision.open() as provider:
        return await seen_by(provider, pictures.encoded(image, picture_format, quality=85))


def broken_tesseract(folder: Path, reading: str) -> str:
    """Write a program that lists its languages as Tesseract does, and reads as the shell command given."""
    program = folder / "tesseract"
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        '  --version) echo "tesseract 9.9.9" ;;\n'
        '  --list-langs) printf "List of languages\\nrus\\neng\\n" ;;\n'
        f"  *) {reading} ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    return str(program)


@needs_tesseract
@pytest.mark.parametrize(
    ("image", "kind", "text"),
    [
        (pictures.document(repeat=1), Kind.DOCUMENT, pictures.RUSSIAN),
        (pictures.document(pictures.ENGLISH, repeat=1), Kind.DOCUMENT, pictures.ENGLISH),
        (pictures.shaded_scan(), Kind.DOCUMENT, " ".join([pictures.RUSSIAN] * 3)),
        (pictures.meme(), Kind.MEME, "КОГДА СБОРКА УПАЛА НО ПЯТНИЦА ВЕЧЕР"),
        (pictures.meme("THE BUILD IS GREEN", "NOBODY KNOWS WHY"), Kind.MEME, "THE BUILD IS GREEN NOBODY KNOWS WHY"),
        (pictures.photo(), Kind.PHOTO, ""),
        (pictures.blank(), Kind.OTHER, ""),
    ],
    ids=["russian page", "english page", "shaded scan", "russian meme", "english meme", "photo", "blank"],
)
async def test_rendered_pictures_are_read_word_by_word(image: Image.Image, kind: Kind, text: str) -> None:
    """Pages, scans in shadow and white captions are read whole; nothing is read where nothing is written."""
    found = await look_at(image)
    assert (found.status, found.ocr.status) == ("ok", "ok")
    assert " ".join((found.ocr.text or "").split()) == text
    assert found.classification.kind == kind
    assert found.is_meme == (kind == Kind.MEME)
    assert found.labels[0] == kind


@needs_tesseract
@pytest.mark.parametrize(
    ("image", "kind", "text"),
    [
        (pictures.screenshot(), Kind.SCREENSHOT, "Рабочий чат"),
        (pictures.infographic(), Kind.INFOGRAPHIC, "Продажи по городам"),
    ],
    ids=["screenshot", "infographic"],
)
async def test_screens_and_charts_are_told_apart(image: Image.Image, kind: Kind, text: str) -> None:
    """The kind rests on what OCR found, so both are checked together."""
    found = await look_at(image)
    assert found.classification.kind == kind
    assert text in (found.ocr.text or "")


@needs_tesseract
async def test_only_what_was_measured_is_said() -> None:
    """No description, no scene, no guess about safety; the size is the upright one of the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = pictures.encoded(pictures.photo(800, 400).resize((3200, 1600)), "JPEG", exif=exif)
    async with LocalVision.open() as opened:
        provider: VisionProvider = opened
        found = await seen_by(provider, content)
    assert (found.description, found.scene, found.nsfw_score, found.aesthetic_score) == (None, None, None, None)
    assert (found.objects, found.tokens_used, found.cost_microunits) == ([], 0, 0)
    assert (found.measurement.width, found.measurement.height) == (1600, 3200)
    assert (found.ocr.engine or "").startswith("tesseract ")


@needs_tesseract
async def test_labels_name_codes_blur_and_animation() -> None:
    """Each label stands for a measurement."""
    assert "qr code" in (await look_at(pictures.qr_code("https://example.org"))).labels
    blurred = pictures.photo().filter(ImageFilter.GaussianBlur(8)).convert("L").convert("RGB")
    assert {"photo", "blurred", "monochrome"} <= set((await look_at(blurred)).labels)
    moving = pictures.encoded(pictures.blank(), "GIF", save_all=True, append_images=[pictures.photo(640, 480)])
    async with LocalVision.open() as provider:
        assert "animated" in (await seen_by(provider, moving, mime="image/gif")).labels


@needs_tesseract
async def test_a_tiny_picture_is_not_read() -> None:
    """Below 32 px Tesseract invents letters; there is no text, and no engine is named."""
    found = await look_at(pictures.photo(200, 31))
    assert (found.status, found.ocr.status, found.ocr.text, found.ocr.engine) == ("ok", "ok", "", None)


@needs_tesseract
async def test_a_missing_language_is_noticed_at_the_start() -> None:
    """The program itself would go on without it and exit with 0."""
    found = await Tesseract.find(languages="rus+xyz")
    assert found.unavailable == "Tesseract lacks xyz; install tesseract-ocr-xyz"


async def test_without_tesseract_everything_else_is_there() -> None:
    """The result is partial and says what to install; the log says it once, not for each picture."""
    content = pictures.encoded(pictures.qr_code("https://example.org"), "PNG")
    with capture_logs() as entries:
        async with LocalVision.open(command="no-such-program") as provider:
            results = [await seen_by(provider, content, mime="image/png") for _ in range(3)]
    assert [entry["event"] for entry in entries] == ["ocr.unavailable"]
    for found in results:
        assert (found.status, found.ocr.status, found.ocr.text) == ("partial", "unavailable", None)
        assert "install tesseract-ocr" in (found.ocr.reason or "")
        assert found.measurement.barcodes[0].text == "https://example.org"


@pytest.mark.parametrize(
    ("reading", "reason"),
    [("exec sleep 60", "longer than 0.3 s"), ("echo oops >&2; exit 3", "exited with 3: oops")],
    ids=["too slow", "exits with an error"],
)
async def test_a_pass_that_breaks_off_is_not_an_empty_text(tmp_path: Path, reading: str, reason: str) -> None:
    """Status `failed`, no text, and the reason."""
    tesseract = await Tesseract.find(
        languages="rus+eng", command=broken_tesseract(tmp_path, reading), pass_timeout_seconds=0.3
    )
    found = await tesseract.read(pictures.document(repeat=1))
    assert (found.ocr.status, found.ocr.text, found.words) == ("failed", None, None)
    assert reason in (found.ocr.reason or "")


async def test_a_cancelled_analysis_leaves_no_process_behind(tmp_path: Path) -> None:
    """The child is dead when the cancellation has come through."""
    pid_file = tmp_path / "pid"
    command = broken_tesseract(tmp_path, f"echo $$ > {pid_file}; exec sleep 60")
    async with LocalVision.open(command=command) as provider:
        task = asyncio.create_task(seen_by(provider, pictures.encoded(pictures.blank())))
        while not pid_file.exists() or not pid_file.read_text().strip():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


async def test_a_damaged_picture_is_rejected() -> None:
    """A permanent error with a code, from before anything is computed."""
    async with LocalVision.open(command="no-such-program") as provider:
        with pytest.raises(InputRejected) as caught:
            await seen_by(provider, pictures.encoded(pictures.photo())[:9000])
    assert caught.value.reason == "truncated"


async def test_the_fingerprint_follows_what_can_change_the_answer(tmp_path: Path) -> None:
    """Other languages or another Tesseract: the same picture may be read differently."""
    broken = broken_tesseract(tmp_path, "exit 1")
    fingerprints = []
    for languages, command in (("rus+eng", broken), ("rus", broken), ("rus+eng", "no-such-program")):
        async with LocalVision.open(languages=languages, command=command) as provider:
            fingerprints.append(provider.fingerprint)
            assert "_" not in provider.name + provider.model
    assert len(set(fingerprints)) == 3
