"""A paid provider over loopback HTTP, in the test's own process: what it has billed outlives every worker.

It bills a call when the call arrives, as real ones do, whether or not anybody reads the answer.
What is not here: the worker's loop (`worker.py`).
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.served import served


@dataclass(frozen=True, slots=True)
class Bill:
    """One call that was billed.

    Attributes:
        call: Identity that the caller gave, of its hold.
        subject: What the call was about.
        at: `time.monotonic()` of the arrival.
    """

    call: UUID
    tenant: UUID
    subject: str
    tokens: int
    at: float


@dataclass(slots=True)
class Biller:
    """The provider's side.

    Attributes:
        answer_seconds: Longest time that an answer takes.
        at_once: Most calls of one tenant that were under way together.
    """

    answer_seconds: float
    port: int = 0
    bills: list[Bill] = field(default_factory=list)
    at_once: Counter[UUID] = field(default_factory=Counter)
    _now: Counter[UUID] = field(default_factory=Counter)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Bill and answer one call; the tokens follow from the call's identity and are never above `max_tokens`."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        call: dict[str, Any] = json.loads(await reader.readexactly(length))
        tenant = UUID(call["tenant"])
        chance = random.Random(call["call"])
        # Now and then the whole of what was allowed: then nothing is given back.
        tokens = call["max_tokens"] if chance.random() < 0.2 else chance.randint(1, call["max_tokens"])
        self.bills.append(Bill(UUID(call["call"]), tenant, call["subject"], tokens, time.monotonic()))
        self._now[tenant] += 1
        self.at_once[tenant] = max(self.at_once[tenant], self._now[tenant])
        await asyncio.sleep(chance.uniform(0, self.answer_seconds))
        self._now[tenant] -= 1
        body = json.dumps({"tokens": tokens}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    def billed(self) -> Counter[UUID]:
        """Tokens billed by tenant."""
        tokens: Counter[UUID] = Counter()
        for bill in list(self.bills):
            tokens[bill.tenant] += bill.tokens
        return tokens


@contextmanager
def biller(*, answer_seconds: float = 0.03) -> Iterator[Biller]:
    """Run the provider in a thread of its own."""
    provider = Biller(answer_seconds)
    with served(provider.answer) as provider.port:
        yield provider


async def call_provider(port: int, *, call: UUID, tenant: UUID, subject: str, max_tokens: int) -> int:
    """Make one paid call, over a connection of its own.

    Returns:
        Tokens that it took.
    """
    body = json.dumps({"call": str(call), "tenant": str(tenant), "subject": subject, "max_tokens": max_tokens}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"POST /calls HTTP/1.1\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    return int(json.loads(answer.partition(b"\r\n\r\n")[2])["tokens"])
