"""A provider whose calls cost, for tests: it answers what it is told to, and knows what it billed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from tests.results import result
from vision_assets.core.vision import Analysis, Look, Measured


async def at_once() -> None:
    """Let others go on, once."""
    await asyncio.sleep(0)


@dataclass(slots=True)
class PaidProvider:
    """Implements `VisionProvider`.

    Attributes:
        tokens: That a call bills.
        uploading: Waited for before a picture is ready; raises what the upload is to raise.
        thinking: Waited for in each call, after it is billed; raises what the call is to raise.
        text: That is read in every picture.
        calls: Hashes of the pictures that were looked at, in order.
    """

    tokens: int = 700
    uploading: Callable[[], Awaitable[None]] = at_once
    thinking: Callable[[], Awaitable[None]] = at_once
    text: str = "без цифр"
    calls: list[str] = field(default_factory=list)
    name: str = "paid"
    model: str = "test-1"
    fingerprint: str = "prompt-1"
    estimated_tokens: int | None = 1000

    @asynccontextmanager
    async def ready(self, content: bytes, *, mime: str, measured: Measured | None = None) -> AsyncIterator[Look]:
        """Have one picture ready."""
        await self.uploading()
        yield partial(self._look, content)

    async def _look(self, content: bytes) -> Analysis:
        self.calls.append(hashlib.sha256(content).hexdigest())
        await self.thinking()
        return result("a", text=self.text).analysis.model_copy(update={"tokens_used": self.tokens})
