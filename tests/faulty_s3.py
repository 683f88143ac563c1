"""A server between the S3 client and the real server, which breaks chosen requests. Loopback only.

What is not here: what must come of a fault (`tests/chaos/test_s3_faults.py`).
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from tests.served import served

Kind = Literal["put", "get", "head", "delete", "list"]
Damage = Literal["refuse", "hang", "cut", "lose", "delay"]

_REFUSAL = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Later, please.</Message></Error>"
_HANG_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to the requests of one kind.

    Attributes:
        damage: `refuse` answers 503; `hang` never answers; `cut` sends half of the real answer and closes; `lose` lets
            the server do it and closes without an answer.
        containing: Only requests whose target has this text, unquoted.
        after: So many such requests go through first.
        times: So many are broken, then the fault is over; None: all.
    """

    kind: Kind
    damage: Damage
    containing: str = ""
    after: int = 0
    times: int | None = None


@dataclass(slots=True)
class FaultyS3:
    """The server; `faults` may be changed at any time.

    Attributes:
        delay_seconds: Of `delay`.
        page_objects: Objects in one page of a listing, so that a short one has several pages; None: the server's.
        seen: Requests by kind, as they came.
        broken: Requests by kind and damage.
    """

    upstream_port: int
    page_objects: int | None = None
    delay_seconds: float = 1
    port: int = 0
    seen: Counter[Kind] = field(default_factory=Counter)
    broken: Counter[tuple[Kind, Damage]] = field(default_factory=Counter)
    _faults: dict[Fault, int] = field(default_factory=dict)  # → requests met

    @property
    def url(self) -> str:
        """The endpoint's URL."""
        return f"http://127.0.0.1:{self.port}"

    def set_faults(self, faults: Sequence[Fault] = ()) -> None:
        """Break these requests from now on, and no others; each fault begins to count anew."""
        self._faults = dict.fromkeys(faults, 0)

    def _damage(self, kind: Kind, target: str) -> Damage | None:
        faults = self._faults
        for fault, met in faults.items():
            if fault.kind == kind and fault.containing in unquote(target):
                faults[fault] = met + 1
                if met >= fault.after and (fault.times is None or met < fault.after + fault.times):
                    self.broken[kind, fault.damage] += 1
                    return fault.damage
        return None

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request of a connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        kind = _kind(method, target)
        self.seen[kind] += 1
        damage = self._damage(kind, target)
        if damage == "hang":
            await asyncio.sleep(_HANG_SECONDS)
            return
        if damage == "delay":
            writer.close()
            await asyncio.sleep(self.delay_seconds)
        if damage == "refuse":
            writer.write(
                b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
                + f"Content-Length: {len(_REFUSAL)}\r\n\r\n".encode()
                + (b"" if kind == "head" else _REFUSAL)
            )
            await writer.drain()
            return
        if kind == "list" and self.page_objects:
            target += f"&max-keys={self.page_objects}"
        kept = [line for line in lines if line and not line.lower().startswith("connection:")]
        request = "\r\n".join([f"{method} {target} {version}", *kept, "Connection: close", "", ""])
        answer = await self._ask(request.encode("latin-1") + body)
        if damage in ("lose", "delay"):
            return
        writer.write(answer[: _middle(answer)] if damage == "cut" else answer)
        await writer.drain()

    async def _ask(self, request: bytes) -> bytes:
        """Hand a request to the real server, and read its whole answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()


def _kind(method: str, target: str) -> Kind:
    if method == "GET":
        return "list" if "list-type=2" in target else "get"
    if method == "POST":  # a bulk delete
        return "delete"
    kinds: dict[str, Kind] = {"PUT": "put", "HEAD": "head", "DELETE": "delete"}
    return kinds[method]


def _middle(answer: bytes) -> int:
    """Where to cut: the head is whole, and half of the body is missing."""
    body = answer.index(b"\r\n\r\n") + 4
    return body + (len(answer) - body) // 2


@contextmanager
def faulty_s3(upstream_port: int, *, page_objects: int | None = None) -> Iterator[FaultyS3]:
    """Run the server in a thread of its own."""
    proxy = FaultyS3(upstream_port, page_objects=page_objects)
    with served(proxy.answer) as proxy.port:
        yield proxy
