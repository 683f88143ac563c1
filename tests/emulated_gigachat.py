"""The emulated GigaChat in a thread of the test's own process. What is not here: what it answers (`devstack/`)."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from pydantic import SecretStr

from vision_assets.clients.gigachat_wire import GigaChatAccess
from vision_assets.devstack.gigachat import BUSINESS, Options, create_server
from vision_assets.devstack.gigachat_access import Account
from vision_assets.devstack.gigachat_tls import CA_FILE

_AWAITED_SECONDS = 20


@dataclass(frozen=True, slots=True)
class EmulatedGigaChat:
    """A running emulator and its control API.

    Attributes:
        url: Of the server, without a path.
        ca_file: What a client has to trust.
        trust: The same, read.
    """

    url: str
    ca_file: Path
    trust: ssl.SSLContext
    _control: httpx.Client

    @property
    def base_url(self) -> str:
        """Of the API."""
        return f"{self.url}/api/v1"

    @property
    def auth_url(self) -> str:
        """Of OAuth."""
        return f"{self.url}/api/v2/oauth"

    def _ask(self, method: str, what: str, body: Any = None) -> Any:
        answer = self._control.request(method, f"{self.url}/emulator/{what}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def set_faults(self, *faults: dict[str, Any]) -> None:
        """Put these faults in force and no others."""
        self._ask("PUT", "faults", faults)

    def faults(self) -> list[dict[str, Any]]:
        """List the faults, with the calls that they met and hit."""
        answer: list[dict[str, Any]] = self._ask("GET", "faults")
        return answer

    def set_options(self, **options: Any) -> None:
        """Put these options in force; those that are not named go back to their defaults."""
        self._ask("PUT", "options", options)

    def counts(self) -> Any:
        """Tell the calls, bills, streams and files."""
        return self._ask("GET", "counts")

    def await_streams(self, number: int) -> None:
        """Wait until so many chats are under way."""
        deadline = time.monotonic() + _AWAITED_SECONDS
        while self.counts()["streams"]["chat"]["now"] != number:
            assert time.monotonic() < deadline, f"there are never {number} chats under way"
            time.sleep(0.02)

    def bills(self) -> list[dict[str, Any]]:
        """List what was billed, in order."""
        bills: list[dict[str, Any]] = self.counts()["bills"]
        return bills

    def files(self) -> list[dict[str, Any]]:
        """List the files that are kept."""
        answer: list[dict[str, Any]] = self._ask("GET", "files")
        return answer

    def reset(self) -> None:
        """Forget everything."""
        self._ask("POST", "reset")

    def token(self, account: Account = BUSINESS, scope: str = "GIGACHAT_API_B2B") -> str:
        """Get an access token."""
        headers = {"Authorization": f"Basic {account.credentials}", "RqUID": str(uuid4())}
        answer = self._control.post(self.auth_url, headers=headers, data={"scope": scope})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def access(self, *, read_seconds: float, deadline_seconds: float) -> GigaChatAccess:
        """Give the project's client access with the business account; to connect it has five seconds."""
        return GigaChatAccess(
            credentials=SecretStr(BUSINESS.credentials),
            scope="GIGACHAT_API_B2B",
            base_url=self.base_url,
            auth_url=self.auth_url,
            ca_file=self.ca_file,
            connect_seconds=5,
            read_seconds=read_seconds,
            deadline_seconds=deadline_seconds,
        )

    def headers(self, tenant: str = "", account: Account = BUSINESS, scope: str = "GIGACHAT_API_B2B") -> dict[str, str]:
        """Give the headers of a tenant's calls, with a token."""
        named = {"X-Client-ID": tenant} if tenant else {}
        return {"Authorization": f"Bearer {self.token(account, scope)}", **named}


@contextmanager
def emulated_gigachat(folder: Path, options: Options | None = None) -> Iterator[EmulatedGigaChat]:
    """Run an emulator on a free port until the block is left.

    Args:
        folder: For its certificates.
        options: In force at the start and after a reset.
    """
    server = create_server(folder, port=0, options=options)
    thread = threading.Thread(target=server.run, name="emulated GigaChat")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the emulator did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        trust = ssl.create_default_context(cafile=folder / CA_FILE)
        with httpx.Client(verify=trust, trust_env=False) as control:
            yield EmulatedGigaChat(f"https://127.0.0.1:{port}", folder / CA_FILE, trust, control)
    finally:
        server.should_exit = True
        thread.join(30)
