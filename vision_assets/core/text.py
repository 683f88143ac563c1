"""From text to sparse vectors: words, stems, trigrams. The same text gives the same vectors in every process.

What is not here: what a post's text consists of and how hits are judged (`search.py`), and the index (`clients/`).
"""

import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from zlib import crc32

import mmh3
import pymorphy3
from snowballstemmer.english_stemmer import EnglishStemmer
from snowballstemmer.russian_stemmer import RussianStemmer

_SOURCES = ("pymorphy3", "pymorphy3-dicts-ru", "snowballstemmer")

# Vectors of two encoders must not meet in one collection: another dictionary is another encoder. Raise the leading
# number whenever this file changes what it makes of a text.
ENCODER_VERSION = f"v1-{crc32(' '.join(version(name) for name in _SOURCES).encode()):08x}"

K1 = 1.2
B = 0.75
# BM25 weighs a term against the mean length of all documents. A mean that moves would make every stored vector stale,
# so it is a constant: about a post and the text of its picture. It scales long against short posts, no more.
AVERAGE_WORDS = 60
AVERAGE_TRIGRAMS = 400

# Longer ones are keys, hashes and noise of OCR: taken as they stand.
LONGEST_STEMMED = 40

_STOP_WORDS = """
    а без бы был была были было быть в вам вас во вот все вы да для до его ее если есть еще же за и из или им их к как
    ко когда кто ли мне мы на над нам нас не него нее нет ни них но о об он она они оно от по под при про с со так там
    то тоже только ты у уже чем что чтобы эта эти это этот я
    a an and are as at be been but by do for from had has have he her his i if in is it its me my not of on or our she
    so that the their them they this to was we were what which who will with you your
    http https www
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_WORD = re.compile(r"[^\W_]+")
# Characters that are asked to be drawn as emoji, and keycaps: NFKC would make letters and digits out of them.
_EMOJI_FORM = re.compile("[0-9#*]\ufe0f?\u20e3|.\ufe0f")
_STRESS_MARKS = "\u0300\u0301"
_LATIN = "abcehikmoptxy"
_CYRILLIC = "авсенікмортху"
_TO_CYRILLIC = str.maketrans(_LATIN, _CYRILLIC)
_TO_LATIN = str.maketrans(_CYRILLIC, _LATIN)
_IS_LATIN = re.compile("[a-z]")
_IS_CYRILLIC = re.compile("[\u0400-\u04ff]")


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Weights of the terms that are there; never empty.

    Attributes:
        indices: Term ids, ascending, each once.
        values: Their weights.
    """

    indices: tuple[int, ...]
    values: tuple[float, ...]


def normalise(text: str) -> str:
    """Bring a text to the form in which words are compared: NFKC, lower case, ё as е, no emoji, no stress marks."""
    text = "".join(" " if unicodedata.category(char) == "So" else char for char in _EMOJI_FORM.sub(" ", text))
    text = unicodedata.normalize("NFKC", text)
    # Soft hyphens and zero-width characters stand inside words.
    text = "".join(char for char in text if char not in _STRESS_MARKS and unicodedata.category(char) != "Cf")
    return text.lower().replace("ё", "е")


def words(text: str) -> list[str]:
    """Split a text into its words, normalised, in order, without stop words."""
    tokens = (_fold_homoglyphs(token) for token in _WORD.findall(normalise(text)))
    return [token for token in tokens if token not in STOP_WORDS]


def _fold_homoglyphs(token: str) -> str:
    """Write a word that mixes Latin and Cyrillic look-alikes in the script of most of its letters."""
    latin, cyrillic = len(_IS_LATIN.findall(token)), len(_IS_CYRILLIC.findall(token))
    if not latin or not cyrillic:
        return token
    folded = token.translate(_TO_CYRILLIC if cyrillic >= latin else _TO_LATIN)
    # A letter without a look-alike means that both scripts are meant.
    return token if _IS_LATIN.search(folded) and _IS_CYRILLIC.search(folded) else folded


@cache
def _morphology() -> pymorphy3.MorphAnalyzer:
    return pymorphy3.MorphAnalyzer()


_russian = RussianStemmer()
_english = EnglishStemmer()
_stemming = threading.Lock()  # the stemmers keep their word in themselves, and pages are encoded in threads


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Join the inflected forms of a word: the lemma's stem for Russian, the stem for English, else the word itself.

    Args:
        word: One of `words`.
    """
    if len(word) > LONGEST_STEMMED:
        return word
    with _stemming:
        if _IS_CYRILLIC.search(word):
            lemma = _morphology().parse(word)[0].normal_form.replace("ё", "е")
            return str(_russian.stemWord(lemma))
        if _IS_LATIN.search(word):
            return str(_english.stemWord(word))
    return word


def trigrams(word: str) -> frozenset[str]:
    """Tell a word's pieces of three letters, its borders counted as a letter each."""
    padded = f" {word} "
    return frozenset(padded[start : start + 3] for start in range(len(padded) - 2))


def bm25_document(tokens: Iterable[str]) -> SparseVector | None:
    """Weigh a document's stems; the index adds the inverse document frequency.

    Args:
        tokens: The document's `words`.

    Returns:
        None for a document without words: an empty vector must not be stored.
    """
    return _weighed((_term_id(stem(token)) for token in tokens), average=AVERAGE_WORDS)


def trigram_document(tokens: Iterable[str]) -> SparseVector | None:
    """Weigh a document's trigrams as `bm25_document` does its stems."""
    return _weighed((term for token in tokens for term in _trigram_ids(token)), average=AVERAGE_TRIGRAMS)


def bm25_query(tokens: Iterable[str]) -> SparseVector | None:
    """Tell a query's stems, each of weight 1."""
    return _unweighed(_term_id(stem(token)) for token in tokens)


def trigram_query(tokens: Iterable[str]) -> SparseVector | None:
    """Tell a query's trigrams, each of weight 1."""
    return _unweighed(term for token in tokens for term in _trigram_ids(token))


def similarity(one: str, other: str) -> float:
    """Tell how alike two words are written, 0–1: Dice's coefficient of their trigrams."""
    left, right = trigrams(one), trigrams(other)
    return 2 * len(left & right) / (len(left) + len(right))


def _term_id(term: str) -> int:
    return abs(mmh3.hash(term))


@lru_cache(maxsize=100_000)
def _trigram_ids(word: str) -> tuple[int, ...]:
    return tuple(sorted(_term_id(piece) for piece in trigrams(word)))


def _weighed(terms: Iterable[int], *, average: int) -> SparseVector | None:
    counts = Counter(terms)
    if not counts:
        return None
    length = K1 * (1 - B + B * counts.total() / average)
    # Four digits are more than the index keeps apart, and half the bytes on the wire.
    weights = {term: round(count * (K1 + 1) / (count + length), 4) for term, count in sorted(counts.items())}
    return SparseVector(tuple(weights), tuple(weights.values()))


def _unweighed(terms: Iterable[int]) -> SparseVector | None:
    ids = tuple(sorted(set(terms)))
    return SparseVector(ids, (1.0,) * len(ids)) if ids else None
