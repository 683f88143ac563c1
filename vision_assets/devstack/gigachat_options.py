"""How the emulated GigaChat is set up: limits, latency, balance. They may change while it runs.

What does not belong here: what goes wrong for a while (`gigachat_faults.py`).
"""

import math
import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vision_assets.devstack.gigachat_faults import Endpoint

Scope = Literal["GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConstantLatency(_Value):
    """Every call takes this long."""

    seconds: float = Field(ge=0)

    def draw(self, _: random.Random) -> float:
        """Give the seconds of the next call."""
        return self.seconds


class LognormalLatency(_Value):
    """Most calls are quick and a few are slow.

    Attributes:
        mean_seconds: Of the distribution itself, not of its logarithm.
        sigma: Standard deviation of the logarithm.
    """

    mean_seconds: float = Field(gt=0)
    sigma: float = Field(ge=0)

    def draw(self, source: random.Random) -> float:
        """Give the seconds of the next call."""
        return source.lognormvariate(math.log(self.mean_seconds) - self.sigma**2 / 2, self.sigma)


class Options(_Value):
    """What is in force.

    Attributes:
        streams: Calls at once of one account, by the scope of its token; over that 429. Third parties' figures.
        stream_endpoints: Which calls count as streams; it is not known whether embeddings do.
        latency: How long a call takes before it is done and billed.
        latency_endpoints: Which calls take that long.
        seed: Of the latencies.
        token_lifetime_seconds: Of an access token.
        oauth_per_second: OAuth calls of one account in a second; over that 429.
        balance_tokens: Of each chat model at the start.
        total_is_net_of_precached: Whether `total_tokens` leaves out what was cached: documentation and traffic differ.
    """

    streams: dict[Scope, int] = {"GIGACHAT_API_PERS": 1, "GIGACHAT_API_B2B": 10, "GIGACHAT_API_CORP": 10}
    stream_endpoints: tuple[Literal["chat", "embeddings"], ...] = ("chat", "embeddings")
    latency: ConstantLatency | LognormalLatency | None = None
    latency_endpoints: tuple[Endpoint, ...] = ("chat", "embeddings")
    seed: int = 0
    token_lifetime_seconds: float = Field(30 * 60, gt=0)
    oauth_per_second: int = Field(10, ge=1)
    balance_tokens: int = Field(1_000_000, ge=0)
    total_is_net_of_precached: bool = False

    def stream_limit(self, scope: Scope) -> int:
        """Tell how many calls an account may have at once; a scope that is not named may have one."""
        return self.streams.get(scope, 1)
