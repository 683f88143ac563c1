"""Which hashes are candidates, and which candidates are the same picture."""

import io
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision_assets.core.neighbours import CHUNK_BITS, RADIUS_BITS, Fingerprint, probes, same_picture
from vision_assets.core.phash import perceptual_hash
from vision_assets.core.pictures import decode_upright

PHOTO = Path(__file__).parents[2] / "examples" / "city_walks" / "photos" / "photo_1@20-10-2026_12-00-00.jpg"

hashes = st.integers(min_value=0, max_value=2**64 - 1)
flipped_bits = st.sets(st.integers(min_value=0, max_value=63), max_size=RADIUS_BITS)


@given(hashes, flipped_bits)
def test_probes_find_every_neighbour(phash: int, flipped: set[int]) -> None:
    """Whatever up to six bits differ, one chunk of the neighbour stands in the probes."""
    neighbour = phash
    for bit in flipped:
        neighbour ^= 1 << bit
    assert any((neighbour >> (CHUNK_BITS * chunk)) & 0xFFFF in values for chunk, values in enumerate(probes(phash)))


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
