"""Source files: what they say becomes contracts, and every mistake is told at once, at its place."""

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from shared.catalog import Problem, SourceFilesInvalid, load_sources, read_sources
from shared.domain.contracts import (
    Column,
    ColumnType,
    Cursor,
    DeleteMode,
    Mask,
    MaskKind,
    Normalization,
    PublishMode,
    SourceKind,
    Target,
)
from shared.domain.quiet_hours import QuietHours
from shared.domain.sources import SourceLimits
from shared.errors import ConfigurationError, SourceNotFound

SOURCES = Path(__file__).parents[2] / "sources"

SHOP = """\
name: shop
kind: postgres
connection:
  dsn: env:SHOP_DSN
mask_key: env:MASK_KEY
mask_key_id: k1
schedule: {every: 30m}
tables:
  orders:
    relation: public.orders
    columns:
      id: {type: int64, nullable: false, mask: keep, source_type: bigint}
      email: {mask: {hmac: {domain: email, normalize: email}}}
      card: {mask: last4}
      country: {mask: {constant: "00"}}
      note: {mask: drop}
      updated_at: {type: timestamptz, nullable: false, mask: keep}
      deleted_at: {type: timestamptz, mask: keep}
    key: [id]
    cursor: {column: updated_at, lag: 90s, overlap: 5m}
    publish: {mode: merge}
    schedule: {catch_up_limit: 3}
    quarantine: {max_rejected_rows: 7}
    deletes: {soft: deleted_at}
"""

Files = Callable[..., Path]


@pytest.fixture
def source_files(tmp_path: Path) -> Files:
    """Writes files into a directory and returns it."""

    def write(**texts: str | bytes) -> Path:
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return tmp_path

    return write


def mistakes(directory: Path) -> list[Problem]:
    """The mistakes of a directory that has some."""
    with pytest.raises(SourceFilesInvalid) as caught:
        load_sources(directory)
    return list(caught.value.problems)


def changed(old: str, new: str) -> str:
    """The shop's file with one passage changed."""
    assert SHOP.count(old) == 1
    return SHOP.replace(old, new)


def only_mistake(directory: Path) -> Problem:
    """The one mistake of a directory."""
    (problem,) = mistakes(directory)
    return problem


# ---- what a file says --------------------------------------------------------------------------------------


def test_a_source_file_becomes_the_contracts_of_its_tables(source_files: Files) -> None:
    directory = source_files(shop=SHOP)

    (contract,) = load_sources(directory).source("shop").contracts()

    assert contract.origin.kind is SourceKind.POSTGRES
    assert contract.origin.connection == {"dsn": "env:SHOP_DSN"}
    assert contract.origin.mask_keys == {"k1": "env:MASK_KEY"}
    assert (contract.table, contract.relation, contract.key) == ("orders", ("public", "orders"), ("id",))
    assert contract.column("id") == Column(
        "id", ColumnType.parse("int64"), Mask(MaskKind.KEEP), nullable=False, source_type="bigint"
    )
    assert contract.column("email").mask == Mask(
        MaskKind.HMAC, domain="email", normalization=Normalization.EMAIL, key_id="k1"
    )
    assert contract.column("country").mask == Mask(MaskKind.CONSTANT, constant="00")
    assert contract.cursor == Cursor("updated_at", lag=timedelta(seconds=90), overlap=timedelta(minutes=5))
    assert (contract.deletes.mode, contract.deletes.column) == (DeleteMode.SOFT, "deleted_at")
    assert (contract.publishing.mode, contract.publishing.target) == (PublishMode.MERGE, Target.BOTH)


def test_a_table_says_what_differs_and_inherits_the_rest(source_files: Files) -> None:
    directory = source_files(shop=SHOP)

    (contract,) = load_sources(directory).contracts()

    assert contract.schedule.every == timedelta(minutes=30)
    assert contract.schedule.max_window == timedelta(hours=1)
    assert contract.schedule.catch_up_limit == 3
    assert (contract.limits.max_rejected_rows, contract.limits.max_rejected_ratio) == (7, 0.01)


def test_a_table_is_expected_by_what_it_says_or_its_source_or_two_intervals_and_half_an_hour(
    source_files: Files,
) -> None:
    source = SHOP.replace("{every: 30m}", "{every: 30m, expected_by: 50m}")
    table = source.replace("{catch_up_limit: 3}", "{expected_by: 100h}")

    found = [
        load_sources(source_files(shop=text)).source("shop").expected_by["orders"]
        for text in (SHOP, source, table)
    ]

    assert found == [timedelta(minutes=90, seconds=90), timedelta(minutes=50), timedelta(hours=100)]


@pytest.mark.parametrize("expected_by", ["0s", "169h", "1d", "soon"])
def test_an_expectation_is_a_duration_of_a_week_at_most(source_files: Files, expected_by: str) -> None:
    text = SHOP.replace("{every: 30m}", f"{{every: 30m, expected_by: {expected_by}}}")

    (problem,) = mistakes(source_files(shop=text))

    assert problem.field == "schedule.expected_by"


@pytest.mark.parametrize(
    ("old", "field"),
    [
        ("{every: 30m}", "schedule.expected_by"),
        ("{catch_up_limit: 3}", "tables.orders.schedule.expected_by"),
    ],
)
def test_nothing_can_be_expected_before_the_lag_is_over(source_files: Files, old: str, field: str) -> None:
    (problem,) = mistakes(source_files(shop=SHOP.replace(old, "{expected_by: 90s}")))

    assert problem.field == field
    assert "lag" in problem.expected


@pytest.mark.parametrize("name", ["shop", "crm"])
def test_how_a_source_is_run_is_no_part_of_its_contract(source_files: Files, name: str) -> None:
    text = {"shop": SHOP, "crm": CRM}[name]
    limits = "limits: {max_concurrent_extracts: 9, rows_per_second: 5, quiet_hours: ['01:00-02:00 UTC']}"
    run_otherwise = text.replace("tables:\n", f"{limits}\ntables:\n", 1)

    before = load_sources(source_files(**{name: text})).source(name)
    after = load_sources(source_files(**{name: run_otherwise})).source(name)

    assert (before.limits.max_concurrent_extracts, after.limits.max_concurrent_extracts) == (4, 9)
    assert after.tables == before.tables


def test_what_the_fleet_may_take_of_a_source_is_read(source_files: Files) -> None:
    limits = (
        "limits: {max_concurrent_extracts: 2, rows_per_second: 500, deadline: 5m, "
        "quiet_hours: ['22:00-06:00 Europe/Rome', '12:00-13:00 UTC']}\ntables:\n"
    )

    source = load_sources(source_files(shop=SHOP.replace("tables:\n", limits, 1))).source("shop")

    assert source.limits == SourceLimits(
        2,
        500,
        timedelta(minutes=5),
        (QuietHours.parse("22:00-06:00 Europe/Rome"), QuietHours.parse("12:00-13:00 UTC")),
    )
    assert load_sources(source_files(shop=SHOP)).source("shop").limits == SourceLimits()


@pytest.mark.parametrize(
    ("limits", "warned"),
    [("rows_per_second: 13333", True), ("rows_per_second: 13334", False), ("deadline: 1s", False)],
)
def test_a_first_load_that_its_pace_leaves_no_time_for_is_warned_of(
    source_files: Files, limits: str, warned: bool
) -> None:
    text = SHOP.replace("tables:\n", f"limits: {{{limits}}}\ntables:\n", 1)

    warnings = read_sources(source_files(shop=text)).warnings

    assert [warning.field for warning in warnings] == ["tables.orders.schedule.rows_per_part"] * warned


@pytest.mark.parametrize(
    ("limits", "field", "expected"),
    [
        ("{quiet_hours: ['22:00-06:00']}", "limits.quiet_hours[0]", "two times and a zone"),
        ("{quiet_hours: ['22:00-06:00 Mars/Base']}", "limits.quiet_hours[0]", "IANA"),
        (
            "{quiet_hours: ['06:00-22:00 UTC', '20:00-07:00 UTC']}",
            "limits.quiet_hours",
            "leave some of each day",
        ),
        ("{rows_per_second: 0}", "limits.rows_per_second", "1"),
        ("{deadline: 2h}", "limits.deadline", "from 1s to 1h"),
        ("{deadline: 2m, timeout_seconds: 121}", "limits.timeout_seconds", "at most limits.deadline, 120 s"),
        ("{timeout_seconds: 601}", "limits.timeout_seconds", "at most limits.deadline, 600 s"),
    ],
)
def test_limits_that_cannot_be_kept_are_mistakes(
    source_files: Files, limits: str, field: str, expected: str
) -> None:
    (problem,) = mistakes(source_files(shop=SHOP.replace("tables:\n", f"limits: {limits}\ntables:\n", 1)))

    assert problem.field == field
    assert expected in problem.expected


def test_a_column_without_a_mask_is_withheld_and_warned_of(source_files: Files) -> None:
    directory = source_files(shop=changed("card: {mask: last4}", "card:"))

    catalog = load_sources(directory)

    assert catalog.contracts()[0].column("card").mask.kind is MaskKind.WITHHOLD
    assert [warning.field for warning in catalog.warnings] == ["tables.orders.columns.card"]


def test_texts_stay_what_is_written(source_files: Files) -> None:
    text = changed(
        'country: {mask: {constant: "00"}}', "no: {mask: {constant: 0123}}\n      1.10: {mask: keep}"
    )

    (contract,) = load_sources(source_files(shop=text)).contracts()

    assert contract.column("no").mask.constant == "0123"
    assert contract.column("1.10").leaves


@pytest.mark.parametrize("name", ["order items/2026", "ñandú", 'a "quoted" name', "select", "a.b", "null"])
def test_any_legal_name_is_carried(source_files: Files, name: str) -> None:
    quoted = "'" + name + "'"
    text = SHOP.replace("public.orders", f"[{quoted}, {quoted}]").replace("note:", f"{quoted}:")

    (contract,) = load_sources(source_files(shop=text)).contracts()

    assert contract.relation == (name, name)
    assert contract.column(name).name == name


def test_the_samples_are_sound_and_every_column_has_a_mask() -> None:
    catalog = load_sources(SOURCES)

    tables = {f"{contract.source}.{contract.table}" for contract in catalog.contracts()}
    masks = {column.mask.kind for contract in catalog.contracts() for column in contract.columns}

    assert tables == {
        "shop.customers",
        "shop.products",
        "shop.orders",
        "shop.order_items",
        "crm.contacts",
        "crm.deals",
    }
    assert masks == set(MaskKind) - {MaskKind.WITHHOLD, MaskKind.TRUNCATE, MaskKind.BUCKET}
    assert not catalog.warnings


def test_a_rest_source_hands_its_reader_texts(source_files: Files) -> None:
    catalog = load_sources(SOURCES)

    contacts = next(contract for contract in catalog.contracts() if contract.table == "contacts")

    assert contacts.relation == ("/v1/contacts",)
    assert contacts.origin.connection["requests_per_second"] == "15.0"
    assert contacts.options["page_size"] == "200"
    assert contacts.column("city").path == "address.city"


# ---- mistakes ----------------------------------------------------------------------------------------------


def test_all_mistakes_of_all_files_are_told_at_once(source_files: Files) -> None:
    shop = (
        changed("type: int64", "type: int46")
        .replace("kind: postgres\n", "kind: postgres\nschedul: {}\n")
        .replace("lag: 90s", "lag: -1s")
        .replace("soft: deleted_at", "soft: delete_at")
    )
    crm = SHOP.replace("mode: merge", "mode: mrege")

    found = mistakes(source_files(shop=shop, crm=crm))

    assert [(Path(problem.file).name, problem.line, problem.field) for problem in found] == [
        ("crm.yaml", 1, "name"),
        ("crm.yaml", 21, "tables.orders.publish.mode"),
        ("shop.yaml", 3, "schedul"),
        ("shop.yaml", 13, "tables.orders.columns.id.type"),
        ("shop.yaml", 21, "tables.orders.cursor.lag"),
        ("shop.yaml", 25, "tables.orders.deletes.soft"),
    ]
    assert "did you mean 'schedule'?" in found[2].expected
    assert "did you mean 'deleted_at'?" in found[5].expected


def test_the_message_names_file_line_field_expected_and_found(source_files: Files) -> None:
    directory = source_files(shop=changed("mode: merge", "mode: mrege"))

    with pytest.raises(ConfigurationError) as caught:
        load_sources(directory)

    assert str(caught.value) == (
        f"1 mistake in 1 file:\n  {directory / 'shop.yaml'}:21: tables.orders.publish.mode: "
        "expected 'append', 'merge' or 'replace', found 'mrege'"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("env:SHOP_DSN", "postgresql://me:hunter2@db/shop"),
        ("env:MASK_KEY", "hunter2"),
        ("  dsn: env:SHOP_DSN", "  dsn: env:SHOP_DSN\n  password: hunter2"),
        ("connection:\n  dsn: env:SHOP_DSN", "connection: hunter2"),
        ("connection:\n  dsn: env:SHOP_DSN", "connection: [hunter2]"),
        ("env:SHOP_DSN", "vault:hunter2"),
        ("env:SHOP_DSN", "{password: hunter2}"),
        ("env:SHOP_DSN", '"hunter2'),
    ],
)
def test_a_secret_in_a_file_is_refused_and_never_told(source_files: Files, old: str, new: str) -> None:
    directory = source_files(shop=changed(old, new))

    with pytest.raises(SourceFilesInvalid) as caught:
        load_sources(directory)

    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.problems)


RULES = [
    # The key.
    ("key: [id]", "key: [idd]", "tables.orders.key[0]", "(did you mean 'id'?)"),
    ("key: [id]", "key: [id, id]", "tables.orders.key[1]", "each column once"),
    ("key: [id]", "key: [card]", "tables.orders.key[0]", "keep or hmac"),
    ("key: [id]", "key: [email]", "tables.orders.key[0]", "without normalize"),
    ("key: [id]", "key: []", "tables.orders.key", "since publish.mode is merge"),
    ("nullable: false, mask: keep, source", "mask: keep, source", "tables.orders.key[0]", "nullable: false"),
    # The cursor.
    ("{column: updated_at", "{column: id", "tables.orders.cursor.overlap", "a number"),
    (
        "updated_at: {type: timestamptz",
        "updated_at: {type: string",
        "tables.orders.cursor.column",
        "of type timestamptz",
    ),
    ("overlap: 5m", "overlap: 100", "tables.orders.cursor.overlap", "a duration"),
    ("overlap: 5m", "overlap: 25h", "tables.orders.cursor.overlap", "from 0s to 24h"),
    ("{column: updated_at", "{column: when", "tables.orders.cursor.column", "a column of the table"),
    ("updated_at: {type: timestamptz", "updated_at: {type: timestamp", "tables.orders.cursor.column", "UTC"),
    ("overlap: 5m}", "overlap: 5m, timezone: CET}", "tables.orders.cursor.timezone", "'UTC'"),
    ("lag: 90s", "lag: 25h", "tables.orders.cursor.lag", "from 0s to 24h"),
    ("lag: 90s, ", "", "tables.orders.cursor.lag", "a value"),
    # Publishing.
    ("mode: merge", "mode: replace", "tables.orders.publish.mode", "a window is not the whole table"),
    ("mode: merge", "mode: merge, allow_empty: true", "tables.orders.publish.allow_empty", "replace only"),
    (
        "mode: merge",
        "mode: merge, sort_key: [when]",
        "tables.orders.publish.sort_key",
        "a column of the table",
    ),
    ("mode: merge", "mode: merge, dist_key: when", "tables.orders.publish.dist_key", "a column of the table"),
    ("{column: updated_at, lag: 90s, overlap: 5m}", "none", "tables.orders.publish.mode", "no cursor"),
    ("    publish: {mode: merge}\n", "", "tables.orders.publish", "a value"),
    # Deletes.
    ("{soft: deleted_at}", "{soft: note}", "tables.orders.deletes.soft", "mask keep"),
    ("{soft: deleted_at}", "{soft: id}", "tables.orders.deletes.soft", "says when"),
    # Schedule and limits.
    ("{every: 30m}", "{every: 2h}", "schedule.every", "from 1s to 1h"),
    ("{every: 30m}", "{every: 0s}", "schedule.every", "from 1s to 1h"),
    ("{every: 30m}", "{every: 30}", "schedule.every", "a duration such as 90s"),
    ("{every: 30m}", "{every: 30m, max_window: 5m}", "schedule.every", "no longer than max_window"),
    ("{every: 30m}", "{max_window: 5m}", "schedule.max_window", "900s and 300s"),
    ("{catch_up_limit: 3}", "{max_window: 5m}", "tables.orders.schedule.max_window", "no longer"),
    ("{catch_up_limit: 3}", "{catch_up_limit: 0}", "tables.orders.schedule.catch_up_limit", "greater"),
    (
        "max_rejected_rows: 7",
        "max_rejected_rows: -7",
        "tables.orders.quarantine.max_rejected_rows",
        "greater",
    ),
    (
        "max_rejected_rows: 7",
        "max_rejected_ratio: .nan",
        "tables.orders.quarantine.max_rejected_ratio",
        "a number",
    ),
    # Masks, types, names.
    ("mask_key: env:MASK_KEY\nmask_key_id: k1\n", "", "tables.orders.columns.email.mask", "mask_key"),
    ("mask_key_id: k1\n", "", "mask_key_id", "the id"),
    ("mask: last4", "mask: last5", "tables.orders.columns.card.mask", "keep, drop, withhold, redact, last4"),
    ("mask: last4", "mask: {word: keep}", "tables.orders.columns.card.mask", "keep, drop"),
    ("{domain: email, normalize: email}", "{}", "tables.orders.columns.email.mask.hmac.domain", "a value"),
    ("type: int64", 'type: "decimal(39,2)"', "tables.orders.columns.id.type", "1 to 38 digits"),
    (
        "note: {mask",
        "ID: {mask: keep}\n      note: {mask",
        "tables.orders.columns.ID",
        "upper and lower case",
    ),
    ("note: {mask", '"a\\nb": {mask', 'tables.orders.columns."a\\nb"', "without line breaks"),
    ("note: {mask", f"{'n' * 128}: {{mask", f"tables.orders.columns.{'n' * 128}", "127 bytes"),
    ("public.orders", "orders", "tables.orders.relation", "schema and table"),
    ("public.orders", "a.b.c", "tables.orders.relation", "as a list"),
    ("name: shop", "name: Shop", "name", "matches"),
    ("kind: postgres", "kind: oracle", "kind", "postgres or odbc or sqlalchemy or rest"),
    ("kind: postgres", "kind: {a: b}", "kind", "a mapping"),
    # YAML.
    (
        "card: {mask: last4}",
        "card: {mask: last4}\n      card: {mask: keep}",
        "tables.orders.columns.card",
        "once",
    ),
    ("card: {mask: last4}", "card: &a {mask: last4}\n      b: *a", "tables.orders.columns.b", "written out"),
    (
        "card: {mask: last4}",
        "card: !!python/name:os.system {}",
        "tables.orders.columns.card",
        "without a tag",
    ),
]


@pytest.mark.parametrize(("old", "new", "field", "expected"), RULES)
def test_what_does_not_fit_together_is_told_at_its_field(
    source_files: Files, old: str, new: str, field: str, expected: str
) -> None:
    found = mistakes(source_files(shop=changed(old, new)))

    assert {problem.field for problem in found} == {field}
    assert any(expected in f"{problem.expected}, {problem.found}" for problem in found)


def test_append_takes_neither_an_overlap_nor_soft_deletes(source_files: Files) -> None:
    found = mistakes(source_files(shop=changed("mode: merge", "mode: append")))

    assert [problem.field for problem in found] == [
        "tables.orders.cursor.overlap",
        "tables.orders.deletes.soft",
    ]


def test_a_decimal_between_braces_without_quotes_is_explained(source_files: Files) -> None:
    found = mistakes(source_files(shop=changed("type: int64", "type: decimal(12,2)")))

    assert "needs quotes" in found[0].expected


def test_at_least_one_column_has_to_leave(source_files: Files) -> None:
    text = """\
name: shop
kind: postgres
connection: {dsn: env:SHOP_DSN}
tables:
  secrets:
    relation: public.secrets
    columns:
      a: {mask: drop}
      b:
    publish: {mode: replace}
"""

    problem = only_mistake(source_files(shop=text))

    assert (problem.line, problem.field) == (7, "tables.secrets.columns")


def test_tables_whose_names_differ_by_case_alone_collide(source_files: Files) -> None:
    table = SHOP.partition("tables:\n")[2]

    problem = only_mistake(source_files(shop=SHOP + table.replace("  orders:", "  Orders:")))

    assert problem.field == "tables.Orders"


CRM = """\
name: crm
kind: rest
connection: {base_url: env:CRM_URL}
tables:
  deals:
    path: /v1/deals
    options: {paging: none, after_parameter: since, before_parameter: until}
    columns:
      id: {type: int64, nullable: false, mask: keep}
      updated: {type: timestamptz, mask: keep}
    key: [id]
    cursor: {column: updated, lag: 1m, overlap: 1m}
    publish: {mode: merge}
"""


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("paging: none", "paging: page", "options.page_parameter"),
        ("paging: none", "paging: next_link", "options.next_link"),
        ("paging: none", "paging: cursor, cursor_parameter: c", "options.cursor_path"),
        ("paging: none", "paging: none, page_size: 5", "options.size_parameter"),
        ("after_parameter: since, ", "", "options.after_parameter"),
        ("/v1/deals", "https://elsewhere.example/v1/deals", "path"),
        ("/v1/deals", "//elsewhere.example/v1/deals", "path"),
        ("/v1/deals", "/v1/../admin", "path"),
        ("paging: none", "paging: none, max_pages: 5", "options.max_pages"),
    ],
)
def test_what_a_rest_table_needs_is_asked_for(source_files: Files, old: str, new: str, field: str) -> None:
    assert not read_sources(source_files(crm=CRM)).problems

    problem = only_mistake(source_files(crm=CRM.replace(old, new)))

    assert problem.field == f"tables.deals.{field}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", 0),
        (b"{}", 0),
        (b"- a\n- b\n", 0),
        (b"name: shop\n\tkind: x\n", 2),
        (b"name: [a\nkind: x\n", 2),
        (b"name: shop\n--- \nname: two\n", 2),
        (b"name: a\nkind: \xff\n", 2),
        (b"\x00", 0),
        (b"a:\n" + b"[" * 100_000, 2),
        (b"? [a]\n: b\n", 1),
        (b"name: " + b"{a: " * 50 + b"b" + b"}" * 50, 1),
        (b"a: &a [*a]\n", 1),
    ],
)
def test_a_file_of_any_shape_is_a_mistake_and_never_a_crash(
    source_files: Files, text: bytes, line: int
) -> None:
    found = mistakes(source_files(shop=text))

    assert {Path(problem.file).name for problem in found} == {"shop.yaml"}
    assert found[0].line == line


def test_broken_yaml_is_told_in_one_sentence(source_files: Files) -> None:
    (problem,) = mistakes(source_files(shop=b"name: [a\nkind: x\n"))

    assert (problem.expected, problem.found) == ("a single YAML document", "something other than ',' or ']'")


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_sound_or_told_and_never_a_crash(source_files: Files, seed: int) -> None:
    dice = random.Random(seed)
    noise = [
        b"[",
        b"]",
        b"{",
        b"}",
        b":",
        b"- ",
        b"\n",
        b"~",
        b"*a",
        b"&a ",
        b"!!int ",
        b"|",
        b'"',
        b"\t",
        b"\xff",
    ]
    for _ in range(20):
        text = bytearray(SHOP.encode())
        for _ in range(dice.randrange(1, 5)):
            place = dice.randrange(len(text))
            text[place : place + dice.choice([0, 0, 5, 20])] = dice.choice(noise)
        directory = source_files(shop=bytes(text))

        catalog = read_sources(directory)

        assert bool(catalog.sources) != bool(catalog.problems)


def test_a_directory_without_source_files_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "shop.yml").write_text(SHOP)

    found = mistakes(tmp_path)
    missing = only_mistake(tmp_path / "absent")

    assert [problem.expected for problem in found] == [
        "a name that ends with .yaml",
        "at least one source file, such as shop.yaml",
    ]
    assert missing.expected == "a directory of source files"


def test_a_mistaken_file_does_not_hide_the_sound_ones(source_files: Files) -> None:
    directory = source_files(shop=SHOP, crm="name: [")

    catalog = read_sources(directory)

    assert [source.name for source in catalog.sources] == ["shop"]
    assert [Path(problem.file).name for problem in catalog.problems] == ["crm.yaml"]


def test_an_unknown_source_is_refused_with_the_nearest_name(source_files: Files) -> None:
    catalog = load_sources(source_files(shop=SHOP))

    with pytest.raises(SourceNotFound, match=r"found 'shpo' \(did you mean 'shop'\?\)"):
        catalog.source("shpo")


def test_a_source_tells_every_reference_it_needs(source_files: Files) -> None:
    source = load_sources(source_files(shop=SHOP)).source("shop")

    assert source.references() == ["env:SHOP_DSN", "env:MASK_KEY"]
