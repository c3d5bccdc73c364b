"""
The authorities whose certificates database servers have to show.

What managed databases show is signed by an authority of the provider's own, which no system trusts by itself. Its
certificates are no secret, but are kept where secrets are: so Lambdas, containers and people find them in the same way, and
new ones need no new image. libpq reads them from a file that `PGSSLROOTCERT` names, for ledger, warehouse and sources, natively
and over ODBC; a DSN that names a file of its own (`sslrootcert`) goes before it.

Sources: PostgreSQL documentation, "SSL Support" and "Environment Variables" of libpq; Amazon RDS User Guide, "Using SSL/TLS to
encrypt a connection to a DB instance".
"""

import os
import ssl
import tempfile
from typing import Final

from shared.errors import ConfigurationError
from shared.ports import SecretStore

VARIABLE: Final = "PGSSLROOTCERT"

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"

#: Reference → the file that holds what it named. It goes with the process that wrote it, and not with one forked from that.
_written: dict[str, "tempfile._TemporaryFileWrapper[bytes]"] = {}


def trust_authorities(secrets: SecretStore, reference: str) -> None:
    """
    Let every connection of libpq made from now on, here and in processes begun here, check servers against certificates.

    Does nothing without a reference, and nothing the second time: new certificates are seen by a process that starts.

    Raises:
        ConfigurationError: if what the reference names are no certificates in PEM.
        SecretNotFound: if it leads nowhere.
        Unavailable: if the store behind it does not answer.
    """
    if not reference or reference in _written:
        return
    text = secrets.resolve(reference)
    _require_certificates(text)
    file = tempfile.NamedTemporaryFile(prefix="esclusa-certificates-", suffix=".pem")  # noqa: SIM115 (as long as we live)
    file.write(text.encode())
    file.flush()
    _written[reference] = file
    os.environ[VARIABLE] = file.name


def _require_certificates(text: str) -> None:
    problem = "" if _BEGIN in text else "a text without any"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        problem = problem or str(error)
    if problem:
        raise ConfigurationError(
            f"ESCLUSA_CA_CERTIFICATES: expected certificates in PEM, {_BEGIN} … one after another, found {problem}"
        )
