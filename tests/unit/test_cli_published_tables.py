"""`esclusa compact`, `esclusa widen` and `esclusa rollback`, as people type them."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from support.commands import Shell
from support.lake_house import LakeHouse
from support.publish_batches import APPEND, assignment_of, at, column, contract_of

from cli.output import ExitCode
from shared.contract_document import sha256_of
from shared.domain.contracts import ContractVersion
from shared.domain.reasons import Reason

ROWS = [(number, f"name {number}", at(number)) for number in range(4)]


@pytest.fixture
def house() -> LakeHouse:
    house = LakeHouse()
    for number, row in enumerate(ROWS):
        house.publish([row], APPEND, quarter=number)
        house.clock.moment += timedelta(minutes=15)
    house.clock.moment += timedelta(days=2)
    return house


@pytest.fixture
def shell(house) -> Shell:
    return Shell(
        ledger=house.ledger, store=house.store, warehouse=house.published.warehouse, catalog=house.catalog
    )


def test_a_day_is_compacted_listed_and_undone(shell, house):
    planned = shell.run("compact", "shop.orders", "--dry-run", "--json")
    done = shell.run("compact", "orders", "--json")
    again = shell.run("compact", "orders")
    (compaction,) = done.document["compactions"]
    undone = shell.run("compact", "orders", "--undo", compaction["id"])
    listed = shell.run("compact", "orders", "--list", "--json")

    assert planned.document["groups"][0]["file_count"] == 4
    assert (compaction["state"], compaction["record_count"], len(compaction["batch_ids"])) == (
        "committed",
        4,
        4,
    )
    assert "nothing to compact" in again.output
    assert undone.exit_code == ExitCode.OK
    assert [one["state"] for one in listed.document["compactions"]] == ["undone"]
    assert len(house.lake_rows()) == 4


def test_every_table_is_compacted_for_cron(shell):
    assert len(shell.run("compact", "--all", "--json").document["compactions"]) == 1


def test_batches_that_cannot_be_compacted_hold_up_no_others(shell, house):
    wider = replace(APPEND, columns=(*APPEND.columns, column("city")))
    for number in (5, 6):
        house.publish([(number, "Dora", at(number), "Bonn")], wider, quarter=number, version=2)
    with house.ledger.transaction() as tx:
        (first, *_) = tx.batches(source="shop", table="orders")
        house.store.delete(tx.files(batch_id=first.id)[0].location)

    ended = shell.run("compact", "orders", "--json")

    assert [one["state"] for one in ended.document["compactions"]] == ["committed"]
    assert ended.exit_code != ExitCode.OK
    assert "does not hold it" in ended.errors


def test_a_day_that_is_not_over_is_left_alone_unless_it_is_asked_for(shell, house):
    house.clock.moment -= timedelta(days=3)

    assert shell.run("compact", "orders", "--json").document["compactions"] == []
    assert len(shell.run("compact", "orders", "--day", "2026-11-22", "--json").document["compactions"]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "expected a table or --all, found neither"),
        (["orders", "--all"], "found both"),
        (["orders", "--target-size", "1GB"], "expected 128MB to 256MB, found 1GB"),
        (["orders", "--target-size", "many"], "expected a size such as 192MB, found 'many'"),
        (["orders", "--day", "yesterday"], "expected a day such as 2026-11-22, found 'yesterday'"),
        (["orders", "--day", "2026-11-22", "--from", "2d"], "found both"),
        (["--all", "--list"], "expected a table, found --all"),
    ],
)
def test_what_makes_no_sense_is_told_by_compact(shell, arguments, told):
    ended = shell.run("compact", *arguments)

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert told in " ".join(ended.errors.split())


def test_a_compaction_of_another_table_or_none_is_not_found(shell):
    ended = shell.run("compact", "orders", "--undo", "c0")

    assert ended.exit_code == ExitCode.NOT_FOUND
    assert "esclusa compact shop.orders --list" in ended.errors


@pytest.fixture
def outgrown(house) -> LakeHouse:
    """The same table, whose newest contract has a wider decimal, and a batch that is held for it."""
    narrow, wide = (
        contract_of(column("id", "int64"), column("price", f"decimal({digits},2)"), cursor=None)
        for digits in (10, 12)
    )
    narrow, wide = (replace(one, table="prices") for one in (narrow, wide))
    for number in range(3):
        house.publish([(number, Decimal(number))], narrow, quarter=number)
    load = house.published.batch([(9, Decimal(9))], wide, quarter=9, version=2)
    with house.ledger.transaction() as tx:
        tx.insert_contract(ContractVersion(2, sha256_of(wide), wide))
    house.hold(assignment_of(load).batch, Reason.TARGET_INCOMPATIBLE)
    return house


def test_a_table_is_widened_and_its_held_batches_are_told_or_sent_on_their_way(shell, outgrown):
    planned = shell.run("widen", "shop.prices", "--dry-run", "--json")
    told_plan = shell.run("widen", "shop.prices", "--dry-run")
    done = shell.run("widen", "prices", "--json")
    told = shell.run("widen", "prices")
    sent = shell.run("widen", "prices", "--replay", "--json")

    assert planned.document["columns"] == [
        {"name": "price", "type_before": "decimal(10,2)", "type": "decimal(12,2)"}
    ]
    assert planned.document["groups"][0]["batch_count"] == planned.document["partition_count"] == 3
    assert (
        "price from decimal(10,2) to decimal(12,2): a run would write 1 files in place of" in told_plan.errors
    )
    (compaction,) = done.document["compactions"]
    assert (compaction["state"], compaction["types_version"], compaction["record_count"]) == (
        "committed",
        2,
        3,
    )
    assert "nothing to widen in shop.prices: its files have the types of contract 2" in told.output
    assert "quarantine replay --source shop --table prices --reason target_incompatible" in told.errors
    assert told.exit_code == ExitCode.OK
    assert sent.document["replayed_batch_ids"] == done.document["held_batch_ids"]
    assert sent.document["held_batch_ids"] == []


def test_a_change_that_is_no_widening_is_a_problem_that_is_told(shell, house):
    changed = replace(APPEND, columns=(column("id"), *APPEND.columns[1:]))
    with house.ledger.transaction() as tx:
        tx.insert_contract(ContractVersion(2, sha256_of(changed), changed))

    ended = shell.run("widen", "orders")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "column 'id' should be string, found int64" in ended.errors


def test_a_widening_is_not_undone(shell, outgrown):
    (compaction,) = shell.run("widen", "prices", "--json").document["compactions"]

    ended = shell.run("compact", "prices", "--undo", compaction["id"])

    assert ended.exit_code == ExitCode.PROBLEM
    assert "there is no way back" in " ".join(ended.errors.split())


def test_a_table_goes_back_and_forward_and_the_ledger_knows_who_and_why(shell, house):
    with house.ledger.transaction() as tx:
        second = sorted(tx.batches(), key=lambda batch: batch.changed_at)[1]

    plan = shell.run("rollback", "orders", "--to", second.id, "--dry-run", "--json")
    back = shell.run("rollback", "orders", "--to", second.id, "--reason", "a bad release", "--yes", "--json")
    rows = house.rows()
    refused = shell.run("compact", "orders")
    forward = shell.run("rollback", "orders", "--forward", "--yes")

    assert (plan.document["kept_count"], len(plan.document["withdrawn_batch_ids"])) == (2, 2)
    assert (back.document["row_count"], back.document["detail"]) == (2, "a bad release")
    assert back.document["actor"]
    assert rows == ROWS[:2]
    assert refused.exit_code == ExitCode.PROBLEM
    assert "esclusa rollback shop.orders --forward" in refused.errors
    assert "shows everything that was published and has 4 rows" in forward.output
    assert house.rows() == ROWS


def test_nothing_goes_back_without_the_name_of_the_table(shell, house):
    ended = shell.run("rollback", "orders", "--to", "2026-11-23T00:20Z", typed="yes\n")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "goes" in ended.output
    assert house.rows() == ROWS
    assert shell.run("rollback", "orders", "--to", "2026-11-23T00:20Z", typed="orders\n").exit_code == 0
    assert house.rows() == ROWS[:2]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], ExitCode.CONFIGURATION, "found neither"),
        (["--to", "2h", "--forward"], ExitCode.CONFIGURATION, "found both"),
        (["--to", "b" + "0" * 24], ExitCode.NOT_FOUND, "was published"),
        (["--to", "2020-01-01"], ExitCode.PROBLEM, "nothing was published by then"),
        (["--to", "0h"], ExitCode.PROBLEM, "in that state already"),
        (["--to", "soon"], ExitCode.CONFIGURATION, "expected a moment"),
    ],
)
def test_what_makes_no_sense_is_told_by_rollback(shell, arguments, code, told):
    ended = shell.run("rollback", "orders", *arguments)

    assert ended.exit_code == code
    assert told in " ".join(ended.errors.split())
