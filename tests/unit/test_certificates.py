"""Database servers are checked against the certificates of authorities that a setting refers to."""

import ssl
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import create_server

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cli.context import open_secrets
from shared import certificates
from shared.answering import KEEPALIVES, AnsweringConnection, connect
from shared.certificates import root_certificate, trust_authorities
from shared.errors import ConfigurationError, SecretNotFound
from shared.secrets.memory import MemorySecrets

REFERENCE = "secretsmanager:acme/ledger#ca"
REACHED = "reached by TLS"


@dataclass
class Authority:
    """It signs one certificate, for `localhost`."""

    name: str = "an authority"

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)])
        self._own = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))

    @property
    def pem(self) -> str:
        return self._own.public_bytes(serialization.Encoding.PEM).decode()

    def write_server_certificate(self, path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        signed = self._signed(name, key, x509.SubjectAlternativeName([x509.DNSName("localhost")]))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            subject_name=name,
            issuer_name=self._name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(hours=1),
            not_valid_after=now + timedelta(hours=1),
        )
        return builder.add_extension(extension, critical=True).sign(self._key, hashes.SHA256())


@pytest.fixture(autouse=True)
def _nothing_is_trusted_before_or_after(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where libpq looks for ~/.postgresql/root.crt
    for name in ("PGSSLROOTCERT", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(certificates, "_trusted", {})


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server_port(authority: Authority, tmp_path: Path) -> Iterator[int]:
    """What PostgreSQL says up to the handshake, after which it refuses: an answer that only TLS lets through."""
    certificate = tmp_path / "server.pem"
    authority.write_server_certificate(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            connection, _ = listener.accept()
            connection.settimeout(20)
            with connection:
                assert connection.recv(8)[4:] == struct.pack(">I", 80877103)  # SSLRequest
                connection.sendall(b"S")
                try:
                    secured = context.wrap_socket(connection, server_side=True)
                    secured.recv(4096)
                except OSError:  # The client did not trust us; SSLError is one.
                    return
                said = f"SFATAL\0VFATAL\0C28000\0M{REACHED}\0\0".encode()
                with closing(secured):
                    secured.sendall(b"E" + struct.pack(">I", len(said) + 4) + said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(timeout=20)


def said_on_connecting(port: int, *, mode: str = "verify-full") -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        connect(
            f"host=localhost hostaddr=127.0.0.1 port={port} user=u sslmode={mode} connect_timeout=10",
            statement_timeout_seconds=10,
        )
    return str(caught.value)


def trust(*authorities: Authority) -> None:
    text = "# A comment: F\u0151tan\u00fas\u00edtv\u00e1ny\n".join(
        ["", *(authority.pem for authority in authorities)]
    )
    trust_authorities(MemorySecrets({REFERENCE: text}), REFERENCE)


def test_a_server_whose_authority_the_setting_names_is_believed(
    authority: Authority, server_port: int
) -> None:
    trust(Authority("another"), authority)

    assert REACHED in said_on_connecting(server_port)


def test_a_server_of_another_authority_is_told_nothing(server_port: int) -> None:
    trust(Authority("another"))

    assert "certificate verify failed" in said_on_connecting(server_port)


def test_a_server_that_nobody_asked_to_check_is_not_checked_and_still_encrypted(server_port: int) -> None:
    trust(Authority("another"))

    # With the certificates libpq would refuse `require`, and go on without TLS for `prefer`.
    assert REACHED in said_on_connecting(server_port, mode="require")


def test_the_file_that_a_dsn_names_goes_before_the_setting(tmp_path: Path) -> None:
    trust(Authority())
    own = {"sslmode": "verify-full", "sslrootcert": str(tmp_path / "own.pem")}

    assert root_certificate(own) == {}
    assert root_certificate({"sslmode": "verify-full"}).keys() == {"sslrootcert"}


def test_without_the_setting_nothing_changes() -> None:
    trust_authorities(MemorySecrets({}), "")

    assert root_certificate({"sslmode": "verify-full"}) == {}


def test_certificates_are_fetched_once_by_a_process_and_written_again_if_their_file_is_tidied_away(
    authority: Authority,
) -> None:
    trust(authority)
    path = Path(root_certificate({"sslmode": "verify-ca"})["sslrootcert"])
    before = path.read_text()
    path.unlink()
    trust_authorities(MemorySecrets({}), REFERENCE)

    again = Path(root_certificate({"sslmode": "verify-ca"})["sslrootcert"])

    assert again.read_text() == before
    assert authority.pem in before
    assert again.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "text", ["no certificate", "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_refused_by_the_name_of_the_setting(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ESCLUSA_CA_CERTIFICATES: expected certificates in PEM"):
        trust_authorities(MemorySecrets({REFERENCE: text}), REFERENCE)

    assert root_certificate({"sslmode": "verify-full"}) == {}


def test_a_reference_that_leads_nowhere_is_told() -> None:
    with pytest.raises(SecretNotFound):
        trust_authorities(MemorySecrets({}), REFERENCE)


def test_a_command_that_needs_no_fleet_knows_them_too(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "authorities.pem"
    file.write_text(authority.pem)
    monkeypatch.setenv("ESCLUSA_LEDGER_DSN", "env:NOT_THERE")
    monkeypatch.setenv("ESCLUSA_CA_CERTIFICATES", f"file:{file}")

    open_secrets()

    assert root_certificate({"sslmode": "verify-full"}).keys() == {"sslrootcert"}


def test_what_a_dsn_says_of_keepalives_goes_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect_with(conninfo: str, **parameters: object) -> None:
        raise psycopg.OperationalError(make_conninfo(conninfo, **parameters))  # type: ignore[arg-type]

    monkeypatch.setattr(AnsweringConnection, "connect", connect_with)

    with pytest.raises(psycopg.OperationalError) as caught:
        connect("host=db keepalives_idle=60", statement_timeout_seconds=10)

    said = conninfo_to_dict(str(caught.value))
    assert (said["keepalives_idle"], said["keepalives_interval"]) == (
        "60",
        str(KEEPALIVES["keepalives_interval"]),
    )
