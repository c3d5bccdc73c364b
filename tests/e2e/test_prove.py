"""Reconciliation on a whole fleet: equal under live writes, and whatever was tampered with behind its back is named."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from support.commands import Ended, run_command
from support.fleet import SmallFleet

from cli.output import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def live_writes(fleet: SmallFleet) -> Iterator[None]:
    """Change rows of the shop, some ten a second, until the end of the block."""
    stopped = threading.Event()

    def write() -> None:
        with psycopg.connect(fleet.stack.shop_owner_dsn, autocommit=True) as connection:
            while not stopped.wait(0.02):
                connection.execute(
                    "UPDATE orders SET item_count = item_count + 1, updated_at = now() "
                    "WHERE order_id = (SELECT order_id FROM orders ORDER BY random() LIMIT 1)"
                )

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield
    finally:
        stopped.set()
        writer.join(timeout=30)


def prove(*arguments: str) -> Ended:
    return run_command("prove", *arguments, "--json")


def first_difference(ended: Ended) -> dict[str, Any]:
    (table,) = ended.document["tables"]
    assert ended.exit_code == ExitCode.PROBLEM
    difference: dict[str, Any] = table["first_difference"]["difference"]
    return difference


def test_every_table_of_every_source_is_equal_on_all_sides(fleet: SmallFleet) -> None:
    fleet.move_everything()

    ended = prove("--all")

    found = {table["table"]: table for table in ended.document["tables"]}
    assert {name: table for name, table in found.items() if not table["is_equal"]} == {}
    assert ended.exit_code == ExitCode.OK
    assert {"customers", "orders", "order_items", "products", "contacts", "deals"} <= found.keys()
    for table in found.values():
        rows = [
            {side: shown["row_count"] for side, shown in window["sides"].items() if side != "csv"}
            for window in table["windows"]
        ]
        assert all(len(set(counts.values())) == 1 for counts in rows)
        assert sum(counts["warehouse"] for counts in rows) > 20


def test_tables_are_equal_while_their_source_is_written_to_and_batches_are_on_their_way(
    fleet: SmallFleet,
) -> None:
    fleet.move_everything("shop")
    with live_writes(fleet):
        fleet.enqueue("shop")

        ended = prove("shop.orders")

    (table,) = ended.document["tables"]
    assert table["first_difference"] is None
    assert ended.exit_code == ExitCode.OK
    assert sum(window["sides"]["source"]["row_count"] for window in table["windows"]) > 1000


def test_what_was_changed_behind_its_back_is_named(fleet: SmallFleet) -> None:
    fleet.move_everything("shop")
    with psycopg.connect(fleet.stack.warehouse_dsn, autocommit=True) as warehouse:
        (before,) = warehouse.execute(
            "UPDATE shop__base.customers c SET loyalty_points = c.loyalty_points + 1 FROM shop__base.customers old "
            "WHERE c.customer_id = 7 AND old.customer_id = 7 RETURNING old.loyalty_points"
        ).fetchone() or (None,)
        changed = first_difference(prove("shop.customers"))
        warehouse.execute(
            "UPDATE shop__base.customers SET loyalty_points = %s WHERE customer_id = 7", [before]
        )

    cured = prove("shop.customers")

    assert changed["sides"] == ["lake", "warehouse"]
    assert changed["measure"] == "checksum"
    assert [(row["key"], row["columns"]) for row in changed["rows"]] == [
        ({"customer_id": "7"}, ["loyalty_points"])
    ]
    assert cured.exit_code == ExitCode.OK


def test_a_row_changed_at_the_source_without_its_cursor_is_named(fleet: SmallFleet) -> None:
    fleet.move_everything("shop")
    fleet.shop("UPDATE order_items SET quantity = quantity + 1 WHERE order_id = 1 AND line_no = 1")
    changed = first_difference(prove("shop.order_items"))
    fleet.shop("UPDATE order_items SET quantity = quantity - 1 WHERE order_id = 1 AND line_no = 1")

    assert changed["sides"] == ["source", "lake"]
    assert [(row["key"], row["columns"]) for row in changed["rows"]] == [
        ({"order_id": "1", "line_no": "1"}, ["quantity"])
    ]
