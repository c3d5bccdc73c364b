"""`discover` over ODBC, by SQLAlchemy and of REST sources, from the command line to a file that can be loaded."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from support.commands import Ended, Shell

from cli.output import ExitCode
from local.crm import Crm, CrmServer
from local.ports import find_free_port
from local.shop import ShopSize, fill_shop
from shared.catalog import load_sources
from shared.domain.contracts import MaskKind, SourceKind, TableContract
from shared.secrets.memory import MemorySecrets

pytestmark = pytest.mark.timeout(120)


def discover(directory: Path, secrets: dict[str, str], *arguments: str) -> Ended:
    shell = Shell(secrets=MemorySecrets(secrets))
    return shell.run("discover", "found", *arguments, "--out", str(directory / "found.yaml"))


def loaded(directory: Path) -> dict[str, TableContract]:
    return {contract.table: contract for contract in load_sources(directory).contracts()}


def odbc_string(dsn: str) -> str:
    """The ODBC connection string of a PostgreSQL database."""
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    return (
        f"Driver={{PostgreSQL Unicode}};Server={parts['host']};Port={parts['port']};Database={parts['dbname']};"
        f"UID={parts['user']};PWD={parts['password']}"
    )


def urls_of(dsn: str) -> dict[str, str]:
    return {"env:ODBC": odbc_string(dsn), "env:URL": dsn.replace("postgresql://", "postgresql+psycopg://")}


WAYS = {
    SourceKind.ODBC: ["--kind", "odbc", "--dialect", "postgresql", "--dsn", "env:ODBC"],
    SourceKind.SQLALCHEMY: ["--kind", "sqlalchemy", "--dialect", "postgresql", "--dsn", "env:URL"],
}


@pytest.mark.parametrize("kind", WAYS)
def test_a_database_is_discovered_over_any_driver_as_it_is_natively(
    fresh_database: str, tmp_path: Path, kind: SourceKind
) -> None:
    fill_shop(fresh_database, size=ShopSize(customers=200, products=50, orders=300))
    native, other = tmp_path / "native", tmp_path / "other"
    native.mkdir()
    other.mkdir()
    discover(native, {"env:DSN": fresh_database}, "--dsn", "env:DSN")

    ended = discover(other, urls_of(fresh_database), *WAYS[kind])

    assert ended.exit_code == ExitCode.OK, ended.errors
    found, expected = loaded(other), loaded(native)
    assert found.keys() == expected.keys()
    for table, contract in expected.items():
        assert found[table].origin.kind is kind
        assert found[table].key == contract.key
        assert found[table].cursor == contract.cursor
        assert [(c.name, c.source_type, c.type, c.nullable) for c in found[table].columns] == [
            (c.name, c.source_type, c.type, c.nullable) for c in contract.columns
        ]
        # Enums are known to the native way alone.
        kept = {c.name for c in found[table].columns if c.mask.kind is MaskKind.KEEP}
        assert kept <= {c.name for c in contract.columns if c.mask.kind is MaskKind.KEEP}


def test_a_file_of_sqlite_is_discovered(tmp_path: Path) -> None:
    file = tmp_path / "shop.sqlite"
    with sqlite3.connect(file) as connection:
        connection.executescript("""
            CREATE TABLE `odd "name"` (id INTEGER PRIMARY KEY, email TEXT, amount DECIMAL(10,2), note TEXT,
                "select" BOOLEAN, updated_at DATETIME NOT NULL);
            INSERT INTO `odd "name"` VALUES (1, 'ann@example.org', 1.5, 'call Ann', 1, '2026-01-01 00:00:00');
            CREATE TABLE codes (code VARCHAR(10) PRIMARY KEY, at DATE) WITHOUT ROWID;
            INSERT INTO codes VALUES ('A-1', '2026-01-01'), ('A-2', NULL);
            CREATE VIEW seen AS SELECT id FROM `odd "name"`;
        """)
    arguments = ["--kind", "sqlalchemy", "--dialect", "sqlite", "--dsn", "env:URL"]

    ended = discover(tmp_path, {"env:URL": f"sqlite:///{file}"}, *arguments)

    assert ended.exit_code == ExitCode.OK, ended.errors
    found = loaded(tmp_path)
    odd = found['odd "name"']
    assert odd.relation == ("main", 'odd "name"')
    assert odd.key == ("id",)
    assert {c.name: (str(c.type), str(c.mask.kind)) for c in odd.columns} == {
        "id": ("int64", "keep"),
        "email": ("string", "withhold"),
        "amount": ("string", "withhold"),
        "note": ("string", "withhold"),
        "select": ("boolean", "keep"),
        "updated_at": ("timestamp", "keep"),
    }
    assert found["codes"].key == ("code",)
    assert found["codes"].column("code").mask.kind is MaskKind.KEEP
    text = (tmp_path / "found.yaml").read_text()
    assert "ann@" not in text
    assert "content: free_text" in text


def test_a_view_that_cannot_be_read_is_named_and_the_others_are_taken_in(
    fresh_database: str, tmp_path: Path
) -> None:
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE things (id integer PRIMARY KEY, code varchar(10))")
        connection.execute("INSERT INTO things VALUES (1, 'x')")
        connection.execute("CREATE VIEW broken AS SELECT 1 / (id - id) AS n, code FROM things")

    ended = discover(tmp_path, urls_of(fresh_database), *WAYS[SourceKind.ODBC])

    assert ended.exit_code == ExitCode.OK, ended.errors
    assert loaded(tmp_path).keys() >= {"things"}


@contextmanager
def running(crm: Crm) -> Iterator[str]:
    server = CrmServer(crm, port=0, token="token-of-the-crm", requests_per_second=1000)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_rest_source_is_discovered_from_its_first_records(tmp_path: Path) -> None:
    crm = Crm(anchor=datetime(2026, 11, 22, tzinfo=UTC), contact_count=300, deal_count=300)
    options = {
        "paging": "page",
        "page_parameter": "page",
        "total_path": "total",
        "size_parameter": "per_page",
        "page_size": "200",
        "after_parameter": "updated_after",
        "before_parameter": "updated_before",
    }
    given = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    paths = ["--path", "/v1/contacts", "--path", "/v1/deals"]

    with running(crm) as url:
        secrets = {"env:URL": url, "env:TOKEN": "token-of-the-crm"}
        ended = discover(
            tmp_path, secrets, "--kind", "rest", "--dsn", "env:URL", "--token", "env:TOKEN", *paths, *given
        )

    assert ended.exit_code == ExitCode.OK, ended.errors
    found = loaded(tmp_path)
    assert found.keys() == {"contacts", "deals"}
    assert found["contacts"].options["page_size"] == "200"
    assert found["contacts"].cursor is not None
    assert found["contacts"].column("email").mask.kind is MaskKind.WITHHOLD
    assert "token-of-the-crm" not in (tmp_path / "found.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kind", "odbc", "--dsn", "env:ODBC"], "--dialect"),
        (["--kind", "rest", "--dsn", "env:URL"], "--path"),
        (["--dsn", "env:URL", "--path", "/v1/contacts"], "--path"),
        (["--kind", "rest", "--dsn", "env:URL", "--path", "/a", "--schema", "x"], "--schema"),
        (["--kind", "rest", "--dsn", "env:URL", "--path", "/a", "--option", "paging"], "key=value"),
        (["--kind", "rest", "--dsn", "env:URL", "--path", "/a", "--option", "pagin=page"], "--option pagin"),
        (
            ["--kind", "rest", "--dsn", "env:URL", "--path", "/a", "--option", "paging=pages"],
            "--option paging",
        ),
    ],
)
def test_an_option_that_does_not_fit_the_kind_is_named(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    ended = discover(tmp_path, {"env:URL": "http://127.0.0.1:1/", "env:ODBC": "x"}, *arguments)

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert told in ended.errors


@pytest.mark.parametrize(
    ("kind", "address", "code"),
    [
        (
            "odbc",
            "Driver={{PostgreSQL Unicode}};Server=127.0.0.1;Port={port};UID=me;PWD=hunter2",
            ExitCode.UNAVAILABLE,
        ),
        ("odbc", "Driver={{No Such Driver}};PWD=hunter2", ExitCode.CONFIGURATION),
        ("sqlalchemy", "postgresql+psycopg://me:hunter2@127.0.0.1:{port}/x", ExitCode.UNAVAILABLE),
        ("sqlalchemy", "no url with hunter2", ExitCode.CONFIGURATION),
    ],
)
def test_what_does_not_answer_is_told_without_the_password(
    tmp_path: Path, kind: str, address: str, code: ExitCode
) -> None:
    secrets = {"env:ADDRESS": address.format(port=find_free_port())}

    ended = discover(tmp_path, secrets, "--kind", kind, "--dialect", "postgresql", "--dsn", "env:ADDRESS")

    assert ended.exit_code == code
    assert "hunter2" not in ended.errors
