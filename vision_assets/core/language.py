"""In which language a post is written, where that can be told for sure.

What is not here: what follows from it (`policy.py`), and words and stems for the search (`text.py`).
"""

import re
import unicodedata
from functools import cache, lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

SURE = 0.8
"""Of 1. Below it a Russian text may pass for a Bulgarian one."""

MIN_LETTERS = 20
"""Fewer are a name or an exclamation as often as a sentence."""

_WIDE_AS_LETTERS = 3
_UNKNOWN = "und"
_NO_LANGUAGE = "zxx"
_ADDRESSES = re.compile(
    r"https?://\S+|\S+@[\w.-]+|[@#/]\w+|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}\b(?:/\S*)?", re.IGNORECASE | re.ASCII
)
_TAGS = re.compile(r"[@#]\w+")


@lru_cache(maxsize=1024)  # pictures of one post come one after the other
def language_of(text: str) -> str | None:
    """Tell the language of a post by its ISO 639-1 code.

    Links, addresses, mentions, hashtags and emoji say nothing of it. A post is of one language if the whole of it is
    surely in that language, and none of its lines is surely in another.

    Args:
        text: As it was posted.

    Returns:
        None: too short, mixed, or not sure.
    """
    plain = unicodedata.normalize("NFKC", _TAGS.sub(" ", _ADDRESSES.sub(" ", text)))
    lines = [line for line in map(_words, plain.splitlines()) if line]
    found = _sure_language(" ".join(lines))
    if found is None or len(lines) == 1:
        return found
    return found if all(_sure_language(line) in (None, found) for line in lines) else None


def _words(line: str) -> str:
    """Keep letters with their marks, and punctuation."""
    kept = (character if unicodedata.category(character)[0] in "LMP" else " " for character in line)
    return " ".join("".join(kept).split())


def _sure_language(text: str) -> str | None:
    if not _has_enough_letters(text):
        return None
    language, _ = _identifier().classify(text)
    return None if language in (_UNKNOWN, _NO_LANGUAGE) else str(language)


def _has_enough_letters(text: str) -> bool:
    """Count letters as far as MIN_LETTERS; a wide one, as in Chinese, is half a word."""
    letters = 0
    for character in text:
        if character.isalpha():
            letters += _WIDE_AS_LETTERS if unicodedata.east_asian_width(character) == "W" else 1
            if letters >= MIN_LETTERS:
                return True
    return False


@cache
def _identifier() -> LanguageIdentifier:
    """Load the model: a third of a second and 100 MB, and most processes never need it.

    Dialects and creoles, which have codes of three letters only, count for the languages that they are nearest to.
    """
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=SURE)
    identifier.set_languages([code for code in identifier.labels if len(code) == 2 or code == _NO_LANGUAGE])
    return identifier
