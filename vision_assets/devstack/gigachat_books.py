"""What the emulated GigaChat has counted and billed: the truth that a budget ledger is held against.

What does not belong here: deciding what a call costs (`gigachat_chat.py`, `gigachat_embeddings.py`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vision_assets.devstack.gigachat_faults import Endpoint

BilledKind = Literal["chat", "embeddings"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, in the API's names.

    Attributes:
        precached_prompt_tokens: Those of the prompt that an earlier call of the session had sent too.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    precached_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One billed call.

    Attributes:
        request_id: The `X-Request-Id` of the answer.
        tenant: The `X-Client-ID` of the request, "" without one.
        file_sha256s: Of the attached pictures, in order.
    """

    request_id: str
    tenant: str
    kind: BilledKind
    model: str
    usage: Usage
    file_sha256s: tuple[str, ...] = ()


@dataclass(slots=True)
class Books:
    """All calls and all bills since the start or the last reset."""

    bills: list[Bill] = field(default_factory=list)
    _calls: Counter[tuple[str, Endpoint, str]] = field(default_factory=Counter)

    def count(self, tenant: str, endpoint: Endpoint, outcome: str) -> None:
        """Count a call by its outcome: the status that was answered, `hang` or `drop`."""
        self._calls[tenant, endpoint, outcome] += 1

    def billed_tokens(self, model: str) -> int:
        """Tell what a model has cost."""
        return sum(bill.usage.total_tokens for bill in self.bills if bill.model == model)

    def report(self) -> dict[str, Any]:
        """Lay everything out for the control API."""
        calls: dict[str, dict[str, dict[str, int]]] = {}
        for (tenant, endpoint, outcome), number in self._calls.items():
            calls.setdefault(tenant, {}).setdefault(endpoint, {})[outcome] = number
        return {
            "calls": calls,
            "oauth_calls": sum(number for (_, endpoint, _), number in self._calls.items() if endpoint == "oauth"),
            "billed": _totals(self.bills),
            "bills": [asdict(bill) for bill in self.bills],
        }


def _totals(bills: Iterable[Bill]) -> dict[str, dict[str, dict[str, int]]]:
    totals: dict[str, dict[str, dict[str, int]]] = {}
    for bill in bills:
        total = totals.setdefault(bill.tenant, {}).setdefault(bill.kind, {"calls": 0})
        total["calls"] += 1
        for name, tokens in asdict(bill.usage).items():
            total[name] = total.get(name, 0) + tokens
    return totals
