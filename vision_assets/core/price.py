"""What tokens cost. What is not here: how many a call takes (`budget.py`)."""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """The price of a provider's tokens.

    Attributes:
        per_million: In the billing currency, for a million tokens.
        currency: ISO 4217.
    """

    per_million: Decimal
    currency: str

    def microunits(self, tokens: int) -> int:
        """Tell what tokens cost, in millionths of the billing currency."""
        # Millions of tokens, and millionths of the currency: the two cancel out.
        return int((self.per_million * tokens).to_integral_value(ROUND_HALF_EVEN))
