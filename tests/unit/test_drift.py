"""What of a changed source is applied by itself and what is held: the pure comparison."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.extraction import DROP, HMAC, KEEP, REDACT, WITHHOLD, column, make_contract, updated_at

from services.extractor.dialects import DialectName
from services.extractor.dialects.mysql import MysqlDialect
from services.extractor.dialects.postgresql import PostgresqlDialect
from services.extractor.drift import MAX_CHANGES_TOLD, compare, findings_of, require_agreement
from services.extractor.readers import SourceColumn
from services.extractor.widenings import Widening, widening
from shared.domain.contracts import Column, Mask
from shared.domain.drift import HOLDING, Change, ChangeKind, Drift, Edit, EditKind
from shared.domain.reasons import Reason
from shared.errors import Refused

POSTGRESQL = PostgresqlDialect()
ID = column("id", "int64", source_type="bigint", nullable=False)
AT_SOURCE = SourceColumn("id", "bigint", is_nullable=False)


def drift_of(columns: Sequence[Column], found: Sequence[SourceColumn]) -> tuple[Change, ...]:
    """What differs in a table of these columns and a key."""
    return compare(make_contract([ID, *columns]), [AT_SOURCE, *found], types=POSTGRESQL).changes


def change_of_type(before: str, after: str, declared: str, mask: Mask = KEEP) -> Change:
    """What one changed type comes to."""
    (change,) = drift_of([column("a", declared, mask, source_type=before)], [SourceColumn("a", after)])
    return change


def test_a_table_that_is_as_its_contract_has_it_has_no_drift() -> None:
    columns = [column("a", "string", source_type="text"), column("b", "int64", DROP, source_type="bigint")]
    found = [SourceColumn("b", "bigint"), SourceColumn("a", "text")]

    assert drift_of(columns, found) == ()


# ---- types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "declared"),
    [
        ("character varying(10)", "character varying(50)", "string"),
        ("character varying(10)", "character varying", "string"),
        ("character varying(10)", "text", "string"),
        ("text", "character varying", "string"),
        ("smallint", "integer", "int32"),
        ("integer", "bigint", "int64"),
        ("integer", "bigint", "decimal(19,0)"),
        ("integer", "bigint", "string"),
        ("numeric(10,2)", "numeric(12,2)", "decimal(12,2)"),
        ("numeric(10,2)", "numeric(12,2)", "string"),
        ("numeric(10,2)", "numeric(12,4)", "decimal(38,6)"),
        ("timestamp(3) with time zone", "timestamp with time zone", "timestamptz"),
        ("time(0) without time zone", "time(3) without time zone", "string"),
        ("integer[]", "bigint[]", "string"),
        ("character varying(5)[]", "text[]", "string"),
    ],
)
def test_a_widening_that_the_declared_type_holds_is_applied(before: str, after: str, declared: str) -> None:
    change = change_of_type(before, after, declared)

    assert change.kind is ChangeKind.TYPE_WIDENED
    assert not change.is_held
    assert change.edit == Edit(EditKind.SET, {"source_type": after})


@pytest.mark.parametrize(
    ("before", "after", "declared", "proposed"),
    [
        ("integer", "bigint", "int32", "int64"),
        ("smallint", "bigint", "decimal(5,0)", "int64"),
        ("numeric(10,2)", "numeric(12,2)", "decimal(10,2)", "decimal(12,2)"),
        ("numeric(10,2)", "numeric(12,4)", "decimal(12,2)", "decimal(12,4)"),
    ],
)
def test_a_widening_beyond_the_declared_type_is_held_and_the_type_is_proposed(
    before: str, after: str, declared: str, proposed: str
) -> None:
    change = change_of_type(before, after, declared)

    assert (change.kind, change.reason) == (ChangeKind.TYPE_OUTGROWN, Reason.TYPE_CHANGED)
    assert change.edit == Edit(EditKind.SET, {"source_type": after, "type": proposed})


def test_a_widening_beyond_every_decimal_says_what_becomes_of_the_values() -> None:
    change = change_of_type("numeric(30,2)", "numeric(45,2)", "decimal(30,2)")

    assert change.kind is ChangeKind.TYPE_OUTGROWN
    assert change.remark == "values that decimal(30,2) cannot hold become rejected rows"
    assert change.edit == Edit(EditKind.SET, {"source_type": "numeric(45,2)"})


def test_a_widening_that_rewrites_texts_is_held_where_texts_leave() -> None:
    as_text = change_of_type("numeric(10,2)", "numeric(12,4)", "string")
    as_pseudonym = change_of_type("numeric(10,2)", "numeric(12,4)", "decimal(38,6)", HMAC)

    assert as_text.kind is as_pseudonym.kind is ChangeKind.TYPE_OUTGROWN
    assert as_pseudonym.edit == Edit(EditKind.SET, {"source_type": "numeric(12,4)"})


def test_a_pseudonym_goes_on_while_the_texts_are_the_same() -> None:
    assert change_of_type("integer", "bigint", "int32", HMAC).kind is ChangeKind.TYPE_WIDENED
    assert change_of_type("character varying(9)", "text", "string", HMAC).kind is ChangeKind.TYPE_WIDENED


@pytest.mark.parametrize(
    ("before", "after", "declared"),
    [
        ("bigint", "integer", "int64"),
        ("text", "character varying(10)", "string"),
        ("numeric(12,2)", "numeric(10,2)", "decimal(12,2)"),
        ("timestamp with time zone", "timestamp(0) with time zone", "timestamptz"),
    ],
)
def test_a_narrowing_is_held(before: str, after: str, declared: str) -> None:
    change = change_of_type(before, after, declared)

    assert (change.kind, change.reason) == (ChangeKind.TYPE_NARROWED, Reason.TYPE_CHANGED)
    assert change.edit == Edit(EditKind.SET, {"source_type": after})


@pytest.mark.parametrize(
    ("before", "after", "declared"),
    [
        ("integer", "text", "string"),
        ("timestamp without time zone", "timestamp with time zone", "timestamp"),
        ("date", "timestamp without time zone", "date"),
        ("public.order_status", "text", "string"),
        ("uuid", "text", "string"),
        ("json", "jsonb", "json"),
        ("real", "double precision", "float64"),
        ("character(5)", "character varying(5)", "string"),
        ("character(5)", "character(8)", "string"),
        ("numeric(10,2)", "numeric", "decimal(10,2)"),
        ("integer", "integer[]", "string"),
        ("boolean", "smallint", "boolean"),
    ],
)
def test_another_type_is_held(before: str, after: str, declared: str) -> None:
    change = change_of_type(before, after, declared)

    assert (change.kind, change.reason) == (ChangeKind.TYPE_CHANGED, Reason.TYPE_CHANGED)


def test_a_type_that_cannot_be_carried_is_held_whatever_the_contract_calls_it() -> None:
    (change,) = drift_of([column("a", "int16", source_type="bigint")], [SourceColumn("a", "bigint")])
    (unnamed,) = drift_of([column("a", "int16")], [SourceColumn("a", "bigint")])

    assert change.kind is unnamed.kind is ChangeKind.TYPE_NOT_CARRIED
    assert change.edit == Edit(EditKind.SET, {"source_type": "bigint", "type": "int64"})


def test_a_type_that_the_contract_does_not_name_may_change_while_it_is_carried() -> None:
    assert drift_of([column("a", "int64")], [SourceColumn("a", "smallint")]) == ()


# ---- columns -----------------------------------------------------------------------------------------------


def test_a_new_column_is_withheld_and_proposed_so() -> None:
    (change,) = drift_of([], [SourceColumn("born", "date", is_nullable=False)])

    assert (change.kind, change.is_held) == (ChangeKind.COLUMN_ADDED, False)
    assert change.edit is not None
    assert change.edit.fields == {
        "source_type": "date",
        "type": "date",
        "nullable": "false",
        "mask": "withhold",
    }


@pytest.mark.parametrize("mask", [KEEP, HMAC, REDACT])
def test_a_missing_column_is_held_if_it_leaves(mask: Mask) -> None:
    (change,) = drift_of([column("a", "string", mask, source_type="text")], [])

    assert (change.kind, change.reason) == (ChangeKind.COLUMN_MISSING, Reason.COLUMN_MISSING)
    assert change.edit == Edit(EditKind.REMOVE)


@pytest.mark.parametrize("mask", [DROP, WITHHOLD])
def test_what_does_not_leave_holds_nothing(mask: Mask) -> None:
    columns = [
        column("a", "string", mask, source_type="text"),
        column("b", "int64", mask, source_type="bigint"),
    ]

    missing, changed = drift_of(columns, [SourceColumn("b", "text")])

    assert missing.kind is changed.kind is ChangeKind.UNREAD_COLUMN_CHANGED
    assert missing.edit is None
    assert changed.edit == Edit(EditKind.SET, {"source_type": "text"})


def test_a_rename_is_held_and_guessed_by_the_type() -> None:
    found = [SourceColumn("mail", "text"), SourceColumn("size", "bigint")]

    missing, mail, size = drift_of([column("email", "string", source_type="text")], found)

    assert missing.kind is ChangeKind.COLUMN_MISSING
    assert "'mail'" in missing.remark
    assert [mail.kind, size.kind] == [ChangeKind.COLUMN_ADDED] * 2


def test_a_rename_is_not_guessed_among_several() -> None:
    found = [SourceColumn("mail", "text"), SourceColumn("address", "text")]

    assert drift_of([column("email", "string", source_type="text")], found)[0].remark == ""


def test_a_name_in_other_letters_is_another_column() -> None:
    kinds = [change.kind for change in drift_of([column("email")], [SourceColumn("Email", "text")])]

    assert kinds == [ChangeKind.COLUMN_MISSING, ChangeKind.COLUMN_ADDED]


def test_null_where_there_was_none_is_told_and_goes_on() -> None:
    (change,) = drift_of(
        [column("a", source_type="text", nullable=False)], [SourceColumn("a", "text", is_nullable=True)]
    )

    assert (change.kind, change.is_held) == (ChangeKind.NULL_ALLOWED, False)
    assert change.edit == Edit(EditKind.SET, {"nullable": "true"})


def test_of_key_and_cursor_null_is_not_told() -> None:
    contract = make_contract(
        [ID, column("updated_at", "timestamptz", source_type="timestamp with time zone", nullable=False)],
        cursor=updated_at(),
    )
    found = [SourceColumn("id", "bigint"), SourceColumn("updated_at", "timestamp with time zone")]

    assert compare(contract, found, types=POSTGRESQL).changes == ()


# ---- the key -----------------------------------------------------------------------------------------------


def drift_of_key(*unique_keys: list[str], is_declared: bool = True) -> Drift:
    """What differs in a table keyed by `id` and `line`, whose source has these unique keys."""
    columns = [ID, column("line", "int64", source_type="bigint")]
    contract = replace(make_contract(columns), key=("id", "line"), key_is_unique=is_declared)
    found = [AT_SOURCE, SourceColumn("line", "bigint")]
    return compare(contract, found, types=POSTGRESQL, unique_keys=unique_keys)


@pytest.mark.parametrize("unique_key", [["id", "line"], ["line", "id"], ["id"]])
def test_a_key_that_holds_a_unique_one_tells_rows_apart(unique_key: list[str]) -> None:
    assert drift_of_key(["tenant", "id"], unique_key) == Drift()


@pytest.mark.parametrize("unique_keys", [[], [["tenant", "id", "line"]], [["number"]]])
def test_a_key_that_the_source_no_longer_guarantees_is_held(unique_keys: list[list[str]]) -> None:
    (change,) = drift_of_key(*unique_keys).changes

    assert (change.kind, change.reason) == (ChangeKind.KEY_CHANGED, Reason.KEY_CHANGED)
    assert str(change).startswith(
        "key (id, line) should tell rows apart at the source, found the unique keys "
    )
    assert change.edit is None


def test_a_key_that_was_never_guaranteed_is_not_compared() -> None:
    assert drift_of_key(is_declared=False) == Drift()


# ---- what is made of it ------------------------------------------------------------------------------------


def test_a_refusal_names_each_held_column_and_carries_the_whole_drift() -> None:
    contract = make_contract([ID, column("a", "int32", source_type="integer"), column("b")])
    found = [AT_SOURCE, SourceColumn("a", "bigint"), SourceColumn("new", "text")]

    with pytest.raises(Refused, match="source 'shop'") as refused:
        require_agreement(contract, found, types=POSTGRESQL, place="source 'shop'")

    assert refused.value.reason is Reason.TYPE_CHANGED
    assert "column 'a' should be integer, found bigint; column 'b' is not in the source" in str(refused.value)
    drift = Drift.of_document(json.loads(json.dumps(refused.value.findings["drift"])))
    assert drift == compare(contract, found, types=POSTGRESQL)
    assert [change.kind for change in drift.changes] == [
        ChangeKind.TYPE_OUTGROWN,
        ChangeKind.COLUMN_MISSING,
        ChangeKind.COLUMN_ADDED,
    ]


def test_a_refusal_of_a_thousand_columns_stays_readable() -> None:
    contract = make_contract([ID, *(column(f"c{number}") for number in range(1000))])

    with pytest.raises(Refused) as refused:
        require_agreement(contract, [AT_SOURCE], types=POSTGRESQL, place="here")

    assert f"and {1000 - MAX_CHANGES_TOLD} more" in refused.value.detail
    assert len(Drift.of_document(refused.value.findings["drift"]).held) == 1000


def test_a_check_tells_what_is_applied_as_a_note() -> None:
    contract = make_contract([ID, column("a", "string", source_type="character varying(5)")])
    drift = compare(contract, [AT_SOURCE, SourceColumn("a", "text")], types=POSTGRESQL)

    (finding,) = findings_of(contract, drift)

    assert finding.is_ok
    assert finding.detail == "column 'a' was character varying(5) and is text, which its declared type holds"


def test_every_kind_says_a_sentence_and_comes_back_from_its_document() -> None:
    changes = tuple(
        Change(kind, "a", "integer", "bigint", "a remark", Edit(EditKind.SET, {"type": "int64"}))
        for kind in ChangeKind
    )

    assert all("a remark" in str(change) for change in changes)
    assert Drift.of_document(Drift(changes).document()) == Drift(changes)
    assert {change.kind for change in Drift(changes).held} == set(HOLDING)


@pytest.mark.parametrize("document", [None, "text", [1], [{"kind": "column_added"}], [{"kind": "x"}], {}])
def test_what_is_no_drift_is_not_read_as_one(document: object) -> None:
    with pytest.raises(ValueError, match=r"expected|valid"):
        Drift.of_document(document)


# ---- widenings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("int(11)", "int(20)", Widening.SAME_TEXT),
        ("int(10) unsigned", "bigint(20)", Widening.SAME_TEXT),
        ("int(11)", "int(10) unsigned", None),
        ("tinyint(3) unsigned", "smallint(6)", Widening.SAME_TEXT),
        ("int(5) unsigned zerofill", "int(9) unsigned zerofill", None),
        ("varchar(10)", "varchar(50)", Widening.SAME_TEXT),
        ("varchar(255)", "text", Widening.SAME_TEXT),
        ("varchar(20000)", "text", None),
        ("text", "varchar(20000)", None),
        ("text", "mediumtext", Widening.SAME_TEXT),
        ("char(5)", "char(6)", None),
        ("decimal(10,2)", "decimal(12,2)", Widening.SAME_TEXT),
        ("decimal(10,2)", "decimal(12,4)", Widening.SAME_VALUE),
        ("decimal(10,2)", "decimal(11,4)", None),
        ("decimal(10,2) unsigned", "decimal(10,2)", None),
        ("datetime(3)", "datetime(6)", Widening.SAME_VALUE),
        ("datetime", "timestamp", None),
        ("enum('a','b')", "enum('a','b','c')", Widening.SAME_TEXT),
        ("enum('a','b')", "enum('a','c','b')", None),
        ("enum('a','b')", "enum('b')", None),
        ("enum('a','b')", "enum('a','b''c')", None),
        ("varbinary(10)", "blob", Widening.SAME_TEXT),
        ("float", "double", None),
    ],
)
def test_widenings_of_mysql(before: str, after: str, expected: Widening | None) -> None:
    assert widening(DialectName.MYSQL, before, after) is expected


def test_a_type_that_is_refused_is_held_and_proposed_to_be_withheld() -> None:
    class Refusing(MysqlDialect):
        """A product that carries no blob."""

        def fate_of(self, source_type: str):  # type: ignore[no-untyped-def]
            from services.extractor.dialects import Carriage, Fate

            fate = super().fate_of(source_type)
            return Fate(fate.type, Carriage.REFUSED) if source_type == "longtext" else fate

    contract = make_contract([column("a", source_type="text")])

    (change,) = compare(contract, [SourceColumn("a", "longtext")], types=Refusing()).changes

    assert change.kind is ChangeKind.TYPE_CHANGED
    assert change.edit == Edit(EditKind.SET, {"source_type": "longtext", "mask": "withhold"})


_WORDS = {
    DialectName.POSTGRESQL: ["smallint", "integer", "bigint", "text", "numeric(9,2)", "numeric(12,4)",
                             "character varying(5)", "time(3) without time zone", "date"],
    DialectName.MYSQL: ["tinyint(4)", "int(11)", "bigint(20) unsigned", "varchar(10)", "tinytext", "text",
                        "decimal(9,2)", "decimal(12,4)", "datetime", "datetime(6)", "enum('a')"],
    DialectName.SQLSERVER: ["tinyint", "int", "varchar(10)", "varchar(max)", "nvarchar(10)", "decimal(9,2)"],
    DialectName.ORACLE: ["NUMBER(9,2)", "NUMBER(12,4)", "VARCHAR2(10)", "VARCHAR2(20)", "NVARCHAR2(20)", "DATE"],
    DialectName.SQLITE: ["INTEGER", "BIGINT", "VARCHAR(10)", "VARCHAR(20)"],
}  # fmt: skip


@given(st.data(), st.sampled_from(list(DialectName)))
def test_widenings_are_an_order(data: st.DataObject, dialect: DialectName) -> None:
    a, b, c = (data.draw(st.sampled_from(_WORDS[dialect])) for _ in range(3))

    if widening(dialect, a, b) and widening(dialect, b, c):
        assert widening(dialect, a, c)
    if a != b:
        assert not (widening(dialect, a, b) and widening(dialect, b, a))


@given(st.sampled_from(list(DialectName)), st.text(max_size=40), st.text(max_size=40))
def test_words_that_nobody_knows_are_no_widening(dialect: DialectName, before: str, after: str) -> None:
    if before != after:
        assert widening(dialect, before, after) is None
