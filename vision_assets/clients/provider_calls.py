"""How any paid provider is called: again as long as it certainly cost nothing, within a deadline, behind a breaker.

What is not here: what an error of a provider's SDK means (`gigachat_errors.py`, `openai_errors.py`), and what is sent.
"""

import asyncio
import email.utils
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import structlog
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)

from vision_assets.core.errors import PermanentError, ProviderUnavailable, VisionAssetsError

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

KEEPALIVE_SECONDS = 2.0
"""Of an idle connection. Servers close theirs after 5 s or more; a call that met that moment may have been billed."""

_MAX_ATTEMPTS = 6
_MAX_WAIT_SECONDS = 20.0
_BREAKS_AFTER = 5

_backoff = wait_random_exponential(multiplier=0.5, max=_MAX_WAIT_SECONDS)  # full jitter


class Translate(Protocol):
    """Tells an error of a provider's SDK in the project's terms."""

    def __call__(self, error: Exception, *, what: str, billed: bool) -> VisionAssetsError: ...


@dataclass(slots=True)
class ProviderCalls:
    """All calls of one client of a provider.

    Attributes:
        name: Of the provider, for people.
        deadline_seconds: Of one call with all its attempts; none begins later.
        recovery_seconds: Without a call, after failures in succession; then one more failure begins them anew.
        answered: Errors that an answer of the provider brought. Only their text is safe to be passed on: that of others
            may hold a header, and with it a secret.
        blameless: Those of them that are no fault of the provider's, such as "slower, please".
        final: Those of them that another attempt would only bring again, although they are transient.
    """

    name: str
    deadline_seconds: float
    recovery_seconds: float
    translate: Translate
    answered: tuple[type[Exception], ...]
    blameless: Callable[[BaseException | None], bool]
    final: tuple[type[Exception], ...] = ()
    _breakers: AsyncCircuitBreakerFactory = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=_BREAKS_AFTER,
            default_ttl=self.recovery_seconds,
            exclude=[
                PermanentError,
                asyncio.CancelledError,
                (ProviderUnavailable, lambda error: self.blameless(error.__cause__)),
            ],
        )

    async def call(
        self, what: str, act: Callable[[], Awaitable[Result]], *, billed: bool = False, lasting: float | None = None
    ) -> Result:
        """Make a call until it succeeds, fails for good, may have been billed, or its time is up.

        Args:
            what: Is done, for people.
            act: Makes one attempt.
            billed: It costs tokens.
            lasting: Seconds, in place of the deadline.

        Raises:
            VisionAssetsError: As translated.
            ProviderUnavailable: Also without an attempt, for a while after many that failed.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._may_be_repeated),
            stop=stop_any(
                stop_before_delay(self.deadline_seconds if lasting is None else lasting),
                stop_after_attempt(_MAX_ATTEMPTS),
            ),
            wait=_wait_seconds,
            before_sleep=lambda state: self._log_retry(what, state),
            reraise=True,
        )
        return await retrying(self._attempt, what, act, billed)

    async def _attempt(self, what: str, act: Callable[[], Awaitable[Result]], billed: bool) -> Result:
        try:
            async with await self._breakers.get_breaker(self.name):
                try:
                    return await act()
                except Exception as error:
                    told = self.translate(error, what=what, billed=billed)
                    if isinstance(error, self.answered):
                        raise told from error
                    raise told from None
        except OpenedState as error:
            error.with_traceback(None)  # it is one and the same each time, and would grow
            raise ProviderUnavailable(
                f"{self.name} failed {_BREAKS_AFTER} times in succession, or once more since; no call is made for "
                f"{self.recovery_seconds:g} s.",
                sent=False,
            ) from None

    def _may_be_repeated(self, error: BaseException) -> bool:
        """Tell whether another attempt may succeed, and costs nothing."""
        return isinstance(error, ProviderUnavailable) and not error.sent and not isinstance(error.__cause__, self.final)

    def _log_retry(self, what: str, state: RetryCallState) -> None:
        log.warning(
            f"{self.name.lower()}.retried",
            what=what,
            attempt=state.attempt_number,
            wait_seconds=state.upcoming_sleep,
            error=str(state.outcome.exception() if state.outcome else None),
        )


def _wait_seconds(state: RetryCallState) -> float:
    """Wait as told, with jitter on top so that not all come at once; what is told too long ends the call's time."""
    error = state.outcome.exception() if state.outcome else None
    told = error.retry_after_seconds if isinstance(error, ProviderUnavailable) else None
    return _backoff(state) + (told or 0.0)


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Read `Retry-After` in either form: seconds, or a date; None where there is neither."""
    told = headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(told)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
