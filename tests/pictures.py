"""Small functions that render test pictures, the same at every call. What is not here: assertions."""

import io
import textwrap
from typing import Any

import numpy as np
import pytest
import zxingcpp
from PIL import Image, ImageDraw, ImageFont

RUSSIAN = (
    "Правление товарищества сообщает, что общее собрание жильцов состоится в субботу утром. На повестке дня ремонт "
    "крыши, замена труб и уборка двора. Просим каждого принести письменные предложения. Решение принимается простым "
    "большинством голосов присутствующих. Протокол собрания будет вывешен у входа."
)
ENGLISH = (
    "The river was calm in the morning and the boats stayed close to the harbour. Nobody expected the weather to "
    "change before noon. Later the wind grew stronger and every sailor looked at the sky. They decided to wait for "
    "another day."
)


def encoded(image: Image.Image, picture_format: str = "JPEG", **options: Any) -> bytes:
    """Encode with Pillow; `options` go to its `save`."""
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


def photo(width: int = 960, height: int = 720, *, seed: int = 1) -> Image.Image:
    """Render a photo-like picture: noise of every scale (as in nature, the finer the weaker), colours, no text."""
    rng = np.random.default_rng(seed)
    planes = np.zeros((height, width, 3))
    for octave in range(1, 9):
        coarse = rng.uniform(-1, 1, (2**octave, 2**octave, 3)) * [1.0, 0.8, 0.9]
        for channel in range(3):
            layer = Image.fromarray(coarse[:, :, channel].astype(np.float32))
            planes[:, :, channel] += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC)) / octave
    planes = (planes - planes.min()) / (planes.max() - planes.min()) * 255 + rng.normal(0, 3, planes.shape)
    return Image.fromarray(np.clip(planes, 0, 255).astype(np.uint8))


def document(text: str = RUSSIAN, *, width: int = 900, height: int = 1200, repeat: int = 3) -> Image.Image:
    """Render a page: black serif text on white."""
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    font = _font("DejaVuSerif.ttf", 24)
    top = 80
    for _ in range(repeat):
        for line in textwrap.wrap(text, width=(width - 160) // 15):
            draw.text((80, top), line, "black", font)
            top += 36
        top += 36
    return page


def shaded_scan(text: str = RUSSIAN) -> Image.Image:
    """Render a page as a bad scan: one side in deep shadow, and grain."""
    page = np.asarray(document(text), dtype=np.float64)
    shadow = np.linspace(1.0, 0.25, page.shape[1])[None, :, None]
    grain = np.random.default_rng(2).normal(0, 6, page.shape[:2])[:, :, None]
    return Image.fromarray(np.clip(page * shadow + grain, 0, 255).astype(np.uint8))


def meme(top: str = "КОГДА СБОРКА УПАЛА", bottom: str = "НО ПЯТНИЦА ВЕЧЕР", *, seed: int = 1) -> Image.Image:
    """Render a photo with white captions in a black outline, above and below."""
    image = photo(seed=seed)
    draw = ImageDraw.Draw(image)
    font = _font("DejaVuSans-Bold.ttf", 64)
    for text, y in ((top, 60), (bottom, image.height - 70)):
        draw.text((image.width / 2, y), text, "white", font, anchor="mm", stroke_width=5, stroke_fill="black")
    return image


def screenshot(width: int = 720, height: int = 1480) -> Image.Image:
    """Render a messenger on a phone: status bar, header, bubbles, input line."""
    screen = Image.new("RGB", (width, height), "#e6ebee")
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, width, 150), "#517da2")
    draw.text((24, 12), "12:41", "white", _font("DejaVuSans-Bold.ttf", 24))
    draw.text((150, 80), "Рабочий чат", "white", _font("DejaVuSans-Bold.ttf", 32))
    draw.ellipse((40, 64, 116, 140), "#e17076")
    font = _font("DejaVuSans.ttf", 26)
    top = 190
    for number, line in enumerate(textwrap.wrap(RUSSIAN, width=68)):
        mine = number % 2 == 1
        left = 150 if mine else 24
        draw.rounded_rectangle((left, top, left + 540, top + 130), 18, "#effdde" if mine else "white")
        draw.multiline_text((left + 20, top + 14), textwrap.fill(line, 34), "black", font, spacing=8)
        top += 160
    draw.rectangle((0, height - 90, width, height), "white")
    draw.text((90, height - 62), "Сообщение", "#999999", font)
    return screen


def infographic(width: int = 1000, height: int = 800) -> Image.Image:
    """Render a bar chart with title, figures and axis labels."""
    chart = Image.new("RGB", (width, height), "#fdf6e3")
    draw = ImageDraw.Draw(chart)
    draw.text((width / 2, 60), "Продажи по городам", "#073642", _font("DejaVuSans-Bold.ttf", 44), anchor="mm")
    label, figure = _font("DejaVuSans.ttf", 24), _font("DejaVuSans-Bold.ttf", 30)
    bars = (("Москва", 90, "#dc322f"), ("Казань", 62, "#268bd2"), ("Пермь", 41, "#859900"), ("Омск", 28, "#b58900"))
    for number, (city, value, colour) in enumerate(bars):
        left = 110 + number * 215
        top = 700 - value * 6
        draw.rectangle((left, top, left + 140, 700), colour)
        draw.text((left + 70, top - 28), f"{value} %", "#073642", figure, anchor="mm")
        draw.text((left + 70, 740), city, "#073642", label, anchor="mm")
    return chart


def qr_code(text: str, *, scale: int = 8) -> Image.Image:
    """Render a QR code with its quiet zone."""
    code = zxingcpp.create_barcode(text, zxingcpp.BarcodeFormat.QRCode)
    return Image.fromarray(np.array(code.to_image(scale=scale))).convert("RGB")


def blank(width: int = 640, height: int = 480, colour: str = "white") -> Image.Image:
    """Render one colour."""
    return Image.new("RGB", (width, height), colour)


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        pytest.skip("needs the DejaVu fonts (fonts-dejavu-core); .ci/run installs them", allow_module_level=True)
