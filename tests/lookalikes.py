"""Pictures that look alike, and posts that show them, for tests of their reuse. What is not here: assertions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from tests.bench import Bench
from tests.pictures import photo
from tests.posted import Posted


def spotted(place: int, *, by: int = 40) -> Image.Image:
    """A photograph with a small spot, by which it is another picture though the hash hardly differs."""
    pixels = np.asarray(photo(320, 240)).astype(int)
    left, top = 20 + (place % 6) * 48, 20 + (place // 6) * 48
    pixels[top : top + 6, left : left + 6] += by
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@dataclass(slots=True)
class Posts:
    """Shows pictures to a bench, each in a post of its own."""

    bench: Bench
    folder: Path
    shown: int = 0

    async def show(self, *pictures: Image.Image) -> list[str]:
        """Post pictures; give their hashes."""
        known = len(self.bench.sha256s)
        for picture in pictures:
            self.shown += 1
            file = self.folder / f"{self.shown}.png"
            picture.save(file)
            await self.bench.world.load(
                self.bench.tenant, Posted((file,), channel=f"of_{self.shown}", message_id=self.shown)
            )
        await self.bench.show(Posted(()))
        return self.bench.sha256s[known:]


def copies(count: int = 1) -> list[Image.Image]:
    """Copies of the photograph without a spot, in other sizes."""
    return [photo(320, 240).resize((300 - 20 * number, 225 - 15 * number)) for number in range(count)]


def with_more_contrast() -> Image.Image:
    """The photograph without a spot, as an app shows it that livens pictures up: too different for strict cells."""
    return ImageEnhance.Contrast(photo(320, 240)).enhance(1.15)
