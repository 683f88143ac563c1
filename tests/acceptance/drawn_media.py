"""Many small pictures in a folder, some of them there twice and some there in another size or compression.

What is not here: what becomes of them.
"""

import hashlib
import random
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.pictures import encoded

WIDTH, HEIGHT = 128, 96
_CELLS = (18, 24)  # coarse enough to outlive another compression, fine enough to fill both hashes
_QUALITY = 90
_SHARES = {"original": 0.6, "copy": 0.2, "alike": 0.2}


@dataclass(frozen=True, slots=True)
class DrawnMedia:
    """What lies in the folder.

    Attributes:
        files: Number of files.
        originals: Hashes of pictures that look like no other original.
        alike: Hash of each further rendering of an original → hash of the original.
    """

    folder: Path
    files: int
    originals: Set[str]
    alike: Mapping[str, str]

    @property
    def distinct(self) -> Set[str]:
        """Hashes of all contents."""
        return self.originals | self.alike.keys()


def draw_media(folder: Path, number: int, *, first_seed: int, chance: random.Random) -> DrawnMedia:
    """Fill a folder; whatever repeats another file comes later by name.

    Args:
        number: Of files.
        first_seed: Of the first original; each further one has the next.
        chance: Of what is repeated, and how.
    """
    folder.mkdir()
    originals: list[tuple[str, int]] = []
    alike: dict[str, str] = {}
    for place in range(number):
        [kind] = chance.choices(tuple(_SHARES), tuple(_SHARES.values())) if originals else ["original"]
        if kind == "original":
            seed = first_seed + len(originals)
            content = encoded(_picture(seed), quality=_QUALITY)
            originals.append((hashlib.sha256(content).hexdigest(), seed))
        else:
            sha256, seed = chance.choice(originals)
            content = encoded(_picture(seed), quality=_QUALITY) if kind == "copy" else _rendered_anew(seed, chance)
            if kind == "alike":
                alike[hashlib.sha256(content).hexdigest()] = sha256
        (folder / f"{place:06}.jpg").write_bytes(content)
    return DrawnMedia(folder, number, frozenset(sha256 for sha256, _ in originals), alike)


def _picture(seed: int) -> Image.Image:
    """Render coloured cells that run into each other."""
    cells = np.random.default_rng(seed).integers(0, 256, (*_CELLS, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def _rendered_anew(seed: int, chance: random.Random) -> bytes:
    """Render an original in another compression, and often in another size."""
    scale = chance.choice((1, 1.5, 2, 2.5))
    picture = _picture(seed).resize((int(WIDTH * scale), int(HEIGHT * scale)), Image.Resampling.LANCZOS)
    return encoded(picture, quality=chance.choice((86, 88, 92, 94)))
