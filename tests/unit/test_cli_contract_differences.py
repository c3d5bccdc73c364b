"""What a source file has otherwise than the ledger, field by field."""

from dataclasses import replace
from datetime import timedelta

from support.extraction import DROP, HMAC, column, make_contract, updated_at

from cli.contract_differences import Difference, differences

CONTRACT = make_contract(
    [column("id", "int64"), column("amount", "decimal(12,2)"), column("updated_at", "timestamptz")],
    cursor=updated_at(lag=timedelta(minutes=1)),
)


def test_equal_contracts_have_no_differences() -> None:
    assert differences(ledger=CONTRACT, file=replace(CONTRACT)) == []


def test_a_changed_column_is_told_by_its_fields() -> None:
    columns = (CONTRACT.columns[0], column("amount", "decimal(14,2)", HMAC), CONTRACT.columns[2])

    found = differences(ledger=CONTRACT, file=replace(CONTRACT, columns=columns))

    assert {one.field: (one.ledger, one.file) for one in found} == {
        "columns.amount.type": ("decimal(12,2)", "decimal(14,2)"),
        "columns.amount.mask.kind": ("keep", "hmac"),
        "columns.amount.mask.domain": ("", "customer"),
        "columns.amount.mask.key_id": ("", "k1"),
    }


def test_a_column_that_only_one_has_is_one_difference() -> None:
    without = replace(CONTRACT, columns=CONTRACT.columns[::2])
    renamed = replace(CONTRACT, columns=(*CONTRACT.columns[::2], column("price", "decimal(12,2)", DROP)))

    assert differences(ledger=without, file=renamed) == [
        Difference("columns.price", None, "decimal(12,2), mask drop")
    ]
    assert differences(ledger=renamed, file=without) == [
        Difference("columns.price", "decimal(12,2), mask drop", None)
    ]


def test_another_order_of_columns_is_a_difference() -> None:
    found = differences(ledger=CONTRACT, file=replace(CONTRACT, columns=CONTRACT.columns[::-1]))

    assert found == [
        Difference("order of columns", ["id", "amount", "updated_at"], ["updated_at", "amount", "id"])
    ]


def test_key_and_cursor_are_told() -> None:
    other = replace(CONTRACT, key=("id", "amount"), cursor=updated_at(lag=timedelta(minutes=2)))

    found = {one.field: (one.ledger, one.file) for one in differences(ledger=CONTRACT, file=other)}

    assert found == {"cursor.lag": ("PT1M", "PT2M"), "key": (["id"], ["id", "amount"])}
