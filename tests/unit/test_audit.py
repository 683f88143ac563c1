"""The shadow audit of reuse: which pictures it chooses, what it calls a difference, and what its check says."""

import pytest

from tests.results import result
from vision_assets.core.audit import Audits, agreement, differences, is_audited
from vision_assets.core.vision import Analysis, Kind

READ = "Добро пожаловать в городской парк, вход свободный для всех гостей"


def analysis(text: str | None = READ, **found: object) -> Analysis:
    """An answer; `found` overrides its parts."""
    labels = found.pop("labels", ("photo", "park", "tree"))
    kind = found.pop("kind", Kind.PHOTO)
    return result("a", text=text, labels=labels, kind=kind, **found).analysis  # type: ignore[arg-type]


def test_the_share_is_kept_and_the_choice_stays() -> None:
    """About one in a hundred is chosen, always the same ones; others under another prompt; none at 0, all at 1."""
    pictures = [f"{number:064x}" for number in range(20_000)]
    chosen = [sha256 for sha256 in pictures if is_audited(sha256, fingerprint="one", share=0.01)]
    assert 140 < len(chosen) < 260
    assert chosen == [sha256 for sha256 in pictures if is_audited(sha256, fingerprint="one", share=0.01)]
    assert chosen != [sha256 for sha256 in pictures if is_audited(sha256, fingerprint="two", share=0.01)]
    assert not any(is_audited(sha256, fingerprint="one", share=0.0) for sha256 in pictures)
    assert all(is_audited(sha256, fingerprint="one", share=1.0) for sha256 in pictures)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (analysis(), ()),
        (analysis(text=READ.replace("городской", "городскои").upper()), ()),
        (analysis(labels=("picture", "tree", "lake")), ()),
        (analysis(description="Совсем другие слова о том же"), ()),
        (analysis(text=None, ocr_status="failed"), ()),
        (analysis(kind=Kind.MEME), ("kind",)),
        (analysis(text=READ + " 2026"), ("numbers",)),
        (analysis(text="Вход в городской парк закрыт до весны по техническим причинам"), ("text",)),
        (analysis(text=""), ("text",)),
        (analysis(labels=("cat", "sofa", "window")), ("labels",)),
        (analysis(nsfw_score=0.9), ("nsfw",)),
        (analysis(kind=Kind.DOCUMENT, text="7"), ("kind", "numbers", "text")),
    ],
    ids=lambda value: "-".join(value) or "same" if isinstance(value, tuple) else "",
)
def test_what_counts_as_a_difference(own: Analysis, expected: tuple[str, ...]) -> None:
    """Words that waver do not count; another kind, number, text, subject or safety does."""
    assert differences(own, analysis(nsfw_score=0.1)) == expected


@pytest.mark.parametrize(
    ("agreeing", "differing", "severity"),
    [(0, 0, None), (0, 5, None), (100, 1, None), (98, 2, "warn"), (91, 9, "warn"), (90, 10, "error")],
)
def test_the_check_speaks_from_twenty_audits_on(agreeing: int, differing: int, severity: str | None) -> None:
    """A rate says nothing of few audits; from 2 % it is a warning, from 10 % an error, and says what to do."""
    finding = agreement(Audits(agreeing, differing, {"text": differing}))
    assert finding.severity == severity
    assert (severity is None) or "vision-assets explain" in finding.message
