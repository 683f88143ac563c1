"""Settings: their order, and that the documentation tells them."""

import json
from pathlib import Path

import pytest

from vision_assets.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def test_environment_beats_endpoints_beats_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A set variable wins over the embedded part's endpoint; an empty one counts as unset."""
    monkeypatch.setenv("VISION_ASSETS_DATA_DIR", str(tmp_path))
    for name in ("QDRANT_URL", "S3_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    assert Settings().qdrant_url is None
    (tmp_path / "endpoints.json").write_text(json.dumps({"qdrant_url": "http://127.0.0.1:1"}))
    assert Settings().qdrant_url == "http://127.0.0.1:1"
    monkeypatch.setenv("QDRANT_URL", "")
    assert Settings().qdrant_url == "http://127.0.0.1:1"
    monkeypatch.setenv("QDRANT_URL", "http://qdrant:6333")
    assert Settings().qdrant_url == "http://qdrant:6333"


def test_calls_at_once_are_bounded_by_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A personal account of GigaChat bounds GigaChat alone, unless one bound is set for each."""
    monkeypatch.delenv("BUDGET_GLOBAL_CALLS", raising=False)
    monkeypatch.setenv("GIGACHAT_SCOPE", "GIGACHAT_API_PERS")
    assert [Settings().calls_at_once(name) for name in ("gigachat", "openai")] == [1, 10]
    monkeypatch.setenv("GIGACHAT_SCOPE", "GIGACHAT_API_B2B")
    assert Settings().calls_at_once("gigachat") == 10
    monkeypatch.setenv("BUDGET_GLOBAL_CALLS", "4")
    assert [Settings().calls_at_once(name) for name in ("gigachat", "openai")] == [4, 4]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_documented(name: str) -> None:
    """Every setting stands in the documentation with its default and meaning."""
    field = Settings.model_fields[name]
    default = "" if field.default is None else f"`{field.default}`"
    assert f"| `{name.upper()}` | {default} | {field.description} |" in DOCS.read_text()
