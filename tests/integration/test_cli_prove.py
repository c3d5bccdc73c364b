"""`esclusa prove`: what it prints, keeps in the ledger, and ends with."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from support.commands import Shell
from support.reconciled import Travelled, hour, orders

from cli.output import ExitCode
from cli.prove import SCHEDULED_PART
from shared.domain.contracts import PublishMode
from shared.domain.proofs import Proof
from shared.ledger.memory import MemoryLedger
from shared.planning import retire_source


@pytest.fixture
def shop(fresh_database: str) -> Travelled:
    """Two windows of orders."""
    travelled = Travelled(fresh_database)
    travelled.insert((1, "Anna", "1.10", hour(0.5)), (2, "Bert", "2", hour(1.5)))
    travelled.move(None, hour(1))
    travelled.move(hour(1), hour(2))
    return travelled


def shell_at(shop: Travelled) -> Shell:
    return Shell(secrets=shop.secrets, warehouse=shop.warehouse, ledger=shop.ledger, store=shop.store)


def proofs_of(shop: Travelled, *, differing_only: bool = False) -> list[Proof]:
    with shop.ledger.transaction() as tx:
        return tx.latest_proofs("shop", "orders", differing_only=differing_only)


@pytest.mark.parametrize("name", ["orders", "shop.orders"])
def test_equal_sides_end_with_0_and_are_kept_in_the_ledger(shop, name):
    ended = shell_at(shop).run("prove", name)

    assert ended.exit_code == ExitCode.OK
    assert ended.output.splitlines()[1].split() == [
        "shop.orders",
        "equal",
        *["2", "2", "2", "0", "2", "2", "0"],
    ]
    assert [(proof.window.end, proof.is_equal) for proof in proofs_of(shop)] == [
        (hour(1), True),
        (hour(2), True),
    ]
    assert proofs_of(shop)[0].sides["source"] == proofs_of(shop)[0].sides["warehouse"]


def test_a_difference_ends_with_1_and_is_named_without_values(shop):
    shop.execute("UPDATE shop__base.orders SET name = 'Signor Rossi' WHERE id = 2")

    ended = shell_at(shop).run("prove", "orders")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "1 window differs" in ended.output
    assert "window 2026-01-01T01:00:00Z to 2026-01-01T02:00:00Z" in ended.output
    assert "lake and warehouse differ by checksum" in ended.output
    assert "id=2" in ended.output
    assert "Rossi" not in ended.output + ended.errors
    (proof,) = proofs_of(shop, differing_only=True)
    assert "differing columns: 'name'" in proof.detail
    assert "Rossi" not in repr(proof)


def test_a_difference_is_seen_in_the_status_until_it_is_cured_and_compared_again(shop):
    shell = shell_at(shop)
    shop.execute("DELETE FROM shop__base.orders")
    shell.run("prove", "orders")
    seen = shell.run("status")
    shop.execute(
        "INSERT INTO shop__base.orders SELECT id, name, price, updated_at, 'b', now() FROM public.orders"
    )

    shell.run("prove", "orders")

    assert "different: shop.orders, windows: 2; `esclusa prove shop.orders` tells more" in seen.output
    assert "different" not in shell.run("status").output


def test_the_document_tells_every_window_with_its_sides(shop):
    shop.execute("DELETE FROM shop__base.orders WHERE id = 1")

    ended = shell_at(shop).run("prove", "orders", "--json")

    (table,) = ended.document["tables"]
    first = table["first_difference"]
    assert ended.exit_code == ExitCode.PROBLEM
    assert table["is_equal"] is False
    assert [window["is_equal"] for window in table["windows"]] == [False, True]
    assert first["start"] is None
    assert first["end"] == "2026-01-01T01:00:00Z"
    assert {side: found["row_count"] for side, found in first["sides"].items()} == {
        "source": 1,
        "csv": 1,
        "lake": 1,
        "warehouse": 0,
    }
    assert first["difference"]["sides"] == ["lake", "warehouse"]
    assert first["difference"]["measure"] == "count"
    assert first["difference"]["rows"] == [
        {"key": {"id": "1"}, "counts": {"lake": 1, "warehouse": 0}, "columns": []}
    ]


@pytest.mark.parametrize("start", ["2026-01-01T01:00", "2026-01-01T02:00+01:00", "age"])
def test_windows_are_chosen_by_moment_or_age(shop, start):
    if start == "age":
        start = f"{(datetime.now(UTC) - hour(1)) // timedelta(hours=1)}h"

    ended = shell_at(shop).run("prove", "orders", "--from", start, "--json")

    (table,) = ended.document["tables"]
    assert [window["end"] for window in table["windows"]] == ["2026-01-01T02:00:00Z"]


def test_all_tables_are_compared_and_the_run_is_recorded(shop):
    ended = shell_at(shop).run("prove", "--all", "--json")

    with shop.ledger.transaction() as tx:
        last_run = tx.last_run(SCHEDULED_PART)
    assert ended.exit_code == ExitCode.OK
    assert [table["table"] for table in ended.document["tables"]] == ["orders"]
    assert last_run is not None


def test_a_source_that_was_retired_is_compared_only_if_it_is_named(shop):
    shell = shell_at(shop)
    retire_source("shop", ledger=shop.ledger)

    every = shell.run("prove", "--all", "--json")
    of_source = shell.run("prove", "--all", "--source", "shop", "--json")
    one = shell.run("prove", "orders", "--json")

    assert (every.document["tables"], every.exit_code) == ([], ExitCode.OK)
    for named in (of_source, one):
        assert [table["is_equal"] for table in named.document["tables"]] == [True]


def test_a_side_that_does_not_answer_ends_with_3_and_records_nothing(shop):
    shop.secrets = type(shop.secrets)({"env:SHOP_DSN": "postgresql://nobody@127.0.0.1:1/none"})

    ended = shell_at(shop).run("prove", "orders")

    assert ended.exit_code == ExitCode.UNAVAILABLE
    assert "shop.orders was not compared" in ended.errors
    assert proofs_of(shop) == []


def test_an_older_snapshot_that_differed_is_settled_by_the_next(fresh_database):
    shop = Travelled(fresh_database, orders(mode=PublishMode.REPLACE))
    shop.insert((1, "Anna", "1", hour(0.5)))
    shop.move(None, hour(1))
    shop.execute("DELETE FROM shop__base.orders")
    differed = shell_at(shop).run("prove", "orders").exit_code
    shop.move(None, hour(2))

    ended = shell_at(shop).run("prove", "orders")

    assert (differed, ended.exit_code) == (ExitCode.PROBLEM, ExitCode.OK)
    assert [proof.is_equal for proof in proofs_of(shop)] == [True, True]


# ---- what it is asked --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["unknown"], ExitCode.NOT_FOUND, "'unknown': the ledger knows none of that name"),
        (["--all", "--source", "unknown"], ExitCode.NOT_FOUND, "'unknown': the ledger knows no table of it"),
        ([], ExitCode.CONFIGURATION, "expected a table or --all, found neither"),
        (["orders", "--all"], ExitCode.CONFIGURATION, "expected a table or --all, found both"),
        (["orders", "--from", "yesterday"], ExitCode.CONFIGURATION, "'--from': expected a moment"),
    ],
)
def test_what_cannot_be_compared_is_refused(fresh_database, arguments, code, said):
    travelled = Travelled(fresh_database)
    travelled.move(None, hour(1))

    ended = shell_at(travelled).run("prove", *arguments)

    assert ended.exit_code == code
    assert said in ended.errors


def test_a_name_that_two_sources_have_needs_the_source(fresh_database):
    ledger = MemoryLedger(lambda: datetime.now(UTC))
    shop = Travelled(fresh_database, ledger=ledger)
    shop.move(None, hour(1))
    with ledger.transaction() as tx:
        version = tx.latest_contract("shop", "orders")
        assert version is not None
        contract = version.contract
        tx.insert_contract(
            replace(version, contract=replace(contract, origin=replace(contract.origin, source="crm")))
        )

    ambiguous = shell_at(shop).run("prove", "orders")
    named = shell_at(shop).run("prove", "orders", "--source", "shop")

    assert ambiguous.exit_code == ExitCode.CONFIGURATION
    assert "crm.orders, shop.orders; say which with --source" in ambiguous.errors
    assert named.exit_code == ExitCode.OK
