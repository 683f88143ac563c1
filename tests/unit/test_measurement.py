"""Colours, blur and barcodes of rendered pictures."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests import pictures
from vision_assets.core.measurement import MAX_COLOURS, measure


def test_colours_come_most_frequent_first() -> None:
    """Three quarters blue and a quarter yellow are those two colours in that order."""
    image = pictures.blank(400, 400, "#1040c0")
    image.paste("#f0d020", (0, 0, 400, 100))
    assert measure(image).dominant_colors == ["#1040c0", "#f0d020"]


def test_near_equal_colours_are_one() -> None:
    """Two reds that nobody tells apart do not fill the list."""
    image = pictures.blank(200, 200, "#c01010")
    image.paste("#c81414", (0, 0, 100, 200))
    assert len(measure(image).dominant_colors) == 1


def test_paper_stays_white_and_a_photo_has_no_more_than_five() -> None:
    """A page is white first; the list is never longer than the schema allows."""
    assert measure(pictures.document()).dominant_colors[0] == "#ffffff"
    assert 1 <= len(measure(pictures.photo()).dominant_colors) <= MAX_COLOURS


def test_blur_falls_with_sharpness() -> None:
    """The figure orders the same picture by how blurred it is."""
    sharp = pictures.photo()
    figures = [measure(sharp.filter(ImageFilter.GaussianBlur(radius))).blur for radius in (0, 2, 6)]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] > 4 * figures[2]
    assert measure(pictures.blank()).blur == 0


@pytest.mark.parametrize("turn", [0, 90, 17])
def test_a_qr_code_is_read_in_russian_and_turned(turn: int) -> None:
    """Its text comes out whole, wherever it stands in a larger picture."""
    image = pictures.photo(1200, 900)
    image.paste(pictures.qr_code("https://example.org/привет", scale=6).rotate(turn, fillcolor="white"), (500, 300))
    (found,) = measure(image).barcodes
    assert (found.format, found.text) == ("QR Code", "https://example.org/привет")


def test_no_barcode_is_seen_where_there_is_none() -> None:
    """Stripes of text and noise are not a barcode."""
    for image in (pictures.photo(), pictures.document(), pictures.screenshot(), pictures.blank()):
        assert measure(image).barcodes == []


def test_the_same_pixels_give_the_same_answer_at_the_true_size() -> None:
    """A reduced bitmap is reported at the picture's own size, and nothing is random."""
    image = pictures.photo(300, 200)
    assert measure(image, size=(3000, 2000)) == measure(image.copy(), size=(3000, 2000))
    assert (measure(image, size=(3000, 2000)).width, measure(image).width) == (3000, 300)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 2)])
def test_odd_sizes_are_measured(size: tuple[int, int]) -> None:
    """The smallest and the thinnest pictures have figures as well."""
    image = Image.fromarray(np.full((size[1], size[0], 3), 90, dtype=np.uint8))
    assert measure(image).dominant_colors == ["#5a5a5a"]
