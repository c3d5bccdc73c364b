"""Migrations of the phase `pre` only add: a fleet of the version before works on beside it. docs/upgrades.md tells why."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import psycopg
import pytest
from support.ledgers import copied_database, migrated_template
from support.schema_changes import migrate_to, mistakes, read_schema

from infra.migrations import POST, PRE, Chain, revisions
from local.postgres import EmbeddedPostgres
from shared.ledger.revision import KNOWN_POST_REVISION, NEEDED_REVISION


def modules_of(chain: Chain) -> list[ModuleType]:
    found = []
    for path in sorted(chain.directory.glob("*_*.py")):
        if path.stem == "__init__":
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append(module)
    return found


def file_of(module: ModuleType) -> str:
    return Path(str(module.__file__)).name


@pytest.mark.parametrize("chain", [PRE, POST], ids=lambda chain: str(chain.phase))
def test_revisions_are_numbers_in_one_line(chain: Chain) -> None:
    modules = modules_of(chain)

    assert [module.revision for module in modules] == revisions(chain)
    assert revisions(chain) == [f"{number:04}" for number in range(1, len(modules) + 1)]
    assert [module.down_revision for module in modules] == [None, *revisions(chain)][: len(modules)]
    assert all(re.fullmatch(rf"(ledger|post)_{module.revision}\.py", file_of(module)) for module in modules)


def test_the_code_asks_for_the_newest_revisions() -> None:
    told = "shared/ledger/revision.py names the newest migrations"

    assert (told, NEEDED_REVISION, KNOWN_POST_REVISION) == (
        told,
        revisions(PRE)[-1],
        next(reversed(revisions(POST)), ""),
    )


def test_no_migration_leads_back() -> None:
    assert [
        file_of(module) for module in modules_of(PRE) + modules_of(POST) if hasattr(module, "downgrade")
    ] == []


def test_migrations_before_a_rollout_only_add(fresh_database: str) -> None:
    first, *others = modules_of(PRE)
    migrate_to(fresh_database, first.revision)
    found = []
    for module in others:
        with psycopg.connect(fresh_database) as connection:
            before = read_schema(connection)
        migrate_to(fresh_database, module.revision)
        with psycopg.connect(fresh_database) as connection:
            after = read_schema(connection)
        harmless = getattr(module, "harmless", {})
        assert all(len(reason) > 20 for reason in harmless.values()), "a reason is a sentence"
        found += [f"{file_of(module)}: {line}" for line in mistakes(before, after, harmless=harmless)]

    assert found == []


# ---- the rule itself ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ledger(postgres_server: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A connection to a migrated ledger."""
    with (
        migrated_template(postgres_server) as template,
        copied_database(postgres_server, template) as dsn,
        psycopg.connect(dsn) as connection,
    ):
        connection.execute("SET search_path TO esclusa")
        connection.commit()
        yield connection


def mistakes_of(statements: str, ledger: psycopg.Connection) -> list[str]:
    before = read_schema(ledger)
    ledger.execute(statements)  # type: ignore[call-overload]
    found = mistakes(before, read_schema(ledger))
    ledger.rollback()
    ledger.execute("SET search_path TO esclusa")
    return found


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE TABLE note (id bigint PRIMARY KEY, body text NOT NULL)",
        "ALTER TABLE batch ADD COLUMN trace text",
        "ALTER TABLE batch ADD COLUMN weight integer NOT NULL DEFAULT 0",
        "ALTER TABLE batch ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE batch ADD COLUMN trace text, ADD CONSTRAINT trace_is_short CHECK (length(trace) < 9)",
        "ALTER TABLE batch ADD COLUMN trace text UNIQUE",
        "ALTER TABLE batch ALTER COLUMN detail DROP NOT NULL",
        (
            "ALTER TABLE attempt DROP CONSTRAINT attempt_state_is_known, ADD CONSTRAINT attempt_state_is_known"
            " CHECK (state IN ('running', 'succeeded', 'failed', 'expired', 'tired'))"
        ),
        "CREATE INDEX batch_by_bucket ON batch (bucket)",
        "INSERT INTO allowed_edge VALUES ('extracted', 'failed')",
        "DROP TRIGGER batch_is_never_truncated ON batch",
    ],
)
def test_what_only_adds_passes(statements: str, ledger: psycopg.Connection) -> None:
    assert mistakes_of(statements, ledger) == []


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        ("DROP TABLE recount", "recount: a table was removed"),
        ("ALTER TABLE recount RENAME TO counted_again", "recount: a table was removed"),
        ("ALTER TABLE batch DROP COLUMN detail", "batch.detail: a column was removed"),
        ("ALTER TABLE batch RENAME COLUMN detail TO note", "batch.detail: a column was removed, or renamed"),
        ("ALTER TABLE batch ADD COLUMN weight integer NOT NULL", "batch.weight: a new column"),
        ("ALTER TABLE batch ALTER COLUMN detail TYPE varchar(9)", "batch.detail: its type became character varying"),
        ("ALTER TABLE batch ALTER COLUMN window_start SET NOT NULL", "batch.window_start: it became NOT NULL"),
        ("ALTER TABLE contract ALTER COLUMN registered_at DROP DEFAULT", "contract.registered_at: its default"),
        ("ALTER TABLE batch ADD CONSTRAINT short CHECK (length(detail) < 9)", "batch.short: refuses"),
        ("ALTER TABLE batch ADD COLUMN x text, ADD CONSTRAINT both_or_none CHECK (x IS NULL OR reason IS NULL)", "both_or_none"),
        ("ALTER TABLE batch ADD COLUMN x text UNIQUE DEFAULT ''", "refuses what was allowed: UNIQUE"),
        (
            ("ALTER TABLE batch DROP CONSTRAINT batch_state_is_known, "
            "ADD CONSTRAINT batch_state_is_known CHECK (state IN ('planned', 'published'))"),
            "batch.batch_state_is_known: became",
        ),
        ("CREATE UNIQUE INDEX one_bucket ON batch (bucket)", "batch.one_bucket: refuses what was allowed"),
        ("ALTER TABLE watermark DROP CONSTRAINT watermark_key", "watermark.watermark_key: a key was removed"),
        (
            "CREATE TRIGGER slow BEFORE INSERT ON batch FOR EACH ROW EXECUTE FUNCTION refuse('no')",
            "batch.slow: a trigger",
        ),
        (
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "refuse: a function became another",
        ),
        ("DELETE FROM allowed_edge WHERE from_state = 'failed'", "was removed"),
    ],
)  # fmt: skip
def test_what_the_version_before_would_stumble_over_is_found(
    statements: str, told: str, ledger: psycopg.Connection
) -> None:
    found = mistakes_of(statements, ledger)

    assert any(told in line for line in found), found


def test_what_a_person_called_harmless_passes(ledger: psycopg.Connection) -> None:
    before = read_schema(ledger)
    ledger.execute(
        "ALTER TABLE batch ADD COLUMN x text, ADD CONSTRAINT one_of_both CHECK (x IS NULL OR reason IS NULL)"
    )
    after = read_schema(ledger)
    ledger.rollback()

    assert mistakes(before, after, harmless={"one_of_both": "no version writes both of them"}) == []
    assert mistakes(before, after, harmless={"another": "no version writes both of them"}) != []
