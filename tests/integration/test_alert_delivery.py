"""How messages go out, on the real Postgres and over real HTTP: in order, once each, whatever happens on the way."""

import asyncio
import logging
import math
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from tests.alert_receivers import (
    AWAITED_SECONDS,
    CHAT,
    SECRET_PATH,
    EmulatedTelegram,
    WebhookReceiver,
    emulated_telegram,
    token,
    webhook_receiver,
)
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.alerts import PostgresAlerts
from vision_assets.clients.postgres.deliveries import PostgresDeliveries
from vision_assets.clients.telegram_bot import MAX_UNITS, TelegramChat, units
from vision_assets.clients.webhook import Webhook
from vision_assets.core.alert_delivery import Channel, Sender, pause_after
from vision_assets.core.alert_messages import AlertMessage, Told, Topic
from vision_assets.core.alerts import AlertKey, AlertRules, Evaluation, Transition
from vision_assets.devstack.telegram import TOKEN

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
READ_SECONDS = 0.5
STATES = "SELECT channel, state, attempts FROM alert_deliveries ORDER BY message_seq, channel"


@pytest.fixture
def telegram() -> Iterator[EmulatedTelegram]:
    """The emulated Bot API."""
    with emulated_telegram() as server:
        yield server


@pytest.fixture
def webhook() -> Iterator[WebhookReceiver]:
    """A webhook."""
    with webhook_receiver() as receiver:
        yield receiver


@dataclass
class Post:
    """A database with messages to deliver, both channels, and a clock that a test moves."""

    database: Database
    telegram: EmulatedTelegram
    webhook: WebhookReceiver
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    goes_on: timedelta = timedelta()  # so much at each look at the clock
    secret: SecretStr = field(default_factory=token)
    written: int = 0

    def clock(self) -> datetime:
        """Look at the clock."""
        self.now += self.goes_on
        return self.now

    async def write(self, *texts: str, rules: AlertRules | None = None) -> None:
        """Have a message written for each text, about a check of its own."""
        evaluations = []
        for text in texts:
            self.written += 1
            key = AlertKey("check", "tenant_storage_usage", f"check_{self.written}", "")
            evaluations.append(Evaluation(key, "warn", text, NOON, self.written))
        book = PostgresAlerts(self.database, ("telegram", "webhook"))
        await book.take_in(evaluations, rules=rules or AlertRules(), now=self.now)

    async def send(self, *, spacing_seconds: float = 0) -> int:
        """Send what is due, as one tick does, with little patience."""
        async with AsyncExitStack() as stack:
            chat = TelegramChat.open(
                self.secret,
                CHAT,
                api_url=self.telegram.url,
                spacing_seconds=spacing_seconds,
                read_seconds=READ_SECONDS,
            )
            channels: list[Channel] = [
                await stack.enter_async_context(chat),
                await stack.enter_async_context(Webhook.open(self.webhook.secret_url, read_seconds=READ_SECONDS)),
            ]
            book = PostgresDeliveries(self.database, "http://ui")
            return await Sender(book, channels, clock=self.clock).run()

    async def states(self) -> dict[str, list[tuple[str, int]]]:
        """Tell state and attempts of each delivery, by channel, in the order of the messages."""
        found: dict[str, list[tuple[str, int]]] = {"telegram": [], "webhook": []}
        for channel, state, attempts in await self.database.pool.fetch(STATES):
            found[channel].append((state, attempts))
        return found

    async def errors(self, channel: str) -> str:
        """Join what went wrong over a channel."""
        query = "SELECT string_agg(error, '; ' ORDER BY message_seq) FROM alert_deliveries WHERE channel = $1"
        return str(await self.database.pool.fetchval(query, channel))


@pytest.fixture
async def post(database: str, telegram: EmulatedTelegram, webhook: WebhookReceiver) -> AsyncIterator[Post]:
    """A post over both channels."""
    async with Database.open(database) as opened:
        yield Post(opened, telegram, webhook)


async def test_messages_arrive_in_order_and_once(post: Post) -> None:
    """Over each channel every message once; a second tick finds nothing to do."""
    await post.write("one", "two", "three")
    assert await post.send() == 6
    assert await post.send() == 0
    assert [message["text"].splitlines()[1] for message in post.telegram.messages()] == ["one", "two", "three"]
    assert {message["chat_id"] for message in post.telegram.messages()} == {CHAT}
    assert [request["alerts"][0]["annotations"]["description"] for request in post.webhook.requests] == [
        *("one", "two", "three")
    ]
    assert len({request["headers"]["idempotency-key"] for request in post.webhook.requests}) == 3
    assert await post.states() == {"telegram": [("sent", 1)] * 3, "webhook": [("sent", 1)] * 3}


async def test_what_is_sent(post: Post) -> None:
    """Telegram gets the title in bold, the text escaped, and a link; the webhook its own path and query, as JSON."""
    await post.write("a <b>bold</b> & plain\ntext")
    await post.send()
    [written] = post.telegram.messages()
    title, *lines = written["text"].splitlines()
    assert title == "🟠 Warning: check_1 of tenant_storage_usage"
    assert lines == [
        *("a <b>bold</b> & plain", "text"),
        "http://ui/assets/tenant_storage_usage?view=checks&checkDetail=check_1",
    ]
    assert written["html"].startswith(f"<b>{title}</b>\na &lt;b&gt;bold&lt;/b&gt; &amp; plain")
    [request] = post.webhook.requests
    assert (request["path"], request["query"]) == (SECRET_PATH, "key=1")
    assert request["headers"]["content-type"] == "application/json"
    assert (request["version"], request["status"]) == ("4", "firing")


async def test_a_message_about_many_is_one_to_people_and_one_alert_each_to_machines(post: Post) -> None:
    """In order and once each with a key of its own, although the receiver fails in the middle."""
    key = AlertKey("check", "tenant_storage_usage", "quota", "")
    many = [Evaluation(key._replace(partition=name), "warn", name, NOON, 1) for name in "abcd"]
    book = PostgresAlerts(post.database, ("telegram", "webhook"))
    await book.take_in(many, rules=AlertRules(group_above=3), now=post.now)
    post.webhook.answers = [200, 500]
    await post.send()
    post.now += timedelta(seconds=10)
    await post.send()
    assert [title.partition(", ")[2] for title in post.telegram.titles()] == ["4 tenants: a, b, c, d"]
    assert [request["alerts"][0]["labels"]["tenant_id"] for request in post.webhook.requests] == list("abbcd")
    assert len({request["headers"]["idempotency-key"] for request in post.webhook.requests}) == 4
    assert post.webhook.accepted() == [("firing", ["opened"])] * 4
    assert await post.states() == {"telegram": [("sent", 1)], "webhook": [("sent", 2)]}


async def test_a_message_of_many_pieces_takes_several_ticks(post: Post) -> None:
    """When a tick's time is over the next piece is left to the next tick; each piece arrives once."""
    key = AlertKey("check", "tenant_storage_usage", "quota", "")
    long = Evaluation(key, "warn", "\n".join(f"{number} {'x' * 1000}" for number in range(40)), NOON, 1)
    await PostgresAlerts(post.database, ("telegram",)).take_in([long], rules=AlertRules(), now=post.now)
    post.goes_on = timedelta(seconds=3)
    assert await post.send() == 0
    assert 1 <= len(post.telegram.messages()) <= 5
    ticks = 1
    while (await post.states())["telegram"][0][0] == "pending":
        await post.send()
        ticks += 1
    texts = [message["text"] for message in post.telegram.messages()]
    assert len(texts) == len(set(texts)) > 5
    assert "".join(texts).count("x" * 1000) == 40
    assert (await post.states())["telegram"] == [("sent", ticks)]


async def test_a_long_message_goes_out_in_pieces(post: Post) -> None:
    """Each within Telegram's limit, in order, and all of the text; a fault before the first changes nothing."""
    lines = [f"{number} {'😀' * 500}" for number in range(10)]
    await post.write("\n".join(lines))
    post.telegram.set_faults({"kind": "rate_limited", "retry_after": 3})
    assert await post.send() == 1  # the webhook's
    post.now += timedelta(seconds=3)
    assert await post.send() == 1
    messages = post.telegram.messages()
    assert len(messages) == 3
    assert all(units(message["text"]) <= MAX_UNITS for message in messages)
    assert "\n".join(message["text"] for message in messages).splitlines()[1:-1] == lines
    assert (await post.states())["telegram"] == [("sent", 2)]


async def test_a_piece_that_arrived_is_not_sent_again(post: Post) -> None:
    """The second of three is refused for a while: the first is there once all the same."""
    await post.write("\n".join(f"{number} {'x' * 1000}" for number in range(9)))

    async def refuse_the_second() -> None:
        await _until(lambda: post.telegram.calls() == 1)
        post.telegram.set_faults({"kind": "rate_limited", "retry_after": 0})

    await asyncio.gather(refuse_the_second(), post.send(spacing_seconds=0.5))
    await post.send()
    texts = [message["text"] for message in post.telegram.messages()]
    assert len(texts) == len(set(texts)) == 3


async def test_slower_please_is_honoured_and_the_order_kept(post: Post) -> None:
    """Nothing goes out before the time that Telegram asked for, not what comes behind it either."""
    await post.write("one", "two")
    post.telegram.set_faults({"kind": "rate_limited", "retry_after": 30})
    await post.send()
    post.now += timedelta(seconds=29)
    await post.send()
    assert (post.telegram.calls(), post.telegram.messages()) == (1, [])
    assert len(post.webhook.requests) == 2  # one channel does not wait for the other
    post.now += timedelta(seconds=1)
    await post.send()
    assert [message["text"].splitlines()[1] for message in post.telegram.messages()] == ["one", "two"]
    assert (await post.states())["telegram"] == [("sent", 2), ("sent", 1)]


async def test_what_telegram_cannot_read_arrives_as_plain_text(post: Post) -> None:
    """Once, without tags."""
    await post.write("a < b")
    post.telegram.set_faults({"kind": "unparsable"})
    await post.send()
    [written] = post.telegram.messages()
    assert written["html"] is None
    assert "a < b" in written["text"]
    assert (await post.states())["telegram"] == [("sent", 1)]


async def test_what_telegram_refuses_is_not_asked_again(post: Post) -> None:
    """The message has failed, the error says what to do, and the next message is tried."""
    await post.write("one", "two")
    post.telegram.set_faults({"kind": "bad_request"})
    await post.send()
    assert (await post.states())["telegram"] == [("failed", 1), ("sent", 1)]
    assert "message text is empty" in await post.errors("telegram")
    assert "ALERT_TELEGRAM_CHAT_ID" in await post.errors("telegram")


@pytest.mark.parametrize(
    ("fault", "said"), [("forbidden", "blocked by the user"), ("chat_not_found", "chat not found")]
)
async def test_a_chat_that_is_closed_to_the_bot_is_waited_for(post: Post, fault: str, said: str) -> None:
    """Nothing has arrived and nothing is lost: all of it goes out in its order once the bot may write there again."""
    await post.write("one", "two")
    post.telegram.set_faults({"kind": fault})
    await post.send()
    assert (await post.states())["telegram"] == [("pending", 1), ("pending", 0)]
    assert said in await post.errors("telegram")
    assert "ALERT_TELEGRAM_CHAT_ID" in await post.errors("telegram")
    post.now += pause_after(0, None)
    await post.send()
    assert [message["text"].splitlines()[1] for message in post.telegram.messages()] == ["one", "two"]


async def test_a_token_that_is_replaced_loses_nothing(post: Post) -> None:
    """What the old one could not send the new one sends."""
    await post.write("one", "two")
    post.secret = SecretStr("123456789:revoked")
    await post.send()
    assert (await post.states())["telegram"] == [("pending", 1), ("pending", 0)]
    assert "Telegram says 401: Unauthorized; check TELEGRAM_BOT_TOKEN" in await post.errors("telegram")
    post.secret = token()
    post.now += pause_after(0, None)
    await post.send()
    assert (await post.states())["telegram"] == [("sent", 2), ("sent", 1)]


@pytest.mark.parametrize("kind", ["drop", "hang", "drop_after_accepting", "hang_after_accepting", "server_error"])
async def test_whose_outcome_is_unknown_telegram_does_not_get_again(post: Post, kind: str) -> None:
    """It may have arrived: it is never repeated, and the next one goes out."""
    await post.write("one", "two")
    post.telegram.set_faults({"kind": kind})
    await post.send()
    post.now += timedelta(days=1)
    await post.send()
    assert (await post.states())["telegram"] == [("unknown", 1), ("sent", 1)]
    assert post.telegram.calls() == 2
    assert len(post.telegram.messages()) == (2 if kind.endswith("accepting") else 1)


async def test_telegram_that_cannot_be_reached_is_tried_again(post: Post) -> None:
    """Nothing was sent, so it is sent later, after growing pauses."""
    await post.write("one")
    there, post.telegram = post.telegram, EmulatedTelegram("http://127.0.0.1:9", post.telegram._control)
    await post.send()
    assert (await post.states())["telegram"] == [("pending", 1)]
    post.telegram = there
    post.now += pause_after(0, None) - timedelta(seconds=1)
    await post.send()
    assert there.messages() == []
    post.now += timedelta(seconds=1)
    await post.send()
    assert len(there.messages()) == 1


@pytest.mark.parametrize("answer", ["drop", "drop_after", "hang", 500, 503, 429])
async def test_the_webhook_gets_it_again_and_knows_it_again(post: Post, answer: int | str) -> None:
    """With the same key, before the next message, and no earlier than it asked for."""
    await post.write("one", "two")
    post.webhook.answers = [answer]
    await post.send()
    assert (await post.states())["webhook"] == [("pending", 1), ("pending", 0)]
    post.now += timedelta(seconds=7 if answer == 429 else 10)
    await post.send()
    assert (await post.states())["webhook"] == [("sent", 2), ("sent", 1)]
    assert post.webhook.accepted() == [("firing", ["opened"])] * 2
    assert len(post.webhook.requests) == (2 if answer == "drop" else 3)


async def test_what_a_webhook_refuses_is_not_asked_again(post: Post) -> None:
    """What it does not understand it never will: the message has failed, the next is tried."""
    await post.write("one", "two")
    post.webhook.answers = [400]
    await post.send()
    assert (await post.states())["webhook"] == [("failed", 1), ("sent", 1)]
    assert await post.errors("webhook") == "The webhook says 400; it does not understand Alertmanager's version 4"


@pytest.mark.parametrize("answer", [401, 403, 404, 302])
async def test_a_webhook_that_lets_nobody_in_is_waited_for(post: Post, answer: int) -> None:
    """Its password or its path may be put right: nothing is lost."""
    await post.write("one", "two")
    post.webhook.answers = [answer]
    await post.send()
    assert (await post.states())["webhook"] == [("pending", 1), ("pending", 0)]
    assert await post.errors("webhook") == f"The webhook says {answer}; check ALERT_WEBHOOK_URL"
    post.now += pause_after(0, None)
    await post.send()
    assert (await post.states())["webhook"] == [("sent", 2), ("sent", 1)]


async def test_a_password_may_have_any_character(webhook: WebhookReceiver) -> None:
    """It stands percent-encoded in the URL, and is sent as it is."""
    url = SecretStr(webhook.secret_url.get_secret_value().replace("http://", "http://on%40call:p%3Aa%2Fss%25@"))
    key = AlertKey("check", "stored", "is_good", "")
    told = Told(Transition(key, "opened", "event", "warn", "warn", "It is not.", "", NOON, NOON))
    message = AlertMessage(uuid4(), Topic(*key[:3], "opened"), [told])
    async with Webhook.open(url) as opened:
        assert (await opened.send(message, 0)).state == "sent"
    [request] = webhook.requests
    assert request["headers"]["authorization"] == f"Basic {b64encode(b'on@call:p:a/ss%').decode()}"
    assert request["path"] == SECRET_PATH


async def test_a_webhook_that_stays_down_is_given_up(post: Post) -> None:
    """After a day its messages have failed without a further try, and a new one goes out at once."""
    await post.write("one", "two")
    post.webhook.answers = [500] * 12
    for _ in range(12):
        await post.send()
        post.now += timedelta(hours=2)
    assert (await post.states())["webhook"] == [("pending", 12), ("pending", 0)]
    await post.write("three", rules=AlertRules(remind_after=timedelta(days=9)))
    await post.send()
    assert await post.states() == {
        "telegram": [("sent", 1)] * 3,
        "webhook": [("failed", 12), ("failed", 0), ("sent", 1)],
    }
    assert len(post.webhook.requests) == 13
    given_up = "given up after a day: The webhook says 500; given up after a day: not tried"
    assert await post.errors("webhook") == given_up


async def test_a_day_after_its_sender_was_killed_it_is_unknown(post: Post) -> None:
    """The webhook may have it, and is not told of it so late."""
    await post.write("one")
    book = PostgresDeliveries(post.database)
    delivery = await book.first("webhook", now=post.now)
    assert delivery
    await book.begin(delivery, "webhook")
    post.now += timedelta(days=1)
    await post.send()
    assert (await post.states())["webhook"] == [("unknown", 1)]
    assert post.webhook.requests == []


def test_pauses_grow() -> None:
    """Twice as long each time, to a quarter of an hour; or as long as the receiver says, to an hour."""
    assert [pause_after(attempts, None).total_seconds() for attempts in (0, 1, 2, 7, 90)] == [10, 20, 40, 900, 900]
    for told, seconds in ((3, 3), (86_400, 3600), (1e15, 3600), (10**400, 3600), (math.nan, 3600), (-5, 0)):
        assert pause_after(5, told).total_seconds() == seconds


@pytest.mark.parametrize("told", [86_400, 10**15, 10**400], ids=["a day", "16 digits", "401 digits"])
async def test_slower_please_is_believed_within_reason(post: Post, told: int) -> None:
    """Whatever number comes, it is tried again after an hour."""
    await post.write("one")
    post.telegram.set_faults({"kind": "rate_limited", "retry_after": told})
    await post.send()
    assert (await post.states())["telegram"] == [("pending", 1)]
    post.now += timedelta(hours=1)
    await post.send()
    assert (await post.states())["telegram"] == [("sent", 2)]


async def test_several_senders_at_once_send_each_message_once(post: Post) -> None:
    """In order over each channel; who comes second leaves the channel to the first."""
    await post.write(*[f"number {number}" for number in range(12)])
    await asyncio.gather(*(post.send() for _ in range(4)))
    assert [message["text"].splitlines()[1] for message in post.telegram.messages()] == [
        f"number {number}" for number in range(12)
    ]
    assert len(post.webhook.requests) == 12


async def test_a_sender_that_is_killed_while_it_sends(post: Post, database: str) -> None:
    """What Telegram may have is unknown and not repeated; the webhook gets its message again, with the same key."""
    await post.write("one", "two")
    post.telegram.set_faults({"kind": "hang_after_accepting"})
    post.webhook.answers = ["hang"]
    webhook_url = post.webhook.secret_url.get_secret_value()
    sender = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.alert_sender", database, post.telegram.url, webhook_url)
    )
    await _until(lambda: post.telegram.calls() == 1 and len(post.webhook.requests) == 1)
    assert await post.states() == {
        "telegram": [("sending", 1), ("pending", 0)],
        "webhook": [("sending", 1), ("pending", 0)],
    }
    assert await post.send() == 0  # as long as it lives, nobody else sends
    sender.send_signal(signal.SIGKILL)
    assert await sender.wait() == -signal.SIGKILL
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    for _ in range(1_000):  # until Postgres has noticed that nobody is there any more
        if not await post.database.pool.fetchval(locks):
            break
        await asyncio.sleep(0.01)
    await post.send()
    assert await post.states() == {
        "telegram": [("unknown", 1), ("sent", 1)],
        "webhook": [("sent", 2), ("sent", 1)],
    }
    assert len(post.telegram.messages()) == 2
    assert post.webhook.accepted() == [("firing", ["opened"])] * 2
    keys = [request["headers"]["idempotency-key"] for request in post.webhook.requests]
    assert keys[0] == keys[1] != keys[2]


async def test_no_secret_is_logged_or_kept(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    """The bot's token and the webhook's path stand in no log line, of httpx neither, and in no error that is kept."""
    caplog.set_level(logging.DEBUG)
    await post.write("one", "two", "three")
    post.telegram.set_faults({"kind": "server_error"}, {"kind": "drop"}, {"kind": "forbidden"})
    post.webhook.answers = [400, 500]
    await post.send()
    kept = await post.errors("telegram") + await post.errors("webhook")
    there, post.telegram = post.telegram, EmulatedTelegram("http://127.0.0.1:9", post.telegram._control)
    post.now += pause_after(0, None)
    await post.send()
    assert there.calls() == 3
    kept += await post.errors("telegram") + await post.errors("webhook")
    assert "cannot be reached" in kept
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn")]
    logged = "\n".join(ours) + kept
    assert "sendMessage" in logged
    assert "The webhook says 400" in logged
    assert "The webhook says 500" in logged
    for secret in (TOKEN, TOKEN.split(":")[1], SECRET_PATH, "key=1"):
        assert secret not in logged


async def _until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(AWAITED_SECONDS):
        while not is_so():  # noqa: ASYNC110 - it is another process that comes so far
            await asyncio.sleep(0.02)
