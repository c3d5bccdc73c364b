"""The commands `masks` and `mask rotate`."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import Ended, Shell
from support.ledger_rows import NOON, a_batch, a_contract

from cli.output import ExitCode
from cli.rotation_progress import unread_batches
from shared.catalog import load_sources
from shared.contract_document import sha256_of
from shared.domain.batches import Batch, BatchState, batch_id
from shared.domain.contracts import (
    ColumnType,
    ContractVersion,
    MaskEvidence,
    MaskKind,
    PublishMode,
    TableContract,
)
from shared.domain.windows import Extent, Window, slot_of
from shared.secrets.memory import MemorySecrets

HOUR = timedelta(hours=1)

SHOP = """\
# The shop.
name: shop
kind: postgres
connection: {dsn: env:SHOP_DSN}
mask_key: env:KEY_1   # of last year
mask_key_id: k1
tables:
  customers:
    relation: public.customers
    columns:
      id: {type: int64, nullable: false, mask: keep}
      email: {mask: {hmac: {domain: email, normalize: email}}}   # joins with the CRM
      born_on: {type: date, mask: {truncate: year}}
      income: {type: "decimal(12,2)", mask: {bucket: 1000}}
      notes: {content: free_text, mask: redact}
      secret: {mask: drop}
      updated_at: {type: timestamptz, nullable: false, mask: keep}
    key: [id]
    cursor: {column: updated_at, lag: 1m, overlap: 5m}
    publish: {mode: merge}
  devices:
    relation: public.devices
    columns:
      serial: {nullable: false, mask: {hmac: {domain: device}}}
      owner: {mask: {hmac: {domain: email}}}
      updated_at: {type: timestamptz, nullable: false, mask: keep}
    key: [serial]
    cursor: {column: updated_at, lag: 1m, overlap: 5m}
    publish: {mode: merge}
"""

SECRETS = MemorySecrets(
    {
        "env:KEY_1": "the first key of the shop",
        "env:KEY_2": "the second key of the shop",
        "env:SHORT": "short",
    }
)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A directory with the file of the shop."""
    directory = tmp_path / "sources"
    directory.mkdir()
    (directory / "shop.yaml").write_text(SHOP)
    return directory


def contract_of(sources: Path, table: str = "customers") -> TableContract:
    return next(contract for contract in load_sources(sources).contracts() if contract.table == table)


def enqueue(shell: Shell, contract: TableContract) -> ContractVersion:
    """Make a contract the newest of its table, as the planner does."""
    with shell.ledger.transaction() as tx:
        latest = tx.latest_contract(contract.source, contract.table)
        version = ContractVersion(latest.version + 1 if latest else 1, sha256_of(contract), contract)
        assert tx.insert_contract(version)
    return version


def read(
    shell: Shell,
    version: ContractVersion,
    *,
    hour: int = 0,
    slot: str = "",
    state: BatchState = BatchState.PUBLISHED,
    without: str = "",
    **otherwise: tuple[MaskKind, str],
) -> Batch:
    """Read one hour under a contract, with the evidence that belongs to it but for some columns."""
    start = NOON + hour * HOUR
    contract = version.contract
    name = slot or slot_of(start)
    batch = replace(
        a_batch(name, table=contract.table, state=state),
        id=batch_id("shop", contract.table, name),
        window=Window(start, start + HOUR),
        contract_version=version.version,
    )
    evidence = [
        MaskEvidence(
            batch.id,
            1,
            column.name,
            *otherwise.get(column.name, (column.mask.kind, column.mask.key_id)),
            5 if column.mask.changes_values else 0,
        )
        for column in contract.columns
        if column.name != without
    ]
    with shell.ledger.transaction() as tx:
        assert tx.insert_batch(batch)
        tx.insert_mask_evidence(evidence)
    return batch


# ---- masks -------------------------------------------------------------------------------------------------


def test_masks_tell_the_policy_and_what_was_really_masked(sources: Path) -> None:
    shell = Shell()
    version = enqueue(shell, contract_of(sources))
    first, last = read(shell, version), read(shell, version, hour=1)

    ended = shell.run("masks", "shop.customers", "--json")

    document = ended.document
    assert ended.exit_code == ExitCode.OK
    assert document["contract_version"] == 1
    assert {column["name"]: column["is_told_as"] for column in document["columns"]} == {
        "id": "keep",
        "email": "hmac of email, key k1",
        "born_on": "truncate to year",
        "income": "bucket of 1000",
        "notes": "redact",
        "secret": "drop",
        "updated_at": "keep",
    }
    assert {column["name"]: column["leaves_as"] for column in document["columns"]} == {
        "id": "int64",
        "email": "string",
        "born_on": "date",
        "income": "decimal(12,2)",
        "notes": "string",
        "secret": None,
        "updated_at": "timestamptz",
    }
    (email,) = (tally for tally in document["masked"] if tally["column"] == "email")
    assert email == {
        "contract_version": 1,
        "column": "email",
        "mask": "hmac",
        "key_id": "k1",
        "batch_count": 2,
        "masked_value_count": 10,
        "first_batch_id": first.id,
        "last_batch_id": last.id,
        "first_window_end": "2026-11-22T13:00:00Z",
        "last_window_end": "2026-11-22T14:00:00Z",
    }
    assert document["left_in_clear"] == ["id", "updated_at"]
    assert document["never_left"] == ["secret"]
    assert document["disagreements"] == []


def test_masks_are_told_to_people_too(sources: Path) -> None:
    shell = Shell()
    read(shell, enqueue(shell, contract_of(sources)))

    output = shell.run("masks", "customers").output

    assert "hmac of email, key k1" in output
    assert "free text" in output
    assert "left in clear: id, updated_at" in output


def test_a_table_that_was_not_read_yet_has_a_policy_and_no_evidence(sources: Path) -> None:
    shell = Shell()
    enqueue(shell, contract_of(sources))

    ended = shell.run("masks", "customers")

    assert ended.exit_code == ExitCode.OK
    assert "no batch was read yet" in ended.output


def test_a_column_that_was_once_kept_is_still_said_to_have_left_in_clear(sources: Path) -> None:
    shell = Shell()
    masked = contract_of(sources)
    (sources / "shop.yaml").write_text(SHOP.replace("{hmac: {domain: email, normalize: email}}", "keep"))
    read(shell, enqueue(shell, contract_of(sources)))
    read(shell, enqueue(shell, masked), hour=1)

    ended = shell.run("masks", "customers", "--json")

    assert ended.exit_code == ExitCode.OK
    assert ended.document["left_in_clear"] == ["email", "id", "updated_at"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"email": (MaskKind.KEEP, "")},
            "column 'email': expected hmac of email, key k1, found keep in 1 of 2",
        ),
        (
            {"email": (MaskKind.HMAC, "k0")},
            "column 'email': expected hmac of email, key k1, found hmac, key k0",
        ),
        ({"without": "secret"}, "column 'secret': expected evidence in each of 2 batches, found it in 1"),
    ],
)
def test_evidence_that_is_not_what_the_contract_says_is_a_problem(
    sources: Path, changes: dict[str, tuple[MaskKind, str]], told: str
) -> None:
    shell = Shell()
    version = enqueue(shell, contract_of(sources))
    read(shell, version)
    read(shell, version, hour=1, **changes)  # type: ignore[arg-type]

    ended = shell.run("masks", "customers", "--json")

    assert ended.exit_code == ExitCode.PROBLEM
    assert [text for text in ended.document["disagreements"] if told in text]


def test_a_column_that_the_contract_does_not_know_must_not_have_left(sources: Path) -> None:
    shell = Shell()
    version = enqueue(shell, contract_of(sources))
    batch = read(shell, version)
    with shell.ledger.transaction() as tx:
        tx.insert_mask_evidence(
            [
                MaskEvidence(batch.id, 1, "new", MaskKind.WITHHOLD, "", 0),
                MaskEvidence(batch.id, 1, "leaked", MaskKind.KEEP, "", 0),
            ]
        )

    ended = shell.run("masks", "customers", "--json")

    (told,) = ended.document["disagreements"]
    assert "'leaked': expected to be withheld" in told
    assert ended.document["never_left"] == ["new", "secret"]


def test_a_batch_that_is_read_again_after_a_replay_is_judged_by_what_it_is_read_under(sources: Path) -> None:
    shell = Shell()
    old = enqueue(shell, contract_of(sources))
    held = read(shell, old, state=BatchState.QUARANTINED)
    (sources / "shop.yaml").write_text(SHOP.replace("mask_key_id: k1", "mask_key_id: k9"))
    new = enqueue(shell, contract_of(sources))
    with shell.ledger.transaction() as tx:
        row = tx.batch(held.id, lock=True)
        assert row is not None
        tx.save_batch(replace(row, state=BatchState.PLANNED, contract_version=new.version))

    assert shell.run("masks", "customers").exit_code == ExitCode.OK


def test_a_table_that_nobody_knows_is_not_found() -> None:
    assert Shell().run("masks", "nowhere").exit_code == ExitCode.NOT_FOUND


# ---- mask rotate: begin ------------------------------------------------------------------------------------


def rotate(shell: Shell, sources: Path, *options: str, source: str = "shop") -> Ended:
    return shell.run("mask", "rotate", source, "--sources", str(sources), *options)


def begin(shell: Shell, sources: Path, *options: str) -> Ended:
    return rotate(shell, sources, "--to", "env:KEY_2", "--id", "k2", *options)


def test_a_rotation_writes_both_keys_into_the_file_and_leaves_the_rest_as_it_was(sources: Path) -> None:
    ended = begin(Shell(secrets=SECRETS), sources)

    assert ended.exit_code == ExitCode.OK
    assert (sources / "shop.yaml").read_text() == SHOP.replace(
        "mask_key: env:KEY_1   # of last year\nmask_key_id: k1\n",
        'mask_key: "env:KEY_2"   # of last year\nmask_key_id: k2\n'
        'previous_mask_key: "env:KEY_1"\nprevious_mask_key_id: k1\n',
    ).replace("{domain: device}", "{domain: device, key_id: k1}")


def test_while_keys_are_rotated_each_pseudonym_leaves_under_both(sources: Path) -> None:
    begin(Shell(secrets=SECRETS), sources)

    contract = contract_of(sources)

    new, old = contract.column("email"), contract.column("email__k1")
    assert contract.origin.mask_keys == {"k2": "env:KEY_2", "k1": "env:KEY_1"}
    assert (new.mask.key_id, old.mask.key_id, old.made_from) == ("k2", "k1", "email")
    assert replace(old.mask, key_id="k2") == new.mask
    assert contract.output_columns[-1] == old
    assert old not in contract.read_columns
    assert old.output_type == ColumnType.parse("string")


def test_the_key_by_which_a_merge_finds_rows_stays_under_the_old_one(sources: Path) -> None:
    begin(Shell(secrets=SECRETS), sources)

    contract = contract_of(sources, "devices")

    assert contract.column("serial").mask.key_id == "k1"
    assert [column.name for column in contract.columns if column.made_from] == ["owner__k1"]


def test_a_dry_run_changes_nothing_and_shows_everything(sources: Path) -> None:
    ended = begin(Shell(secrets=SECRETS), sources, "--dry-run")

    assert (sources / "shop.yaml").read_text() == SHOP
    assert '+mask_key: "env:KEY_2"' in ended.output
    assert "would be edited" in ended.errors
    assert "coalesce(COLUMN__k1, COLUMN)" in ended.errors


def test_a_rotation_is_told_as_json_too(sources: Path) -> None:
    document = begin(Shell(secrets=SECRETS), sources, "--json").document

    assert (document["source"], document["is_dry_run"]) == ("shop", False)
    assert "+previous_mask_key_id: k1" in document["diff"]
    assert any("devices.serial" in step for step in document["steps"])


def test_sources_that_share_the_key_are_named(sources: Path) -> None:
    (sources / "crm.yaml").write_text(SHOP.replace("name: shop", "name: crm"))

    assert "the key is that of crm too" in begin(Shell(secrets=SECRETS), sources).errors


@pytest.mark.parametrize(
    ("options", "told", "code"),
    [
        (["--to", "env:KEY_2", "--id", "k1"], "another id", ExitCode.PROBLEM),
        (["--to", "env:KEY_1", "--id", "k2"], "another key", ExitCode.PROBLEM),
        (["--to", "env:SHORT", "--id", "k2"], "at least 16 bytes", ExitCode.PROBLEM),
        (["--to", "env:ABSENT", "--id", "k2"], "nothing is there", ExitCode.CONFIGURATION),
        (["--to", "the key itself", "--id", "k2"], "expected", ExitCode.CONFIGURATION),
        (["--to", "env:KEY_2", "--id", "k 2"], "letters", ExitCode.CONFIGURATION),
        (["--to", "env:KEY_2"], "--id", ExitCode.CONFIGURATION),
        (["--finish", "--to", "env:KEY_2", "--id", "k2"], "--finish", ExitCode.CONFIGURATION),
        (["--to", "env:KEY_2", "--id", "k2", "--keep-old-rows"], "--finish", ExitCode.CONFIGURATION),
        ([], "--finish", ExitCode.CONFIGURATION),
        (["--finish"], "no rotation is under way", ExitCode.PROBLEM),
    ],
)
def test_what_cannot_be_rotated_leaves_the_file_alone(
    sources: Path, options: list[str], told: str, code: ExitCode
) -> None:
    ended = rotate(Shell(secrets=SECRETS), sources, *options)

    assert ended.exit_code == code
    assert told in ended.errors
    assert "the first key" not in ended.errors + ended.output
    assert (sources / "shop.yaml").read_text() == SHOP


def test_a_source_without_a_key_has_none_to_rotate(sources: Path) -> None:
    text = SHOP.replace("mask_key: env:KEY_1   # of last year\nmask_key_id: k1\n", "")
    for mask in ("{hmac: {domain: email, normalize: email}}", "{hmac: {domain: email}}"):
        text = text.replace(mask, "redact")
    (sources / "shop.yaml").write_text(text.replace("{hmac: {domain: device}}", "keep"))

    assert "no key to replace" in begin(Shell(secrets=SECRETS), sources).errors


def test_one_rotation_at_a_time(sources: Path) -> None:
    shell = Shell(secrets=SECRETS)
    begin(shell, sources)

    again = rotate(shell, sources, "--to", "env:KEY_2", "--id", "k3")

    assert again.exit_code == ExitCode.PROBLEM
    assert "end it with --finish" in again.errors


# ---- mask rotate: finish -----------------------------------------------------------------------------------


@pytest.fixture
def rotating(sources: Path) -> tuple[Shell, Path, ContractVersion, ContractVersion]:
    """A source whose keys are rotated, without a merge over pseudonyms, and the contracts before and now."""
    text = SHOP[: SHOP.index("  devices:")]
    (sources / "shop.yaml").write_text(text)
    shell = Shell(secrets=SECRETS)
    old = enqueue(shell, contract_of(sources))
    begin(shell, sources)
    return shell, sources, old, enqueue(shell, contract_of(sources))


Rotating = tuple[Shell, Path, ContractVersion, ContractVersion]


def test_a_rotation_ends_when_every_window_was_read_again(rotating: Rotating) -> None:
    shell, sources, old, new = rotating
    read(shell, old)
    read(shell, old, hour=1)
    read(shell, new, slot="again", hour=0)
    read(shell, new, slot="again, later", hour=1)
    read(shell, new, hour=2)

    ended = rotate(shell, sources, "--finish")

    text = (sources / "shop.yaml").read_text()
    assert ended.exit_code == ExitCode.OK
    assert 'mask_key: "env:KEY_2"   # of last year\nmask_key_id: k2\ntables:' in text
    assert [column.name for column in contract_of(sources).columns if column.made_from] == []


def test_rows_under_the_old_key_alone_keep_a_rotation_open(rotating: Rotating) -> None:
    shell, sources, old, new = rotating
    before = read(shell, old)
    read(shell, old, hour=1)
    read(shell, new, slot="again", hour=1)

    ended = rotate(shell, sources, "--finish", "--json")

    (customers,) = ended.document["tables"]
    assert ended.exit_code == ExitCode.PROBLEM
    assert ended.document["is_ready"] is False
    assert [batch["batch_id"] for batch in customers["unread"]] == [before.id]
    assert "previous_mask_key" in (sources / "shop.yaml").read_text()


def test_old_rows_may_be_left_as_they_are_on_purpose(rotating: Rotating) -> None:
    shell, sources, old, _ = rotating
    read(shell, old)

    ended = rotate(shell, sources, "--finish", "--keep-old-rows")

    assert ended.exit_code == ExitCode.OK
    assert "previous_mask_key" not in (sources / "shop.yaml").read_text()


@pytest.mark.parametrize(
    ("state", "told"),
    [(BatchState.PROCESSING, "on their way"), (BatchState.QUARANTINED, "a replay takes the new key")],
)
def test_batches_of_the_old_key_that_may_still_come_keep_a_rotation_open(
    rotating: Rotating, state: BatchState, told: str
) -> None:
    shell, sources, old, _ = rotating
    read(shell, old, state=state)

    ended = rotate(shell, sources, "--finish", "--keep-old-rows")

    assert ended.exit_code == ExitCode.PROBLEM
    assert told in ended.errors


def test_what_is_left_is_told_without_finishing(rotating: Rotating) -> None:
    shell, sources, old, new = rotating
    read(shell, old, state=BatchState.DISCARDED)
    read(shell, new, hour=1)

    ended = rotate(shell, sources, "--finish", "--dry-run")

    assert ended.exit_code == ExitCode.OK
    assert '-previous_mask_key: "env:KEY_1"' in ended.output
    assert "previous_mask_key" in (sources / "shop.yaml").read_text()


def test_a_mask_that_names_the_old_key_keeps_a_rotation_open(sources: Path) -> None:
    shell = Shell(secrets=SECRETS)
    begin(shell, sources)

    ended = rotate(shell, sources, "--finish")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "devices.serial names key_id k1" in ended.errors


# ---- what was read again -----------------------------------------------------------------------------------


def a_read(start: datetime | None, end: datetime, *, extent: Extent | None = None, slot: str = "x") -> Batch:
    return replace(a_batch(slot), window=Window(start, end), extent=extent)


def test_windows_of_other_bounds_that_touch_count_as_read_again(sources: Path) -> None:
    contract = contract_of(sources)
    old = [a_read(None, NOON), a_read(NOON, NOON + HOUR), a_read(NOON + HOUR, NOON + 3 * HOUR)]
    half = timedelta(minutes=30)

    new = [a_read(NOON + half, NOON + 2 * HOUR), a_read(NOON - HOUR, NOON + half)]

    assert unread_batches(contract, old=old, new=new) == [old[0], old[2]]


SPANS = st.tuples(st.none() | st.integers(0, 11), st.integers(1, 12)).filter(
    lambda bounds: bounds[0] is None or bounds[0] < bounds[1]
)


@given(SPANS, st.lists(SPANS, max_size=6))
def test_a_window_was_read_again_if_every_hour_of_it_was(
    old: tuple[int | None, int], new: list[tuple[int | None, int]]
) -> None:
    hours_read = {hour for low, high in new for hour in range(-1 if low is None else low, high)}
    contract = a_contract().contract

    unread = unread_batches(contract, old=[hours(*old)], new=[hours(*span) for span in new])

    assert bool(unread) == bool(set(range(-1 if old[0] is None else old[0], old[1])) - hours_read)


def hours(low: int | None, high: int) -> Batch:
    return a_read(None if low is None else NOON + low * HOUR, NOON + high * HOUR)


def test_parts_of_a_window_count_for_the_same_part_only(sources: Path) -> None:
    contract = contract_of(sources)
    low, high = Extent("id", None, "100"), Extent("id", "100", None)
    old = [a_read(None, NOON, extent=low), a_read(None, NOON, extent=high)]

    assert unread_batches(contract, old=old, new=[a_read(None, NOON, extent=low)]) == [old[1]]
    assert unread_batches(contract, old=old, new=[a_read(None, NOON)]) == []


def test_a_counting_cursor_is_compared_by_its_numbers(sources: Path) -> None:
    contract = contract_of(sources)
    assert contract.cursor is not None
    counting = replace(contract, cursor=replace(contract.cursor, column="id"))
    old = [
        a_read(None, NOON, extent=Extent("id", None, "1000")),
        a_read(NOON, NOON + HOUR, extent=Extent("id", "1000", "2000")),
    ]

    new = [a_read(NOON + HOUR, NOON + 2 * HOUR, extent=Extent("id", "0999", "2001"))]

    assert unread_batches(counting, old=old, new=new) == [old[0]]


def test_a_snapshot_replaces_all_that_was_before_it(sources: Path) -> None:
    contract = contract_of(sources)
    replaced = replace(contract, publishing=replace(contract.publishing, mode=PublishMode.REPLACE))
    old, new = a_read(None, NOON), a_read(None, NOON + HOUR)

    assert unread_batches(replaced, old=[old], new=[new]) == []
    assert unread_batches(replaced, old=[new], new=[old]) == [new]
