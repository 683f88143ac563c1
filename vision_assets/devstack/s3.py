"""The embedded S3: ministack, which keeps objects and their metadata on disk and survives a kill.

It has an environment of its own (`.venv-s3`, made from `requirements/s3.lock`), as its dependencies are nobody else's
business. It does not check signatures: for demos and tests, on the loopback interface only.

What does not belong here: the S3 client (`clients/s3.py`).
"""

import http.client
from contextlib import closing

from vision_assets.devstack.credentials import load_credentials
from vision_assets.devstack.processes import Child, PartFailed, Program, answers, ensure, make_dir, stop
from vision_assets.settings import PROJECT_ROOT, Settings, data_dir

NAME = "s3"
_PROGRAM = PROJECT_ROOT / ".venv-s3" / "bin" / "ministack"


def url(port: int) -> str:
    """Tell the endpoint's URL."""
    return f"http://127.0.0.1:{port}"


def _environment(port: int) -> dict[str, str]:
    home = data_dir() / NAME
    credentials = load_credentials()
    return {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",  # without it, it listens on every interface
        "SERVICES": "s3",
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(make_dir(home / "objects")),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(make_dir(home / "state")),
        "TMPDIR": str(make_dir(home / "tmp")),
        "AWS_ACCESS_KEY_ID": credentials.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": credentials.s3_secret_access_key,
        "IOT_MTLS_ENABLED": "0",  # listeners of other services, which would take fixed ports
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
    }


def create_bucket(port: int, bucket: str) -> None:
    """Make a bucket; one that is there is left as it is. The project's S3 client cannot make buckets.

    Raises:
        PartFailed: The server refused.
    """
    scope = f"{load_credentials().s3_access_key_id}/20250101/us-east-1/s3/aws4_request"
    authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("PUT", f"/{bucket}", headers={"Authorization": authorization})
        answer = connection.getresponse()
        text = answer.read(500).decode(errors="replace")
    if answer.status not in (http.HTTPStatus.OK, http.HTTPStatus.CONFLICT):
        raise PartFailed(f"The embedded S3 did not make the bucket {bucket}: {answer.status} {text}")


def start() -> Child:
    """Give the running server with the project's bucket; start it if need be.

    Raises:
        PartFailed: It cannot be started.
    """
    if not _PROGRAM.exists():
        raise PartFailed(
            f"The embedded S3 is not installed: {_PROGRAM} is absent. "
            "Run `make install` (it installs requirements/s3.lock there), or set S3_ENDPOINT_URL."
        )
    child = ensure(
        Program(
            name=NAME,
            command=lambda _: [str(_PROGRAM)],
            ready=lambda port: answers(port, "/_ministack/health"),
            environment=_environment,
        )
    )
    create_bucket(child.port, Settings().s3_bucket)
    return child


def end() -> bool:
    """Stop the server."""
    return stop(NAME)
