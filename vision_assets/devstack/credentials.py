"""Passwords and keys of the embedded parts: random, made once per data folder, readable only by its owner.

What does not belong here: secrets of real servers, which come from the environment.
"""

import json
import secrets
from dataclasses import asdict, dataclass

from vision_assets.devstack.processes import write_atomically
from vision_assets.settings import data_dir


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The secrets of one data folder."""

    postgres_password: str
    s3_access_key_id: str
    s3_secret_access_key: str


def load_credentials() -> Credentials:
    """Read them, or make them. Call it under `processes.lock`."""
    file = data_dir() / "credentials.json"
    if file.exists():
        return Credentials(**json.loads(file.read_bytes()))
    made = Credentials(
        postgres_password=secrets.token_urlsafe(24),
        s3_access_key_id=f"VA{secrets.token_hex(9).upper()}",
        s3_secret_access_key=secrets.token_urlsafe(30),
    )
    write_atomically(file, json.dumps(asdict(made)))
    return made
