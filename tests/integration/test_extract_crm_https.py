"""A CRM behind HTTPS, with a certificate of an authority that is not known everywhere."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from local.crm import Crm, CrmServer
from services.extractor.readers.http import AUTHORITIES_VARIABLE, HttpLimits, JsonClient
from shared.errors import SourceUnavailable

TOKEN = "a-token"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA, tmp_path: Path) -> Iterator[CrmServer]:
    certificate = tmp_path / "key-and-certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    crm = Crm(anchor=datetime(2026, 11, 1, tzinfo=UTC), contact_count=3, deal_count=3)
    with CrmServer(crm, port=0, token=TOKEN, certificate=certificate) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server
        server.shutdown()
        serving.join()


def contacts_of(server: CrmServer) -> Any:
    limits = HttpLimits(total_timeout_seconds=3)
    with JsonClient(server.url, token=TOKEN, limits=limits, place="source 'crm'") as client:
        return client.get(client.url_of("/v1/contacts"), {}).document


def test_an_authority_that_nobody_named_is_not_believed(
    server: CrmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(AUTHORITIES_VARIABLE, raising=False)

    with pytest.raises(SourceUnavailable):
        contacts_of(server)


def test_an_authority_that_the_environment_names_is_believed(
    server: CrmServer, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authorities.pem")
    monkeypatch.setenv(AUTHORITIES_VARIABLE, str(tmp_path / "authorities.pem"))

    found = contacts_of(server)

    assert len(found["data"]) == 3
