"""URLs with a secret in their path: it is put in where nobody sees it, neither the log of httpx nor an error's request.

What is not here: what is sent there.
"""

import httpx
from pydantic import SecretStr


class SecretPath(httpx.AsyncBaseTransport):
    """Sends requests with the secret in the place of a word that stands for it."""

    def __init__(self, word: str, secret: SecretStr) -> None:
        """Keep both.

        Args:
            word: In the paths of the requests that the client is given.
            secret: May be a piece of a path, or a path with a query.
        """
        self._word, self._secret = word.encode(), secret
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.replace(self._word, self._secret.get_secret_value().encode(), 1)
        return await self._inner.handle_async_request(
            httpx.Request(
                request.method,
                request.url.copy_with(raw_path=path),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        )

    async def aclose(self) -> None:
        await self._inner.aclose()
