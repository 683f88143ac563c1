"""The rules for the kind, on rendered pictures with the words placed by hand."""

import pytest
from PIL import Image

from tests import pictures
from vision_assets.core.kind import METHOD, Word, classify, look
from vision_assets.core.vision import Kind


def row(text: str, *, top: float, height: float, left: float = 0.1, right: float = 0.9) -> list[Word]:
    """Place the words of one line side by side."""
    words = text.split()
    width = (right - left) / len(words)
    return [Word(word, 0.95, left + number * width, top, width, height) for number, word in enumerate(words)]


def page_words(image: Image.Image) -> list[Word]:
    """Cover the lines of `pictures.document`: they begin at 80 px and are 36 px apart."""
    tops = range(80, image.height - 80, 36)
    return [
        word for top in tops for word in row("шесть слов на одной этой строке", top=top / image.height, height=0.03)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_photo_without_words_is_a_photo(seed: int) -> None:
    """Nature has soft edges and many tones; without OCR the rules are less sure."""
    appearance = look(pictures.photo(seed=seed))
    with_ocr, without = classify(appearance, []), classify(appearance, None)
    assert with_ocr.kind == without.kind == Kind.PHOTO
    assert (without.confidence or 1) < (with_ocr.confidence or 0) <= 0.8
    assert with_ocr.method == METHOD


def test_large_words_at_the_edges_make_a_meme_and_in_the_middle_a_sign() -> None:
    """A street sign or a shirt does not turn a photo into an image macro."""
    appearance = look(pictures.meme())
    captions = row("КОГДА СБОРКА УПАЛА", top=0.05, height=0.07) + row("НО ПЯТНИЦА", top=0.87, height=0.07)
    assert classify(appearance, captions).kind == Kind.MEME
    assert classify(appearance, row("ПРОДУКТЫ", top=0.47, height=0.07)).kind == Kind.PHOTO
    assert classify(appearance, row("фото автора", top=0.97, height=0.012)).kind == Kind.PHOTO


@pytest.mark.parametrize("page", [pictures.document(), pictures.shaded_scan()])
def test_a_page_of_text_is_a_document(page: Image.Image) -> None:
    """Clean or in deep shadow: nearly everything drawn is text."""
    assert classify(look(page), page_words(page)).kind == Kind.DOCUMENT


def test_a_phone_screen_is_a_screenshot() -> None:
    """Flat colours in a phone's shape, with and without words."""
    screen = pictures.screenshot()
    words = [word for number in range(8) for word in row("слова в пузыре чата", top=0.1 + number / 10, height=0.015)]
    assert classify(look(screen), words).kind == Kind.SCREENSHOT
    assert classify(look(screen), None).kind == Kind.SCREENSHOT


def test_a_chart_is_an_infographic() -> None:
    """Few words among much that is drawn in strong colours."""
    words = row("Продажи по городам", top=0.05, height=0.06) + row("Москва Казань Пермь Омск", top=0.9, height=0.03)
    assert classify(look(pictures.infographic()), words).kind == Kind.INFOGRAPHIC


@pytest.mark.parametrize(
    "image", [pictures.blank(), pictures.blank(1, 1), pictures.blank(7, 2000), pictures.qr_code("https://example.org")]
)
def test_what_fits_nothing_is_other_with_little_confidence(image: Image.Image) -> None:
    """Blank, tiny and coded pictures are not forced into a kind."""
    found = classify(look(image), [])
    assert (found.kind, found.confidence) == (Kind.OTHER, 0.5)
