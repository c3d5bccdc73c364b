"""
The sample source `shop`: an ordinary PostgreSQL database that knows nothing of Esclusa.

    python -m local.shop writer --seconds 30 --seed 7

keeps changing it as an application would: inserts, updates, soft and hard deletes, and transactions that commit
seconds after the `updated_at` they wrote. The address is read from SHOP_DSN, never from an argument.
"""

import argparse
import json
import os
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from shared.errors import ConfigurationError

DSN_VARIABLE = "SHOP_DSN"
SCHEMA_FILE = Path(__file__).with_name("shop_schema.sql")
SEED_FILE = Path(__file__).with_name("shop_seed.sql")

# Taken for the length of a transaction, so that two commands never fill the shop at once. "shop" in ASCII.
SEED_LOCK_ID = 0x73686F70


# Orders are picked by their place between the first and the last, so that no count is needed.
PICKED_ORDER = (
    "WHERE order_id = (SELECT order_id FROM orders WHERE order_id >= (SELECT max(order_id) FROM orders) * %(pick)s "
    "AND deleted_at IS NULL ORDER BY order_id LIMIT 1)"
)
UPDATE_ORDER = f"UPDATE orders SET status = 'returned', updated_at = now() {PICKED_ORDER}"
SOFT_DELETE_ORDER = f"UPDATE orders SET deleted_at = now(), updated_at = now() {PICKED_ORDER}"
INSERT_ORDER = """
    INSERT INTO orders (customer_id, status, total_amount, currency, item_count, is_gift, gift_message, reference,
                        ordered_on, created_at, updated_at)
    SELECT customer_id, 'new', %(amount)s, 'EUR', 2, true, E'written live,\n"now"', gen_random_uuid(),
           (now() AT TIME ZONE 'UTC')::date, now(), now()
    FROM customers WHERE customer_id >= (SELECT max(customer_id) FROM customers) * %(pick)s
    ORDER BY customer_id LIMIT 1
    RETURNING order_id
"""
INSERT_ORDER_ITEMS = """
    INSERT INTO order_items (order_id, line_no, product_id, quantity, unit_price, updated_at)
    SELECT %s, line, 1 + line, line, 9.9900, now() FROM generate_series(1, 2) AS line
"""
# Products bear no time of change: that one has gone shows only in a full reading.
DELETE_LAST_PRODUCT = """
    DELETE FROM products WHERE product_id = (SELECT max(product_id) FROM products WHERE product_id > 100)
"""


@dataclass(frozen=True, slots=True)
class ShopSize:
    """How many rows the tables get. There are two order_items to an order."""

    customers: int = 20_000
    products: int = 500
    orders: int = 200_000


@dataclass(slots=True)
class Written:
    """What the writer has committed."""

    inserted: int = 0
    updated: int = 0
    soft_deleted: int = 0
    products_deleted: int = 0
    late_commits: int = 0


def fill_shop(dsn: str, *, size: ShopSize | None = None, anchor: datetime | None = None) -> bool:
    """
    Create the tables with their rows in one transaction; return False if they are there already.

    Two shops of one size and one anchor are equal. All `updated_at` lie before the anchor, which is now if not given.
    """
    size = size or ShopSize()
    with psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [SEED_LOCK_ID])
        exists = connection.execute("SELECT to_regclass('public.orders') IS NOT NULL").fetchone()
        if exists == (True,):
            return False
        connection.execute("SET LOCAL TIME ZONE 'UTC'")
        connection.execute(SCHEMA_FILE.read_bytes())
        connection.execute(SEED_FILE.read_bytes(), {**asdict(size), "anchor": anchor or datetime.now(UTC)})
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE customers, products, orders, order_items")
    return True


def write_for(
    dsn: str, *, seconds: float, seed: int, rows_per_second: float = 30.0, late_commit_seconds: float = 3.0
) -> Written:
    """
    Change the shop as an application would, for a time, and return what was committed.

    Which changes come is decided by `seed`; how many of them fit into the time is not.
    """
    dice = random.Random(seed)
    deadline = time.monotonic() + seconds
    late_commits: list[int] = []
    late_writer = threading.Thread(
        target=_commit_late,
        args=(dsn, late_commits),
        kwargs={"until": deadline, "hold_seconds": late_commit_seconds, "seed": seed},
    )
    late_writer.start()
    written = Written()
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            change_something(connection, dice, written)
            time.sleep(max(0.0, min(1 / rows_per_second, deadline - time.monotonic())))
    late_writer.join()
    written.late_commits = len(late_commits)
    return written


def change_something(connection: psycopg.Connection, dice: random.Random, written: Written) -> None:
    """Make one change, and count it."""
    pick = {"pick": dice.random()}
    match dice.choices(["insert", "update", "soft_delete", "delete_product"], weights=[50, 40, 8, 2])[0]:
        case "insert":
            insert_order(connection, dice)
            written.inserted += 1
        case "update":
            written.updated += connection.execute(UPDATE_ORDER, pick).rowcount
        case "soft_delete":
            written.soft_deleted += connection.execute(SOFT_DELETE_ORDER, pick).rowcount
        case "delete_product":
            written.products_deleted += connection.execute(DELETE_LAST_PRODUCT).rowcount


def insert_order(connection: psycopg.Connection, dice: random.Random) -> None:
    """Insert an order with two lines in one transaction. `updated_at` is when the transaction began."""
    order = {"pick": dice.random(), "amount": dice.randrange(200_000) / 100}
    with connection.transaction():
        inserted = connection.execute(INSERT_ORDER, order).fetchone()
        if inserted is None:
            raise ConfigurationError(
                "table customers of the shop is empty, an order needs one; fill the shop first"
            )
        connection.execute(INSERT_ORDER_ITEMS, inserted)


def _commit_late(dsn: str, committed: list[int], *, until: float, hold_seconds: float, seed: int) -> None:
    """Insert orders whose transaction stays open for seconds: others overtake their `updated_at`."""
    dice = random.Random(seed + 1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() + hold_seconds <= until:
            with connection.transaction():
                insert_order(connection, dice)
                time.sleep(hold_seconds)
            committed.append(1)
            time.sleep(max(0.0, min(1.0, until - time.monotonic())))


def main(arguments: list[str] | None = None) -> int:
    """Run the writer, and print what it committed as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m local.shop", description="The sample source `shop`.")
    commands = parser.add_subparsers(dest="command", required=True)
    writer = commands.add_parser(
        "writer", help=f"change the shop for a time; the address is read from {DSN_VARIABLE}"
    )
    writer.add_argument("--seconds", type=float, default=30.0)
    writer.add_argument("--seed", type=int, default=1)
    writer.add_argument("--rows-per-second", type=float, default=30.0)
    chosen = parser.parse_args(arguments)
    dsn = os.environ.get(DSN_VARIABLE)
    if not dsn:
        parser.error(f"the environment variable {DSN_VARIABLE} must hold the address of the shop")
    written = write_for(dsn, seconds=chosen.seconds, seed=chosen.seed, rows_per_second=chosen.rows_per_second)
    print(json.dumps(asdict(written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
