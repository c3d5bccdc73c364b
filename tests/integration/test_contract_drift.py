"""A source changes under its contract: what each change comes to, from the real source to the edited file."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from support.carrying import carry
from support.commands import Ended, Shell
from support.extraction import MASK_KEY, bodies, make_assignment, run_extract

from cli.output import ExitCode
from services.extractor.extract import extract
from services.extractor.readers import open_reader
from shared import lifecycle
from shared.catalog import load_sources
from shared.domain.batches import Batch, BatchState, Stage
from shared.domain.contracts import TableContract
from shared.domain.drift import ChangeKind, Drift
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.errors import Refused
from shared.secrets.memory import MemorySecrets

FILE = """\
# The shop, as its people know it.
name: shop
kind: postgres
connection: {dsn: env:SHOP_DSN}
mask_key: env:MASK_KEY
mask_key_id: k1

tables:
  # What this test changes.
  things:
    relation: public.things
    columns:
      id: {source_type: bigint, type: int64, nullable: false, mask: keep}  # the key
      # As people wrote it.
%s
    key: [id]  # never changes
    cursor: none
    publish: {mode: replace}
"""


@dataclass
class House:
    """A source, its file, and a ledger."""

    shell: Shell
    file: Path
    dsn: str

    def alter(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def declare(self, *columns: str) -> None:
        self.file.write_text(FILE % "\n".join(f"      {column}" for column in columns))

    def discover(self) -> None:
        """Have the file written from the source."""
        self.file.unlink(missing_ok=True)
        ended = self.run("discover", "shop", "--dsn", "env:SHOP_DSN", "--out", str(self.file))
        assert ended.exit_code == ExitCode.OK, ended.errors

    def run(self, *arguments: str) -> Ended:
        return self.shell.run(*arguments, ESCLUSA_SOURCES=str(self.file.parent))

    @property
    def contract(self) -> TableContract:
        (contract,) = load_sources(self.file.parent).contracts()
        return contract

    def drift(self) -> Drift:
        with open_reader(self.contract, secrets=self.shell.secrets) as reader:
            return reader.drift()

    def extract(self) -> bytes:
        """The records of the table under the contract of the file."""
        secrets = {"env:SHOP_DSN": self.dsn}
        return b"".join(bodies(*run_extract(self.contract, secrets=secrets)))

    def hold(self) -> Batch:
        """Plan a batch, and let its extractor meet the source as it is."""
        assert self.run("enqueue").exit_code == ExitCode.OK
        retry = RetryPolicy(3)
        with self.shell.ledger.transaction() as tx:
            (batch,) = tx.batches(states={BatchState.PLANNED})
            contract = tx.contract(batch.source, batch.table, batch.contract_version).contract
            attempt = lifecycle.claim(
                tx, batch.id, Stage.EXTRACT, worker="w", lease=timedelta(minutes=1), retry=retry
            )
        assert attempt is not None
        with (
            open_reader(contract, secrets=self.shell.secrets) as reader,
            pytest.raises(Refused) as refused,
        ):
            extract(
                make_assignment(contract),
                reader=reader,
                store=self.shell.store,
                secrets=self.shell.secrets,
            )
        with self.shell.ledger.transaction() as tx:
            return lifecycle.refuse_attempt(
                tx,
                attempt,
                reason=refused.value.reason,
                detail=refused.value.detail,
                findings=refused.value.findings,
            )


@pytest.fixture
def house(fresh_database: str, tmp_path: Path) -> House:
    secrets = {"env:SHOP_DSN": fresh_database, "env:MASK_KEY": MASK_KEY}
    sources = tmp_path / "sources"
    sources.mkdir()
    return House(Shell(secrets=MemorySecrets(secrets)), sources / "shop.yaml", fresh_database)


def comments_of(text: str) -> list[str]:
    return [line[line.index("#") :] for line in text.splitlines() if "#" in line]


def table_with(column: str, value: str) -> list[str]:
    """A table of one row and one column beside its key."""
    return [
        f"CREATE TABLE things (id bigint PRIMARY KEY, {column})",
        f"INSERT INTO things VALUES (1, {value})",
    ]


# ---- each row of the matrix --------------------------------------------------------------------------------

#: Column at the source, its value, the column in the file, what happens to the source, what the drift is,
#: the record under the old contract (None: held), the record under the accepted one.
APPLIED = {
    "longer text": (
        "a varchar(10)", "'x'", "a: {source_type: character varying(10), mask: keep}",
        "ALTER TABLE things ALTER a TYPE varchar(50)", ChangeKind.TYPE_WIDENED, b"1,x\n", b"1,x\n",
    ),
    "text without bound": (
        "a varchar(10)", "'x'", "a: {source_type: character varying(10), mask: keep}",
        "ALTER TABLE things ALTER a TYPE text", ChangeKind.TYPE_WIDENED, b"1,x\n", b"1,x\n",
    ),
    "larger numbers in a type that holds them": (
        "a integer", "7", "a: {source_type: integer, type: int64, mask: keep}",
        "ALTER TABLE things ALTER a TYPE bigint; UPDATE things SET a = 9223372036854775807",
        ChangeKind.TYPE_WIDENED, b"1,9223372036854775807\n", b"1,9223372036854775807\n",
    ),
    "more digits in a decimal that holds them": (
        "a numeric(6,2)", "1.50", 'a: {source_type: "numeric(6,2)", type: "decimal(12,4)", mask: keep}',
        "ALTER TABLE things ALTER a TYPE numeric(10,4)", ChangeKind.TYPE_WIDENED, b"1,1.5000\n", b"1,1.5000\n",
    ),
    "finer moments": (
        "a timestamp(0)", "'2026-01-01 10:00'", "a: {source_type: timestamp(0) without time zone, type: timestamp, mask: keep}",
        "ALTER TABLE things ALTER a TYPE timestamp", ChangeKind.TYPE_WIDENED,
        b"1,2026-01-01 10:00:00\n", b"1,2026-01-01 10:00:00\n",
    ),
    "NULL is allowed": (
        "a text NOT NULL", "'x'", "a: {source_type: text, nullable: false, mask: keep}",
        "ALTER TABLE things ALTER a DROP NOT NULL", ChangeKind.NULL_ALLOWED, b"1,x\n", b"1,x\n",
    ),
    "a new column": (
        "a text", "'x'", "a: {source_type: text, mask: keep}",
        "ALTER TABLE things ADD shoe_size smallint DEFAULT 43", ChangeKind.COLUMN_ADDED, b"1,x\n", b"1,x\n",
    ),
    "a dropped column that does not leave": (
        "a text, b text", "'x', 'y'", "a: {source_type: text, mask: keep}\n      b: {source_type: text, mask: drop}",
        "ALTER TABLE things DROP b", ChangeKind.UNREAD_COLUMN_CHANGED, b"1,x\n", b"1,x\n",
    ),
    "another type of a column that does not leave": (
        "a text, b text", "'x', '1'", "a: {source_type: text, mask: keep}\n      b: {source_type: text, mask: withhold}",
        "ALTER TABLE things ALTER b TYPE int USING b::int", ChangeKind.UNREAD_COLUMN_CHANGED, b"1,x\n", b"1,x\n",
    ),
    "a longer text under a pseudonym": (
        "a varchar(10)", "NULL", "a: {source_type: character varying(10), mask: {hmac: {domain: a}}}",
        "ALTER TABLE things ALTER a TYPE text", ChangeKind.TYPE_WIDENED, b"1,\n", b"1,\n",
    ),
}  # fmt: skip

HELD = {
    "larger numbers than the type holds": (
        "a integer", "7", "a: {source_type: integer, type: int32, mask: keep}",
        "ALTER TABLE things ALTER a TYPE bigint", ChangeKind.TYPE_OUTGROWN, Reason.TYPE_CHANGED, b"1,7\n",
    ),
    "more digits than the type holds": (
        "a numeric(6,2)", "1.50", 'a: {source_type: "numeric(6,2)", type: "decimal(6,2)", mask: keep}',
        "ALTER TABLE things ALTER a TYPE numeric(8,2)", ChangeKind.TYPE_OUTGROWN, Reason.TYPE_CHANGED, b"1,1.50\n",
    ),
    "more digits under a pseudonym": (
        "a numeric(6,2)", "NULL", 'a: {source_type: "numeric(6,2)", type: "decimal(6,2)", mask: {hmac: {domain: a}}}',
        "ALTER TABLE things ALTER a TYPE numeric(8,4)", ChangeKind.TYPE_OUTGROWN, Reason.TYPE_CHANGED, b"1,\n",
    ),
    "smaller numbers": (
        "a bigint", "7", "a: {source_type: bigint, type: int64, mask: keep}",
        "ALTER TABLE things ALTER a TYPE integer", ChangeKind.TYPE_NARROWED, Reason.TYPE_CHANGED, b"1,7\n",
    ),
    "shorter text": (
        "a text", "'x'", "a: {source_type: text, mask: keep}",
        "ALTER TABLE things ALTER a TYPE varchar(5)", ChangeKind.TYPE_NARROWED, Reason.TYPE_CHANGED, b"1,x\n",
    ),
    "numbers become text": (
        "a integer", "7", "a: {source_type: integer, type: int32, mask: keep}",
        "ALTER TABLE things ALTER a TYPE text", ChangeKind.TYPE_CHANGED, Reason.TYPE_CHANGED, b"1,7\n",
    ),
    "moments get a zone": (
        "a timestamp", "NULL", "a: {source_type: timestamp without time zone, type: timestamp, mask: keep}",
        "ALTER TABLE things ALTER a TYPE timestamptz", ChangeKind.TYPE_CHANGED, Reason.TYPE_CHANGED, b"1,\n",
    ),
    "a column is dropped": (
        "a text, b text", "'x', 'y'", "a: {source_type: text, mask: keep}\n      b: {source_type: text, mask: keep}",
        "ALTER TABLE things DROP b", ChangeKind.COLUMN_MISSING, Reason.COLUMN_MISSING, b"1,x\n",
    ),
    "a column is renamed": (
        "a text, b text", "'x', 'y'", "a: {source_type: text, mask: keep}\n      b: {source_type: text, mask: keep}",
        "ALTER TABLE things RENAME b TO c", ChangeKind.COLUMN_MISSING, Reason.COLUMN_MISSING, b"1,x\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", APPLIED)
def test_what_is_applied_by_itself_is_read_exactly_and_told(house: House, row: str) -> None:
    source, value, declared, change, kind, record, _ = APPLIED[row]
    house.alter(*table_with(source, value))
    house.declare(declared)
    assert house.drift() == Drift()
    house.alter(change)

    found = house.extract()

    assert found == record
    assert [one.kind for one in house.drift().changes] == [kind]
    checked = {check["subject"]: check for check in house.run("check", "--json").document["checks"]}
    assert checked["shop.things"]["verdict"] == "ok"
    assert "column" in checked["shop.things"]["detail"]


@pytest.mark.parametrize("row", HELD)
def test_what_is_held_is_refused_by_name_and_carries_its_drift(house: House, row: str) -> None:
    source, value, declared, change, kind, reason, _ = HELD[row]
    house.alter(*table_with(source, value))
    house.declare(declared)
    house.alter(change)

    with pytest.raises(Refused) as refused:
        house.extract()

    assert refused.value.reason is reason
    (held,) = house.drift().held
    assert held.kind is kind
    assert repr(held.column) in refused.value.detail
    assert Drift.of_document(refused.value.findings["drift"]) == house.drift()


@pytest.mark.parametrize("row", [*APPLIED, *HELD])
def test_what_was_accepted_differs_no_more_and_no_comment_is_lost(house: House, row: str) -> None:
    source, value, declared, change, *_, record = (APPLIED | HELD)[row]
    house.alter(*table_with(source, value))
    house.declare(declared)
    house.alter(change)
    comments = comments_of(house.file.read_text())

    ended = house.run("contract", "accept", "shop.things")

    assert ended.exit_code == ExitCode.OK, ended.errors
    assert [one.edit for one in house.drift().changes if one.edit] == []
    assert house.drift().held == ()
    assert house.extract() == record
    assert comments_of(house.file.read_text()) == comments


# ---- the commands ------------------------------------------------------------------------------------------


@pytest.fixture
def outgrown(house: House) -> House:
    """A house whose source has outgrown its contract, with one batch held for it."""
    house.alter(*table_with("a integer", "7"))
    house.declare("a: {source_type: integer, type: int32, mask: keep}  # a number")
    house.alter("ALTER TABLE things ALTER a TYPE bigint", "ALTER TABLE things ADD email text")
    return house


def test_diff_tells_source_file_and_ledger_and_ends_with_1(outgrown: House) -> None:
    ended = outgrown.run("contract", "diff", "shop", "--json")

    assert ended.exit_code == ExitCode.PROBLEM
    (table,) = ended.document["tables"]
    assert (table["table"], table["ledger_version"], ended.document["is_equal"]) == ("things", None, False)
    outgrown_type, added = table["changes"]
    assert outgrown_type == {
        "kind": "type_outgrown",
        "column": "a",
        "before": "integer",
        "after": "bigint",
        "remark": "",
        "is_held": True,
        "edit": {"kind": "set", "fields": {"source_type": "bigint", "type": "int64"}},
    }
    assert (added["kind"], added["column"], added["is_held"]) == ("column_added", "email", False)
    told = outgrown.run("contract", "diff", "things").output
    assert "type outgrown" in told
    assert "the ledger has no contract of it yet" in told


def test_diff_of_what_agrees_ends_with_0(house: House) -> None:
    house.alter(*table_with("a integer", "7"))
    house.declare("a: {source_type: integer, type: int32, mask: keep}")
    house.run("enqueue")

    ended = house.run("contract", "diff", "shop.things")

    assert ended.exit_code == ExitCode.OK, ended.output
    assert "source and file agree" in ended.output
    assert "file and ledger agree (version 1)" in ended.output


def test_diff_tells_what_the_ledger_does_not_know_yet(house: House) -> None:
    house.alter(*table_with("a integer, b text", "7, 'x'"))
    house.declare("a: {source_type: integer, type: int32, mask: keep}")
    house.run("enqueue")
    house.declare(
        "a: {source_type: integer, type: int64, mask: keep}", "b: {source_type: text, mask: redact}"
    )

    ended = house.run("contract", "diff", "shop", "--json")

    assert ended.exit_code == ExitCode.PROBLEM
    (table,) = ended.document["tables"]
    fields = {one["field"]: (one["ledger"], one["file"]) for one in table["from_ledger"]}
    assert fields == {
        "columns.a.type": ("int32", "int64"),
        "columns.b": (None, "string, mask redact"),
    }
    assert table["changes"] == []


def test_diff_of_a_source_that_does_not_answer_says_so(house: House) -> None:
    house.alter(*table_with("a integer", "7"))
    house.declare("a: {source_type: integer, type: int32, mask: keep}")
    house.shell.secrets = MemorySecrets({"env:SHOP_DSN": "postgresql://me:hunter2@127.0.0.1:1/shop"})

    ended = house.run("contract", "diff", "shop", "--json")

    assert ended.exit_code == ExitCode.UNAVAILABLE
    (table,) = ended.document["tables"]
    assert table["changes"] is None
    assert "shop" in table["error"]
    assert "hunter2" not in ended.output + ended.errors


def test_diff_of_a_table_that_is_gone_says_so(house: House) -> None:
    house.declare("a: {source_type: integer, type: int32, mask: keep}")

    ended = house.run("contract", "diff", "things", "--json")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "table_missing" in ended.document["tables"][0]["error"]


def test_a_dry_run_shows_the_edit_and_writes_nothing(outgrown: House) -> None:
    before = outgrown.file.read_text()

    ended = outgrown.run("contract", "accept", "things", "--dry-run")

    assert ended.exit_code == ExitCode.OK
    assert (
        "-      a: {source_type: integer, type: int32, mask: keep}  # a number\n"
        "+      a: {source_type: bigint, type: int64, mask: keep}  # a number\n"
        "+      email: {source_type: text, type: string, mask: withhold}\n"
    ) in ended.output
    assert outgrown.file.read_text() == before


def test_one_column_is_accepted_with_its_mask_and_the_others_wait(outgrown: House) -> None:
    ended = outgrown.run(
        "contract", "accept", "things", "--column", "email", "--mask", "{hmac: {domain: email}}"
    )

    assert ended.exit_code == ExitCode.OK, ended.errors
    assert str(outgrown.contract.column("email").mask.kind) == "hmac"
    assert [change.kind for change in outgrown.drift().changes] == [ChangeKind.TYPE_OUTGROWN]


def test_a_withheld_column_is_classified_later(outgrown: House) -> None:
    outgrown.run("contract", "accept", "things")
    assert str(outgrown.contract.column("email").mask.kind) == "withhold"

    outgrown.run("contract", "accept", "things", "--column", "email", "--mask", "redact")

    assert str(outgrown.contract.column("email").mask.kind) == "redact"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["things", "--column", "absent"], ExitCode.NOT_FOUND),
        (["things", "--mask", "keep"], ExitCode.CONFIGURATION),
        (["things", "--column", "email", "--mask", "no such mask"], ExitCode.PROBLEM),
        (["things", "--column", "email", "--mask", "{hmac: "], ExitCode.CONFIGURATION),
        (["things", "--column", "email", "--mask", "keep\n      x: {mask: keep}"], ExitCode.CONFIGURATION),
        (["nothing"], ExitCode.NOT_FOUND),
    ],
)
def test_what_cannot_be_accepted_leaves_the_file_alone(
    outgrown: House, arguments: list[str], code: ExitCode
) -> None:
    before = outgrown.file.read_text()

    ended = outgrown.run("contract", "accept", *arguments)

    assert ended.exit_code == code, ended.errors
    assert outgrown.file.read_text() == before


def test_a_key_that_is_gone_is_no_matter_of_an_edit(house: House) -> None:
    house.alter("CREATE TABLE things (number bigint PRIMARY KEY)")
    house.declare("a: {source_type: text, mask: drop}")
    before = house.file.read_text()

    ended = house.run("contract", "accept", "things")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "tables.things.key[0]" in ended.errors
    assert house.file.read_text() == before


def test_a_held_batch_is_shown_with_its_drift_accepted_and_replayed(outgrown: House) -> None:
    batch = outgrown.hold()
    assert batch.state is BatchState.QUARANTINED

    shown = outgrown.run("quarantine", "show", batch.id)
    document = outgrown.run("quarantine", "show", batch.id, "--json").document
    accepted = outgrown.run("contract", "accept", "shop.things", "--json").document
    replayed = outgrown.run(
        "quarantine", "replay", "--source", "shop", "--table", "things", "--reason", "type_changed", "--json"
    )

    assert "esclusa contract accept shop.things --dry-run" in shown.output
    assert [change["kind"] for change in document["drift"]] == ["type_outgrown", "column_added"]
    assert accepted["held_batch_ids"] == [batch.id]
    assert replayed.document["batches"][0]["contract_version"] == 2
    assert outgrown.extract() == b"1,7\n"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("ALTER TABLE things DROP CONSTRAINT things_pkey", "none"),
        (
            "ALTER TABLE things DROP CONSTRAINT things_pkey, ADD tenant int NOT NULL DEFAULT 1, ADD PRIMARY KEY (tenant, id)",
            "(tenant, id)",
        ),
        (
            "ALTER TABLE things DROP CONSTRAINT things_pkey; CREATE UNIQUE INDEX ON things (id) WHERE id > 0",
            "none",
        ),
    ],
)
def test_a_key_that_the_source_no_longer_guarantees_is_held(house: House, change: str, found: str) -> None:
    house.alter(*table_with("a integer", "7"))
    house.discover()
    assert house.contract.key_is_unique
    assert house.drift() == Drift()
    house.alter(change)

    batch = house.hold()

    assert batch.reason is Reason.KEY_CHANGED
    assert f"key (id) should tell rows apart at the source, found the unique keys {found}" in batch.detail
    ended = house.run("contract", "accept", "things", "--dry-run", "--json")
    (unproposed,) = ended.document["unproposed"]
    assert (unproposed["kind"], unproposed["edit"]) == ("key_changed", None)
    assert ended.document["held_batch_ids"] == [batch.id]


def test_another_unique_index_is_as_good_as_a_primary_key(house: House) -> None:
    house.alter(*table_with("a integer", "7"))
    house.discover()

    house.alter(
        "ALTER TABLE things DROP CONSTRAINT things_pkey; CREATE UNIQUE INDEX ON things (id) INCLUDE (id)"
    )

    assert house.drift() == Drift()
    assert house.extract() == b"1,7\n"


@pytest.mark.parametrize(
    ("before", "after", "declared", "value", "types"),
    [
        ("integer", "bigint", "int32", "9223372036854775807", [("bigint",), ("bigint",)]),
        ("numeric(6,2)", "numeric(10,4)", '"decimal(6,2)"', "123456.7891", [("bigint",), ("numeric(10,4)",)]),
    ],
)
def test_what_was_accepted_reaches_the_warehouse_beside_what_was_there(
    house: House, before: str, after: str, declared: str, value: str, types: list[tuple[str]]
) -> None:
    secrets = {"env:SHOP_DSN": house.dsn}
    house.alter(*table_with(f"a {before}", "7"))
    house.declare(f'a: {{source_type: "{before}", type: {declared}, mask: keep}}')
    carry(house.contract, secrets=secrets, warehouse=house.dsn)
    house.alter(f"ALTER TABLE things ALTER a TYPE {after}", f"INSERT INTO things VALUES (2, {value})")
    with pytest.raises(Refused):
        carry(house.contract, secrets=secrets, warehouse=house.dsn)

    house.run("contract", "accept", "things")
    carry(house.contract, secrets=secrets, warehouse=house.dsn)

    with psycopg.connect(house.dsn) as connection:
        rows = connection.execute("SELECT id, a::text::numeric FROM shop.things ORDER BY id").fetchall()
        found = connection.execute(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = 'shop.things'::regclass AND attnum > 0 ORDER BY attnum"
        ).fetchall()
    assert rows == [(1, Decimal(7)), (2, Decimal(value))]
    assert found == types


# ---- any change --------------------------------------------------------------------------------------------

_TYPES = ["smallint", "integer", "bigint", "text", "varchar(9)", "varchar(20)", "numeric(9,2)", "numeric(12,4)",
          "numeric", "date", "timestamp(3)", "timestamptz", "boolean", "jsonb", "uuid", "bytea", "real",
          "integer[]", "char(4)", "interval"]  # fmt: skip
_NAMES = ["a", "b", "order", 'we"ird', "a.b", "ñandú", "with: colon", "{braces}", "- dash", "# hash", "null"]
_COLUMNS = st.dictionaries(st.sampled_from(_NAMES), st.sampled_from(_TYPES), max_size=5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_COLUMNS, _COLUMNS, st.sampled_from(["keep", "redact", "withhold"]))
def test_whatever_changes_is_accepted_and_then_differs_no_more(
    house: House, before: dict[str, str], after: dict[str, str], mask: str
) -> None:
    create(house, before)
    house.discover()
    if before:
        masked = [option for name in before for option in ("--column", name)]
        assert house.run("contract", "accept", "things", *masked, "--mask", mask).exit_code == ExitCode.OK
    assert house.drift() == Drift()
    create(house, after)

    ended = house.run("contract", "accept", "things")

    assert ended.exit_code == ExitCode.OK, ended.errors
    left = house.drift()
    assert left.held == ()
    assert all(change.edit is None for change in left.changes)
    assert {column.name for column in house.contract.columns} >= {"id", *after}
    house.extract()


def create(house: House, columns: dict[str, str]) -> None:
    """Make the table anew."""
    definitions = [
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(word)) for name, word in columns.items()
    ]
    listed = sql.SQL(", ").join([sql.SQL("id bigint PRIMARY KEY"), *definitions])
    with psycopg.connect(house.dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS things")
        connection.execute(sql.SQL("CREATE TABLE things ({})").format(listed))
