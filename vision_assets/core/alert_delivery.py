"""How messages go out: in their order, channel by channel, each delivery written down before it is tried.

What is not here: what a channel speaks (`clients/telegram_bot.py`, `clients/webhook.py`), and what messages say
(`alert_messages.py`).
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

import structlog

from vision_assets.core.alert_messages import AlertMessage

log = structlog.get_logger(__name__)

ChannelName = Literal["telegram", "webhook"]
Ended = Literal["sent", "failed", "unknown"]

FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=15)
LONGEST_TOLD = timedelta(hours=1)
"""By a receiver; then it is asked again all the same."""

GIVE_UP_AFTER = timedelta(hours=24)
"""Since it was written: then it is tried no more, and what was written later has its turn."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt.

    Attributes:
        state: `sent`: the receiver has it. `refused`: it will never take it. `not_sent`: it certainly has not got it,
            be it that it lets nobody in now. `unknown`: it may have it.
        error: For people; without secrets.
        retry_after_seconds: As the receiver asked for.
    """

    state: Literal["sent", "refused", "not_sent", "unknown"]
    error: str | None = None
    retry_after_seconds: float | None = None


class Channel(Protocol):
    """A way to people."""

    @property
    def name(self) -> ChannelName:
        """Tell which."""
        ...

    @property
    def knows_again(self) -> bool:
        """Tell whether the receiver knows a message again: then one whose outcome is unknown may be sent once more."""
        ...

    def parts(self, message: AlertMessage) -> int:
        """Tell in how many pieces a message goes out."""
        ...

    async def send(self, message: AlertMessage, part: int) -> Outcome:
        """Send one piece; never raises for what the receiver or the network does."""
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way over one channel.

    Attributes:
        is_interrupted: It was being sent when its sender died.
        attempts: Before this one.
        error: Of the last of them; None: there was none.
    """

    seq: int
    message: AlertMessage
    written_at: datetime
    parts_sent: int
    attempts: int
    is_interrupted: bool
    error: str | None


class DeliveryBook(Protocol):
    """The deliveries: `clients/postgres/deliveries.py`. Each call is committed when it returns."""

    def alone(self, channel: ChannelName) -> AbstractAsyncContextManager[bool]:
        """Let nobody else send over the channel; False: somebody does."""
        ...

    async def first(self, channel: ChannelName, *, now: datetime) -> Delivery | None:
        """Give the earliest message that is still to go out, unless it must wait; those behind it wait as well."""
        ...

    async def begin(self, delivery: Delivery, channel: ChannelName) -> None:
        """Write that it is being sent."""
        ...

    async def part_sent(self, delivery: Delivery, channel: ChannelName) -> None:
        """Write that one more of its pieces has arrived."""
        ...

    async def wait(self, delivery: Delivery, channel: ChannelName, *, until: datetime, error: str | None) -> None:
        """Write that it is tried again, and when."""
        ...

    async def end(
        self, delivery: Delivery, channel: ChannelName, state: Ended, *, now: datetime, error: str | None
    ) -> None:
        """Write what became of it."""
        ...


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends what is due.

    Attributes:
        seconds: No message is begun later, nor a further piece of one.
    """

    book: DeliveryBook
    channels: Sequence[Channel]
    seconds: float = 20
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    async def run(self) -> int:
        """Send over all channels at once, in the order of the messages over each.

        Returns:
            Number of messages that arrived.
        """
        sending = (self._send_over(channel) for channel in self.channels)
        arrived = await asyncio.gather(*sending, return_exceptions=True)  # one that fails does not break the other off
        for one in arrived:
            if isinstance(one, BaseException):
                raise one
        return sum(one for one in arrived if isinstance(one, int))

    async def _send_over(self, channel: Channel) -> int:
        until, arrived = self.clock() + timedelta(seconds=self.seconds), 0
        async with self.book.alone(channel.name) as is_alone:
            if not is_alone:
                return 0
            while self.clock() < until and (delivery := await self.book.first(channel.name, now=self.clock())):
                arrived += await self._deliver(delivery, channel, until)
        return arrived

    async def _deliver(self, delivery: Delivery, channel: Channel, until: datetime) -> bool:
        is_late = self.clock() - delivery.written_at >= GIVE_UP_AFTER
        if delivery.is_interrupted and (is_late or not channel.knows_again):
            await self._end(delivery, channel, "unknown", "its sender died while it was being sent")
            return False
        if is_late:
            await self._end(delivery, channel, "failed", f"given up after a day: {delivery.error or 'not tried'}")
            return False
        await self.book.begin(delivery, channel.name)
        for part in range(delivery.parts_sent, channel.parts(delivery.message)):
            if part > delivery.parts_sent and self.clock() >= until:
                await self.book.wait(delivery, channel.name, until=self.clock(), error=None)
                return False
            outcome = await channel.send(delivery.message, part)
            if outcome.state != "sent":
                await self._failed(delivery, channel, outcome)
                return False
            await self.book.part_sent(delivery, channel.name)
        await self._end(delivery, channel, "sent", None)
        return True

    async def _failed(self, delivery: Delivery, channel: Channel, outcome: Outcome) -> None:
        if outcome.state == "refused":
            await self._end(delivery, channel, "failed", outcome.error)
        elif outcome.state == "unknown" and not channel.knows_again:
            await self._end(delivery, channel, "unknown", outcome.error)
        else:
            pause = pause_after(delivery.attempts, outcome.retry_after_seconds)
            log.warning("alert.delayed", channel=channel.name, pause_seconds=pause.total_seconds(), error=outcome.error)
            await self.book.wait(delivery, channel.name, until=self.clock() + pause, error=outcome.error)

    async def _end(self, delivery: Delivery, channel: Channel, state: Ended, error: str | None) -> None:
        if state != "sent":
            log.error(f"alert.{state}", channel=channel.name, title=delivery.message.title(), error=error)
        await self.book.end(delivery, channel.name, state, now=self.clock(), error=error)


def pause_after(attempts: int, told_seconds: float | None) -> timedelta:
    """Tell how long to wait before the next attempt: as told, else twice as long each time; within bounds.

    Args:
        attempts: Before the one that failed.
        told_seconds: Whatever the receiver has written there.
    """
    if told_seconds is not None:
        return timedelta(seconds=max(0.0, min(LONGEST_TOLD.total_seconds(), told_seconds)))
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(attempts, 10)))
