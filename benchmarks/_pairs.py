"""Pairs of pictures that differ in one small thing that changes what they say.

Each is drawn once, and again with one mark exchanged. What is not here: the pictures (`_screens.py`,
`_photographs.py`), and whether a pair is taken for one picture (`reuse.py`).
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random

from PIL import Image

from benchmarks._browser import rendered
from benchmarks._photographs import meme, price_tag, with_a_part_mirrored
from benchmarks._screens import APPS, LAMPS, OPEN_EYES, SHUT_EYES, Screen, screen, without_or_with_tick
from benchmarks._words import other_word
from vision_assets.core.pictures import decode_upright

_VOWELS = "аеиоуыэюя"


def _other_digit(content: str, chance: Random) -> str:
    places = [place for place, character in enumerate(content) if character.isdigit()]
    place = chance.choice(places)
    digit = chance.choice([digit for digit in "123456789" if digit != content[place]])
    return content[:place] + digit + content[place + 1 :]


def _other_number(content: str, chance: Random) -> str:
    return "".join(chance.choice("123456789") if character.isdigit() else character for character in content)


def _other_letter(content: str, chance: Random) -> str:
    places = [place for place, character in enumerate(content) if character.lower() in _VOWELS]
    if not places:
        return content
    place = chance.choice(places)
    other = chance.choice([vowel for vowel in _VOWELS if vowel != content[place].lower()])
    return content[:place] + (other.upper() if content[place].isupper() else other) + content[place + 1 :]


def _other_colour(content: str, chance: Random) -> str:
    for pair in LAMPS:
        for own, other in (pair, pair[::-1]):
            if own in content:
                return content.replace(own, other)
    return content


def _swapped_stripes(content: str, chance: Random) -> str:
    for one, other in LAMPS:
        if one in content:
            return content.replace(one, "#").replace(other, one).replace("#", other, 2).replace(other + "fff", "#fff")
    return content


def _turned(content: str, chance: Random) -> str:
    return re.sub(r"\((\d+)deg", lambda found: f"({(int(found[1]) + 180) % 360}deg", content)


def _other_eyes(content: str, chance: Random) -> str:
    return content.replace(OPEN_EYES, SHUT_EYES) if OPEN_EYES in content else content.replace(SHUT_EYES, OPEN_EYES)


# Of each class: the mark, and what becomes of its content.
_CHANGES: dict[str, tuple[str, Callable[[str, Random], str]]] = {
    "digit": ("digit", _other_digit),
    "total": ("total", _other_number),
    "clock": ("clock", _other_digit),
    "word": ("word", other_word),
    "letter": ("word", _other_letter),
    "negation": ("negation", lambda content, _: "" if content else "не "),
    "tick": ("tick", lambda content, _: without_or_with_tick(content)),
    "lamp": ("lamp", _other_colour),
    "flag": ("flag", _swapped_stripes),
    "arrow": ("arrow", _turned),
    "face": ("face", _other_eyes),
    "caption": ("caption", other_word),
    "price tag": ("tag", _other_digit),
}
CLASSES = (*_CHANGES, "meme", "mirrored part")


def pairs(kind: str, seeds: Sequence[int]) -> Iterator[tuple[int, bytes, bytes]]:
    """Make pairs of one class, one for each seed; a pair that came out alike to the pixel is left out."""
    made: Iterable[tuple[int, bytes, bytes]]
    if kind == "mirrored part":
        made = ((seed, *with_a_part_mirrored(seed)) for seed in seeds)
    else:
        sides = rendered(side for seed in seeds for side in _drawn(kind, seed))
        made = zip(seeds, sides[::2], sides[1::2], strict=True)
    for seed, one, other in made:
        if one != other:
            yield (seed, *_sent(one, other, seed))


def _drawn(kind: str, seed: int) -> tuple[Screen, Screen]:
    chance = Random(f"pair {kind} {seed}")
    if kind == "meme":
        own = meme(seed)
        texts = iter(re.findall(_marked("caption"), meme(seed + 1_000_000).html) * 3)
        return own, replace(
            own, html=re.sub(_marked("caption"), lambda _: f'<s class="caption">{next(texts)}</s>', own.html)
        )
    mark, change = _CHANGES[kind]
    if mark in ("caption", "tag"):
        own = meme(seed) if mark == "caption" else price_tag(seed)
    else:
        apps = [app for app in APPS if re.search(_marked(mark), screen(app, seed).html)]
        own = screen(chance.choice(apps), seed)
    place = chance.choice(list(re.finditer(_marked(mark), own.html)))
    changed = own.html[: place.start(1)] + change(place[1], chance) + own.html[place.end(1) :]
    return own, replace(own, html=changed)


def _marked(mark: str) -> str:
    return f'<s class="{mark}">(.*?)</s>'


def _sent(one: bytes, other: bytes, seed: int) -> tuple[bytes, bytes]:
    """Send a pair: as files, as photographs of a messenger, or one of them through a second messenger."""
    if seed % 3 == 0:
        return one, other
    chance = Random(f"sent {seed}")
    sent = decode_upright(other)
    quality = 87
    if seed % 3 == 2:
        quality, scale = chance.randrange(60, 90), chance.uniform(0.4, 1)
        sent = sent.resize((round(sent.width * scale), round(sent.height * scale)), Image.Resampling.LANCZOS)
    return _messenger(decode_upright(one), 87), _messenger(sent, quality)


def sent_small(content: bytes, seed: int) -> bytes:
    """Send a preview."""
    image, scale = decode_upright(content), Random(f"small {seed}").uniform(0.2, 0.4)
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return _messenger(small, 80)


def _messenger(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()
