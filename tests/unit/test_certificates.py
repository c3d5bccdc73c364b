"""Database servers are checked against the certificates of authorities that a setting refers to."""

import os
import ssl
import struct
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

from shared import certificates
from shared.certificates import VARIABLE, trust_authorities
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
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(certificates, "_written", {})


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


def said_on_connecting(port: int) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(
            f"host=localhost hostaddr=127.0.0.1 port={port} user=u sslmode=verify-full connect_timeout=10"
        )
    return str(caught.value)


def test_a_server_whose_authority_the_setting_names_is_believed(
    authority: Authority, server_port: int
) -> None:
    trust_authorities(MemorySecrets({REFERENCE: Authority("another").pem + authority.pem}), REFERENCE)

    assert REACHED in said_on_connecting(server_port)


def test_a_server_of_another_authority_is_told_nothing(server_port: int) -> None:
    trust_authorities(MemorySecrets({REFERENCE: Authority("another").pem}), REFERENCE)

    assert "certificate verify failed" in said_on_connecting(server_port)


def test_without_the_setting_nothing_changes() -> None:
    trust_authorities(MemorySecrets({}), "")

    assert VARIABLE not in os.environ


def test_certificates_are_fetched_once_by_a_process(authority: Authority) -> None:
    trust_authorities(MemorySecrets({REFERENCE: authority.pem}), REFERENCE)
    path = Path(os.environ[VARIABLE])
    trust_authorities(MemorySecrets({}), REFERENCE)

    assert path.read_text() == authority.pem
    assert os.environ[VARIABLE] == str(path)


@pytest.mark.parametrize(
    "text", ["no certificate", "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_refused_by_the_name_of_the_setting(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ESCLUSA_CA_CERTIFICATES: expected certificates in PEM"):
        trust_authorities(MemorySecrets({REFERENCE: text}), REFERENCE)

    assert VARIABLE not in os.environ


def test_a_reference_that_leads_nowhere_is_told() -> None:
    with pytest.raises(SecretNotFound):
        trust_authorities(MemorySecrets({}), REFERENCE)
