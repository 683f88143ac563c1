"""Words, stems and sparse vectors."""

import asyncio
import subprocess
import sys

import pytest

from vision_assets.core import text

PROGRAM = """
from vision_assets.core import text
words = text.words("Взяли ипотеку: ставки банков и договоры, running inv0ices 2024")
print(text.ENCODER_VERSION, text.bm25_document(words), text.trigram_document(words), text.trigram_query(words))
"""


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Ёжик и ЕЖИК", ["ежик", "ежик"]),
        ("За\u0301мок, пере\u00adнос", ["замок", "перенос"]),
        ("𝐇𝐞𝐥𝐥𝐨 ﬁne", ["hello", "fine"]),
        ("cбербанк Аpple", ["сбербанк", "apple"]),  # the first letter of each is of the other script
        ("USBкабель", ["usbкабель"]),
        ("1️⃣🔥👍🏽❤️™ℹ️🇷🇺 !!!", []),
        ("", []),
    ],
)
def test_words_are_normalised(written: str, expected: list[str]) -> None:
    """Case, ё, stress marks, fancy letters and look-alikes do not matter; emoji are not words."""
    assert text.words(written) == expected


@pytest.mark.parametrize(
    "forms",
    ["ипотека ипотеки ипотекой ИПОТЕКУ", "люди человек людьми", "ёжик ежиками", "invoice invoices", "running runs"],
)
def test_inflected_forms_share_a_stem(forms: str) -> None:
    """All forms of a word are one term."""
    assert len({text.stem(word) for word in text.words(forms)}) == 1


def test_text_without_words_has_no_vector() -> None:
    """An empty sparse vector must never reach the index."""
    assert text.bm25_document([]) is None
    assert text.trigram_document([]) is None
    assert text.bm25_query([]) is None
    assert text.trigram_query([]) is None


def test_repeated_words_weigh_more_but_saturate() -> None:
    """A term's weight grows with its count and stays below k1 + 1; ids are ascending and each there once."""
    once, twice, often = (text.bm25_document(["кот"] * count) for count in (1, 2, 50))
    assert once
    assert twice
    assert often
    assert once.values[0] < twice.values[0] < text.K1 + 1
    assert often.values[0] < text.K1 + 1
    several = text.bm25_document(text.words("ипотека банк ипотека ставка"))
    assert several
    assert several.indices == tuple(sorted(set(several.indices)))


def test_vectors_are_the_same_in_every_process() -> None:
    """Python's hash seed has no part in ids, weights or order."""
    answers = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    assert text.ENCODER_VERSION in answers.pop()


async def test_stems_are_right_when_threads_share_the_stemmers() -> None:
    """Pages of several tenants are encoded in threads; a stemmer's state must not leak between them."""
    words = [f"{root}{ending}" for root in ("договор", "приказ", "закон") for ending in ("ами", "ов", "у", "ом")] * 50
    text.stem.cache_clear()
    expected = [text.stem(word) for word in words]
    stem = text.stem.__wrapped__  # without the cache, so that the stemmers do work at once

    def stem_all() -> list[str]:
        return [stem(word) for word in words]

    assert await asyncio.gather(*(asyncio.to_thread(stem_all) for _ in range(4))) == [expected] * 4
