"""Small loopback servers in a thread of the test's own process. What is not here: what they answer."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def served(handle: Handler) -> Iterator[int]:
    """Serve connections until the block is left, and give the port; connections that are open then are dropped.

    Args:
        handle: Serves one connection; it is closed afterwards. A client that goes away ends it silently.
    """
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ports: list[int] = []
    serving: set[asyncio.Task[None] | None] = set()  # the loop itself holds its tasks by weak references alone

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await handle(reader, writer)
        except asyncio.CancelledError:  # the test is over; the server's own callback would report it as an error
            pass
        finally:
            serving.discard(asyncio.current_task())
            writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024) as server:
            ports.append(server.sockets[0].getsockname()[1])
            started.set()
            await stop.wait()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=work, name="served")
    thread.start()
    try:
        assert started.wait(10), "the server did not start"
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
