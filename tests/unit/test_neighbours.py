"""Which hashes are candidates, and which candidates are the same picture."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision_assets.core.neighbours import (
    CHUNKS,
    RADIUS_BITS,
    Criterion,
    Fingerprint,
    Likeness,
    Strictness,
    compare,
    differences,
    same_picture,
)
from vision_assets.core.phash import perceptual_hash
from vision_assets.core.pictures import decode_upright

PHOTO = Path(__file__).parents[2] / "examples" / "city_walks" / "photos" / "photo_1@20-10-2026_12-00-00.jpg"

hashes = st.integers(min_value=0, max_value=2**64 - 1)
flipped_bits = st.sets(st.integers(min_value=0, max_value=63), max_size=RADIUS_BITS)


@given(hashes, flipped_bits)
def test_one_chunk_of_every_neighbour_is_near(phash: int, flipped: set[int]) -> None:
    """Whatever up to six bits differ, one chunk of the neighbour differs by something that is looked for."""
    neighbour = phash
    for bit in flipped:
        neighbour ^= 1 << bit
    assert any(
        ((phash ^ neighbour) >> chunk.shift) & ((1 << chunk.bits) - 1) in differences(chunk.bits, chunk.radius_bits)
        for chunk in CHUNKS
    )


def test_chunks_cover_a_hash() -> None:
    """Each bit once, and the values that are looked for are few."""
    assert [chunk.shift for chunk in CHUNKS] == [0, 16, 33, 50]
    assert sum(chunk.bits for chunk in CHUNKS) == 64
    assert [len(differences(chunk.bits, chunk.radius_bits)) for chunk in CHUNKS] == [17, 18, 18, 1]
    assert sum(chunk.radius_bits + 1 for chunk in CHUNKS) == RADIUS_BITS + 1


def fingerprint(picture: Image.Image) -> Fingerprint:
    """What the index keeps of a picture."""
    hashed = perceptual_hash(picture)
    return Fingerprint(hashed.phash, hashed.phash256, hashed.thumbnail, picture.width, picture.height)


def recompressed(picture: Image.Image, quality: int) -> Image.Image:
    """The picture after a lossy round."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_copies_are_the_same_picture() -> None:
    """Recompressed and resized copies are recognised."""
    photo = decode_upright(PHOTO.read_bytes())
    own = fingerprint(photo)
    assert same_picture(own, fingerprint(recompressed(photo, 60)))
    assert same_picture(own, fingerprint(photo.resize((photo.width * 5 // 8, photo.height * 5 // 8))))


def test_changed_pictures_are_others() -> None:
    """A crop, a mirror image, another aspect and a pasted patch are other pictures, however near the hash."""
    photo = decode_upright(PHOTO.read_bytes())
    own = fingerprint(photo)
    width, height = photo.size
    assert not same_picture(own, fingerprint(photo.crop((width // 8, height // 8, width, height))))
    assert not same_picture(own, fingerprint(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert not same_picture(own, fingerprint(photo.resize((width, height * 9 // 10))))
    patched = photo.copy()
    patched.paste("white", (width // 2, height // 2, width // 2 + width // 20, height // 2 + height // 20))
    assert not same_picture(own, fingerprint(patched))


def test_how_far_apart() -> None:
    """A brighter copy lies nowhere else; one bit, one bit of 256, a wider frame and one cell are told as they are."""
    own = Fingerprint(0, bytes(32), bytes([100] * 4096), 1000, 500)
    assert compare(own, Fingerprint(0, bytes(32), bytes([120] * 4096), 500, 250)) == Likeness(0, 0, 0.0, 0.0)
    cells = bytearray([100] * 4096)
    cells[7] = 141
    other = Fingerprint(0b1011, bytes(31) + b"\1", bytes(cells), 1010, 500)
    found = compare(own, other)
    assert (found.distance_bits, found.distance_256_bits) == (3, 1)
    assert found.aspect_difference == pytest.approx(0.01)
    assert found.cell_difference == pytest.approx(41 * 4095 / 4096, abs=1e-3)
    assert compare(other, own) == found


@pytest.mark.parametrize(
    ("likeness", "strictness", "criterion"),
    [
        (Likeness(6, 10, 0.015, 8), "strict", None),
        (Likeness(8, 12, 0.02, 13), "strict", "hash_radius"),
        (Likeness(6, 12, 0.02, 13), "strict", "hash_256"),
        (Likeness(6, 10, 0.02, 13), "strict", "aspect"),
        (Likeness(6, 10, 0.015, 8.1), "strict", "cells"),
        (Likeness(6, 10, 0.015, 12), "normal", None),
        (Likeness(6, 10, 0.015, 12.1), "normal", "cells"),
    ],
)
def test_the_first_criterion_that_fails(
    likeness: Likeness, strictness: Strictness, criterion: Criterion | None
) -> None:
    """Up to each limit two pictures are the same; beyond it the criterion is named."""
    assert likeness.exceeds(strictness) == criterion
