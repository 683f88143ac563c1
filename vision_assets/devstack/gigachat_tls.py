"""The TLS of the emulated GigaChat: an authority of its own, as the real API has one that no client knows by default.

What does not belong here: the server (`gigachat.py`).
"""

import ssl
from pathlib import Path

import trustme

CA_FILE = "ca.pem"
_KEY_FILE = "ca.key"


def server_context(folder: Path) -> ssl.SSLContext:
    """Make a certificate for the loopback interface, signed by the folder's authority.

    The authority is made at the first start and kept, so that clients that trust it still do after a restart.

    Args:
        folder: Made if absent. `ca.pem` in it is what clients pass as `GIGACHAT_CA_FILE`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _authority(folder).issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context


def _authority(folder: Path) -> trustme.CA:
    certificate, key = folder / CA_FILE, folder / _KEY_FILE
    if certificate.exists() and key.exists():
        return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
    authority = trustme.CA(organization_name="vision_assets", organization_unit_name="emulated GigaChat")
    key.touch(mode=0o600)
    key.write_bytes(authority.private_key_pem.bytes())
    draft = certificate.with_suffix(".draft")
    draft.write_bytes(authority.cert_pem.bytes())
    draft.replace(certificate)  # it comes last: with it the authority is whole
    return authority
