"""What the emulated GigaChat can be told to do wrong, and when: faults, each for an endpoint, a tenant and a while.

What does not belong here: carrying a fault out (`gigachat_call.py`, `gigachat_chat.py` and the other endpoints).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Endpoint = Literal[
    "oauth",
    "files.upload",
    "files.list",
    "files.get",
    "files.content",
    "files.delete",
    "chat",
    "embeddings",
    "tokens",
    "models",
    "balance",
]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)

# Where a kind has a meaning; the others have one at every endpoint.
_PLACES: dict[str, tuple[Endpoint, ...]] = {
    "token_expired": tuple(one for one in ENDPOINTS if one != "oauth"),
    "blacklist": ("chat",),
    "length": ("chat",),
    "prose": ("chat",),
    "broken_json": ("chat",),
    "arguments_as_string": ("chat",),
    "response_format_unsupported": ("chat",),
    "embeddings_shuffled": ("embeddings",),
    "expires_at_in_seconds": ("oauth",),
    "files_cannot_be_deleted": ("files.delete",),
    "balance_forbidden": ("balance",),
}


class AnyFault(BaseModel):
    """When a fault happens.

    Attributes:
        endpoint: Only there; `files` means all of them; None: wherever the kind has a meaning.
        tenant: Only calls with this `X-Client-ID`; None: all.
        after: So many calls that it would hit go through first.
        times: So many are hit, then the fault is over; None: all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    endpoint: Endpoint | Literal["files"] | None = None
    tenant: str | None = None
    after: int = Field(0, ge=0)
    times: int | None = Field(None, ge=1)

    @property
    def trigger(self) -> str:
        """At which point of a call it is asked for: the kind, unless a kind has two."""
        return self.kind

    @model_validator(mode="after")
    def _has_a_meaning(self) -> Self:
        if not any(self.is_at(place) for place in _PLACES.get(self.kind, ENDPOINTS)):
            raise ValueError(f"{self.kind} has no meaning at {self.endpoint}")
        return self

    def is_at(self, endpoint: Endpoint) -> bool:
        """Tell whether calls of an endpoint are meant."""
        return self.endpoint in (None, endpoint, endpoint.partition(".")[0])


class RateLimited(AnyFault):
    """429.

    Attributes:
        retry_after: The form of the header `Retry-After`.
        retry_after_seconds: What it says, from now.
    """

    kind: Literal["rate_limited"]
    retry_after: Literal["none", "seconds", "http_date"] = "none"
    retry_after_seconds: int = Field(1, ge=0)


class ServerError(AnyFault):
    """A 5xx without a bill."""

    kind: Literal["server_error"]
    status: Literal[500, 502, 503] = 500


class Drop(AnyFault):
    """The connection is closed without an answer: before the call has any effect, or after it was done and billed."""

    kind: Literal["drop"]
    when: Literal["before_billing", "after_billing"] = "before_billing"

    @property
    def trigger(self) -> str:
        return f"drop_{self.when}"


class MalformedJson(AnyFault):
    """A billed 200 whose body is no JSON, or JSON of another shape."""

    kind: Literal["malformed_json"]
    shape: Literal["no_json", "wrong_shape"] = "no_json"


class Plain(AnyFault):
    """A fault without options.

    `hang` never answers; `hang_after_billing` does so when the call is done. `truncated_json` sends half of a body.
    `prose` answers without JSON, `broken_json` with a trailing comma and single quotes.
    """

    kind: Literal[
        "token_expired",
        "payment_required",
        "hang",
        "hang_after_billing",
        "truncated_json",
        "blacklist",
        "length",
        "prose",
        "broken_json",
        "arguments_as_string",
        "response_format_unsupported",
        "embeddings_shuffled",
        "expires_at_in_seconds",
        "files_cannot_be_deleted",
        "balance_forbidden",
    ]


Fault = Annotated[RateLimited | ServerError | Drop | MalformedJson | Plain, Field(discriminator="kind")]


@dataclass(slots=True)
class _Entry:
    fault: AnyFault
    met: int = 0
    hit: int = 0


@dataclass(slots=True)
class Faults:
    """The faults that are in force. The first of them that is due hits; those before it have met the call too."""

    _entries: list[_Entry] = field(default_factory=list)

    def replace(self, faults: Sequence[AnyFault]) -> None:
        """Put these in force and no others; each begins to count anew."""
        self._entries = [_Entry(fault) for fault in faults]

    def take(self, *triggers: str, endpoint: Endpoint, tenant: str) -> AnyFault | None:
        """Give the fault that hits a call at this point, if any, and count it."""
        for entry in self._entries:
            fault = entry.fault
            if fault.trigger not in triggers or not fault.is_at(endpoint) or fault.tenant not in (None, tenant):
                continue
            entry.met += 1
            if entry.met > fault.after and (fault.times is None or entry.hit < fault.times):
                entry.hit += 1
                return fault
        return None

    def report(self) -> list[dict[str, Any]]:
        """List the faults with the calls that they met and hit."""
        return [entry.fault.model_dump() | {"met": entry.met, "hit": entry.hit} for entry in self._entries]
