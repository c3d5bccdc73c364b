"""
The authorities whose certificates servers of PostgreSQL have to show.

What managed databases show is signed by an authority of the provider's own, which no system trusts by itself. Its
certificates are no secret, but are kept where secrets are: so Lambdas, containers and people find them in the same way, and
new ones need no new image. They are given to connections whose DSN says `sslmode=verify-ca` or `verify-full`. To others
libpq would do harm with them: it checks `require` more strictly than it says, and of a server that does not pass, `prefer` goes on
without any TLS.

Sources: PostgreSQL documentation, "SSL Support" of libpq; Amazon RDS User Guide, "Using SSL/TLS to encrypt a connection to a
DB instance".
"""

import hashlib
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shared.errors import ConfigurationError
from shared.ports import SecretStore

#: The modes of libpq that look who answers.
CHECKING_MODES: Final = frozenset({"verify-ca", "verify-full"})

#: Reference → what it named. One, in a process that has one setting.
_trusted: dict[str, bytes] = {}


def trust_authorities(secrets: SecretStore, reference: str) -> None:
    """
    Let `root_certificate` tell the certificates that a reference names, here and in processes forked from here.

    Does nothing without a reference, and nothing the second time: new certificates are seen by a process that starts.

    Raises:
        ConfigurationError: if what the reference names are no certificates in PEM.
        SecretNotFound: if it leads nowhere.
        Unavailable: if the store behind it does not answer.
    """
    if not reference or reference in _trusted:
        return
    text = secrets.resolve(reference).encode()
    file = _written(text)
    try:
        # By the file, as libpq reads it: between certificates anything may stand.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except ssl.SSLError as error:
        file.unlink()
        raise ConfigurationError(
            f"ESCLUSA_CA_CERTIFICATES: expected certificates in PEM, one after another, found another text ({error.reason})"
        ) from None
    _trusted[reference] = text


def root_certificate(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the parameter of libpq that has a server checked against our authorities: nothing where nobody asks for that.

    `given`: what else the connection is made with.
    """
    if not _trusted:
        return {}
    mode = given.get("sslmode") or os.environ.get("PGSSLMODE")
    if mode not in CHECKING_MODES or given.get("sslrootcert") or os.environ.get("PGSSLROOTCERT"):
        return {}
    return {"sslrootcert": str(_written(b"\n".join(_trusted.values())))}


def _written(text: bytes) -> Path:
    """Return a file that holds a text, and is only ours: made anew if somebody tidied it away."""
    directory = Path(tempfile.gettempdir()) / f"esclusa-certificates-{os.geteuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        raise ConfigurationError(
            f"{directory}: expected a directory of our own, found somebody else's; remove it"
        )
    file = directory / f"{hashlib.sha256(text).hexdigest()}.pem"
    if not file.exists():
        # Whoever reads it finds all of it.
        with tempfile.NamedTemporaryFile(dir=directory, delete=False) as fresh:
            fresh.write(text)
        Path(fresh.name).replace(file)
    return file
