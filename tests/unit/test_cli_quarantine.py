"""The commands for what waits for a person: what they list, show, replay and give up, and what they never do."""

import hashlib
import json
import threading
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.commands import Ended, Shell
from support.ledger_rows import NOON, a_batch, a_contract, a_raw_file, add_batch
from support.ledgers import SteppingClock

from cli.moments import read_moment
from cli.output import ExitCode, NotDone
from cli.replays import Replays
from lambdas.cleaner.clean import clean_batch
from shared import lifecycle
from shared.contract_document import sha256_of
from shared.csv_dialect import header_line
from shared.domain.batches import Batch, BatchState, Stage
from shared.domain.contracts import ContractVersion, Publishing, PublishMode
from shared.domain.files import Area, DataFile, FileFormat, FileStatus, Location, rejects_key
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.windows import PlannedWindow, Window, slot_of
from shared.errors import Unavailable
from shared.ports import QueueName

SOURCE = """\
name: shop
kind: postgres
connection: {{dsn: "env:SHOP_DSN"}}
schedule: {{every: {every}, max_window: 1h, catch_up_limit: 4}}
tables:
  orders:
    relation: public.orders
    key: [id]
    cursor: {{column: updated_at, lag: 30s, overlap: 1m}}
    publish: {{mode: {mode}, target: both}}
    columns:
      id: {{type: int64, mask: keep, nullable: false}}
      updated_at: {{type: timestamptz, mask: keep, nullable: false}}
"""

SECRET = "+49 170 555 0199"
HOUR = timedelta(hours=1)


@dataclass
class House:
    """A fleet in memory, its source files, and ways to bring batches to where a person has to act."""

    sources: Path
    clock: SteppingClock = field(default_factory=SteppingClock)
    shell: Shell = field(init=False)

    def __post_init__(self) -> None:
        self.shell = Shell(clock=self.clock)

    def run(self, *arguments: str, typed: str | None = None) -> Ended:
        where = [] if arguments[0] in {"list", "show", "discard"} else ["--sources", str(self.sources)]
        return self.shell.run("quarantine", *arguments, *where, typed=typed)

    def declare(self, *, mode: str = "merge", every: str = "15m") -> None:
        """Write the source file; without it a replay takes the newest contract of the ledger."""
        self.sources.mkdir(exist_ok=True)
        (self.sources / "shop.yaml").write_text(SOURCE.format(mode=mode, every=every))

    def contract(self, table: str, source: str, mode: PublishMode = PublishMode.MERGE) -> ContractVersion:
        contract = replace(a_contract(table, source=source).contract, publishing=Publishing(mode))
        return ContractVersion(1, sha256_of(contract), contract)

    def hold(
        self,
        hour: int = 0,
        *,
        table: str = "orders",
        source: str = "shop",
        reason: Reason = Reason.COLUMN_MISSING,
        mode: PublishMode = PublishMode.MERGE,
    ) -> str:
        """Have the extractor refuse the batch of an hour."""
        contract = self.contract(table, source, mode)
        start = NOON + hour * HOUR
        planned = PlannedWindow(slot_of(start), Window(start, start + HOUR))
        with self.shell.ledger.transaction() as tx:
            tx.insert_contract(contract)
            lifecycle.plan(tx, contract, planned=planned, bucket=f"esclusa-{source}")
            (batch,) = [b for b in tx.batches(source=source, table=table) if b.slot == planned.slot]
            attempt = lifecycle.claim(
                tx, batch.id, Stage.EXTRACT, worker="w", lease=timedelta(minutes=1), retry=RetryPolicy(3)
            )
            assert attempt is not None
            lifecycle.refuse_attempt(tx, attempt, reason=reason, detail="gone")
            tx.mark_sent([entry.id for entry in tx.pending_messages(limit=100)])
        self.clock.advance(minutes=1)
        return batch.id

    def publish_with_rejects(
        self, slot: str = "initial", *, table: str = "orders", mode: PublishMode = PublishMode.MERGE
    ) -> Batch:
        """Have a published batch whose list of rejected rows lies in quarantine."""
        contract = self.contract(table, "shop", mode)
        batch = a_batch(
            slot,
            table=table,
            state=BatchState.PUBLISHED,
            attempts={Stage.EXTRACT: 1, Stage.PROCESS: 1, Stage.PUBLISH: 1},
            counts={"rows_rejected": 2},
            changed_at=self.clock.moment,
            configuration_sha256=contract.sha256,
            woken_at=None,
        )
        with self.shell.ledger.transaction() as tx:
            tx.insert_contract(contract)
            assert tx.insert_batch(batch)
            tx.insert_file(self.put_rejects(batch))
        return batch

    def put_rejects(self, batch: Batch, body: bytes | None = None, *, attempt: int = 1) -> DataFile:
        if body is None:
            body = (
                b"part,line,column,code,value\n"
                b"0,3,column_0,cell_not_convertible," + SECRET.encode() + b"\n"
                b'0,9,column_0,null_not_allowed,"two\nlines of ' + SECRET.encode() + b'"\n'
                b"1,12,column_0,null_key,\n"
            )
        key = rejects_key(table=batch.table, batch_id=batch.id, attempt=attempt)
        file = self.put(Location(batch.bucket, key), body)
        return DataFile(
            file, Area.QUARANTINE, FileFormat.REJECTS, batch.id, attempt, 0, 3, len(body), sha256(body),
            status=FileStatus.CORRECT,
        )  # fmt: skip

    def put(self, location: Location, body: bytes) -> Location:
        self.shell.store.put(location, body, sha256=sha256(body), metadata={})
        return location

    def set_aside(self, batch_id: str, body: bytes, *, part: int = 0) -> DataFile:
        """Have an object of a batch in quarantine."""
        batch = self.batch(batch_id)
        location = Location(
            batch.bucket, f"quarantine/tmp/orders/{batch.id}/a1/part-{part:05d}.csv@{'0c' * 8}"
        )
        file = a_raw_file(
            batch, Area.QUARANTINE, part=part, location=location, sha256=sha256(body), file_size_in_bytes=len(body)
        )  # fmt: skip
        self.put(location, body)
        with self.shell.ledger.transaction() as tx:
            assert tx.insert_file(file)
        return file

    def batch(self, batch_id: str) -> Batch:
        with self.shell.ledger.transaction() as tx:
            batch = tx.batch(batch_id)
        assert batch is not None
        return batch

    def state(self, batch_id: str) -> BatchState:
        return self.batch(batch_id).state


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "sources")


def ids(ended: Ended) -> list[str]:
    assert ended.exit_code == ExitCode.OK, ended.errors
    return [batch["batch_id"] for batch in ended.document["batches"]]


# ---- list --------------------------------------------------------------------------------------------------


def test_what_is_held_is_listed_the_last_held_first_with_its_reason_and_age(house: House) -> None:
    first, second = house.hold(0), house.hold(1, reason=Reason.NULL_CURSOR)
    house.set_aside(second, b"")

    document = house.run("list", "--json").document

    assert document["total_count"] == 2
    newest, oldest = document["batches"]
    assert (newest["batch_id"], newest["reason"], newest["objects_set_aside_count"]) == (
        second,
        "null_cursor",
        1,
    )
    assert (oldest["batch_id"], oldest["detail"], oldest["objects_set_aside_count"]) == (first, "gone", 0)
    assert oldest["age_seconds"] > newest["age_seconds"] >= 60
    text = house.run("list").output
    assert [line.split()[2] for line in text.splitlines()[1:]] == [second, first]


def test_a_batch_that_goes_on_is_not_listed(house: House) -> None:
    held = house.hold()
    house.run("replay", held)

    assert house.run("list", "--json").document["batches"] == []
    assert house.run("list").output == "nothing is held\n"


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--source", "shop"], {"orders", "items"}),
        (["--table", "orders"], {"orders", "crm's orders"}),
        (["--reason", "null_cursor"], {"items"}),
        (["--reason", "null_cursor", "--reason", "table_missing"], {"items", "crm's orders"}),
        (["--state", "failed"], set()),
        (["--since", "2026-11-22T12:01Z"], {"items", "crm's orders"}),
        (["--until", "2026-11-22T12:01:00+00:00"], {"orders"}),
        (["--since", "90s"], {"crm's orders"}),
        (["--source", "crm", "--reason", "null_cursor"], set()),
    ],
)
def test_a_list_is_narrowed_by_source_table_reason_state_and_time(
    house: House, filters: list[str], found: set[str]
) -> None:
    names = {
        house.hold(): "orders",
        house.hold(table="items", reason=Reason.NULL_CURSOR): "items",
        house.hold(source="crm", reason=Reason.TABLE_MISSING): "crm's orders",
    }

    listed = ids(house.run("list", *filters, "--json"))

    assert {names[batch] for batch in listed} == found


def test_a_list_that_is_cut_says_of_how_many(house: House) -> None:
    held = [house.hold(hour) for hour in range(3)]

    ended = house.run("list", "--limit", "2")
    document = house.run("list", "--limit", "2", "--json").document

    assert "these are 2 of 3" in ended.errors
    assert (document["total_count"], document["is_cut"]) == (3, True)
    assert [batch["batch_id"] for batch in document["batches"]] == held[:0:-1]


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "3w", "-1h", "0001-01-01T00:00+14:00"])
def test_what_is_no_moment_is_refused(house: House, text: str) -> None:
    ended = house.run("list", "--since", text)

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "expected a moment such as 2026-11-22" in ended.errors


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22", datetime.fromisoformat("2026-11-22T00:00+00:00")),
        ("2026-11-22T14:30+01:00", datetime.fromisoformat("2026-11-22T13:30+00:00")),
        ("36h", NOON - timedelta(hours=36)),
        ("99999d", NOON - timedelta(days=99999)),
    ],
)
def test_a_moment_is_a_time_or_an_age(text: str, moment: datetime) -> None:
    assert read_moment(text).seen_from(NOON) == moment


# ---- show --------------------------------------------------------------------------------------------------


def test_show_tells_why_a_batch_is_held_what_cures_it_and_what_lies_in_quarantine(house: House) -> None:
    held = house.hold()
    header = header_line(["column_0", "updated_at"])
    good, bad = house.set_aside(held, header + b"1\n"), house.set_aside(held, b"id;phone\n", part=1)

    document = house.run("show", held, "--json").document
    text = house.run("show", held).output

    assert (document["batch"]["reason"], document["batch"]["detail"]) == ("column_missing", "gone")
    assert document["cure"].endswith(f"esclusa quarantine replay {held}")
    assert [event["to_state"] for event in document["history"]] == ["planned", "extracting", "quarantined"]
    assert [attempt["reason"] for attempt in document["attempts"]] == ["column_missing"]
    assert document["header"] == ["column_0", "updated_at"]
    assert [(found["key"], found["sha256"], found["record_count"]) for found in document["objects"]] == [
        (file.location.key, file.sha256, 3) for file in (good, bad)
    ]
    for word in (held, good.location.key, bad.sha256, "column_missing", "esclusa quarantine replay"):
        assert word in text


def test_show_says_how_a_header_differs_without_a_word_that_may_be_a_value(house: House) -> None:
    held = house.hold()
    house.set_aside(held, f'"{SECRET}","ann@example.org"\n'.encode())

    ended = house.run("show", held)
    (found,) = house.run("show", held, "--json").document["objects"]

    assert found["header"] == {
        "is_as_declared": False,
        "missing_columns": ["column_0", "updated_at"],
        "unknown_column_count": 2,
        "error": None,
    }
    assert "lacks column_0, updated_at; 2 names that are not the contract's" in ended.output
    assert SECRET not in ended.output
    assert "ann@example.org" not in ended.output


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe\x00", b'"open quote ' + SECRET.encode() * 3, b"x" * 300_000]
)
def test_show_bears_any_object(house: House, body: bytes) -> None:
    held = house.hold()
    house.set_aside(held, body)

    ended = house.run("show", held)

    assert ended.exit_code == ExitCode.OK
    assert "lacks column_0" in ended.output
    assert SECRET not in ended.output


def test_show_goes_on_without_an_object_that_is_gone(house: House) -> None:
    held = house.hold()
    house.shell.store.delete(house.set_aside(held, b"").location)

    ended = house.run("show", held)

    assert ended.exit_code == ExitCode.OK
    assert "not read: " in ended.output


def test_rejected_rows_are_shown_by_place_and_reason_and_never_by_value(house: House) -> None:
    published = house.publish_with_rejects()

    document = house.run("show", published.id, "--rejects", "--json")
    text = house.run("show", published.id, "--rejects")

    assert document.document["rejected_cells"] == [
        {"part": 0, "line": 3, "column": "column_0", "code": "cell_not_convertible"},
        {"part": 0, "line": 9, "column": "column_0", "code": "null_not_allowed"},
        {"part": 1, "line": 12, "column": "column_0", "code": "null_key"},
    ]
    assert "cell_not_convertible" in text.output
    assert SECRET not in document.output + text.output + document.errors + text.errors


def test_of_many_rejected_cells_so_many_are_shown_and_it_is_said(house: House) -> None:
    published = house.publish_with_rejects()

    ended = house.run("show", published.id, "--rejects", "--limit", "2")
    document = house.run("show", published.id, "--rejects", "--limit", "2", "--json").document

    assert "there are more than 2 cells" in ended.errors
    assert (len(document["rejected_cells"]), document["is_cut"]) == (2, True)


@pytest.mark.parametrize(
    "body",
    [
        SECRET.encode() + b",1\n2,3\n",
        b"part,line,column,code,value\n0,1," + SECRET.encode() + b",null_key,x\n",
        b"part,line,column,code,value\n0," + SECRET.encode() + b",column_0,null_key,x\n",
        b"part,line,column,code,value\n0,1,column_0," + SECRET.encode() + b",x\n",
        b"part,line,column,code,value\n0,1\n",
        b"part,line,column,code,value\n0,1,column_0,null_key,\xff" + b"x" * 200_000 + SECRET.encode(),
    ],
)
def test_a_list_of_rejects_that_somebody_changed_is_refused_without_its_contents(
    house: House, body: bytes
) -> None:
    published = house.publish_with_rejects()
    with house.shell.ledger.transaction() as tx:
        (file,) = tx.files(batch_id=published.id)
    house.shell.store.delete(file.location)
    house.put(file.location, body)

    ended = house.run("show", published.id, "--rejects")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "expected a list of rejected rows" in ended.errors
    assert SECRET not in ended.output + ended.errors


def test_a_column_that_a_spreadsheet_takes_for_a_formula_is_shown_by_its_name(house: House) -> None:
    contract = a_contract().contract
    renamed = replace(contract, columns=(replace(contract.columns[0], name="=sum"),), key=("=sum",))
    batch = a_batch("formula", state=BatchState.PUBLISHED, attempts={Stage.PROCESS: 1})
    with house.shell.ledger.transaction() as tx:
        tx.insert_contract(ContractVersion(1, sha256_of(renamed), renamed))
        tx.insert_batch(batch)
        tx.insert_file(house.put_rejects(batch, b"part,line,column,code,value\n0,1,'=sum,null_key,\n"))

    (cell,) = house.run("show", batch.id, "--rejects", "--json").document["rejected_cells"]

    assert cell["column"] == "=sum"


# ---- replay ------------------------------------------------------------------------------------------------


def test_a_held_batch_goes_on_its_way_again(house: House) -> None:
    batch = house.hold()

    ended = house.run("replay", batch, "--note", "the column is back")

    assert ended.exit_code == ExitCode.OK
    with house.shell.ledger.transaction() as tx:
        event = tx.events(batch)[-1]
    assert (event.to_state, event.reason, event.actor, event.detail) == (
        BatchState.PLANNED,
        Reason.REPLAYED,
        "operator",
        "the column is back",
    )
    assert len(house.shell.queues.waiting(QueueName.EXTRACT)) == 1


def replayed(ended: Ended) -> dict[str, Any]:
    (found,) = ended.document["batches"]
    document: dict[str, Any] = found
    return document


def test_a_replay_takes_the_newest_contract_of_the_ledger(house: House) -> None:
    batch = house.hold()
    with house.shell.ledger.transaction() as tx:
        tx.insert_contract(a_contract(version=2))

    found = replayed(house.run("replay", batch, "--json"))

    assert (found["previous_contract_version"], found["contract_version"]) == (1, 2)


def test_a_replay_takes_the_contract_that_the_edited_file_has(house: House) -> None:
    batch = house.hold()
    house.declare()

    found = replayed(house.run("replay", batch, "--json"))

    assert (found["contract_version"], found["goes_on_from"]) == (2, "source")
    assert house.batch(batch).contract_version == 2
    with house.shell.ledger.transaction() as tx:
        names = [column.name for column in tx.contract("shop", "orders", 2).contract.columns]
    assert names == ["id", "updated_at"]


def test_a_batch_that_the_publisher_held_goes_on_from_its_committed_files(house: House) -> None:
    batch = house.hold()
    with house.shell.ledger.transaction() as tx:
        last = tx.events(batch)[-1]
        lifecycle.replay(tx, batch, contract=house.contract("orders", "shop"), detail="")
        states = [BatchState.EXTRACTING, BatchState.EXTRACTED, BatchState.ADMITTED, BatchState.STAGED]
        states += [BatchState.READY, BatchState.PROCESSING, BatchState.PROCESSED, BatchState.COMMITTED]
        before = BatchState.PLANNED
        for number, state in enumerate(
            [*states, BatchState.PUBLISHING, BatchState.FAILED], last.sequence + 2
        ):
            row = tx.batch(batch)
            assert row is not None
            tx.save_batch(replace(row, state=state, reason=Reason.ATTEMPTS_EXHAUSTED))
            tx.append_event(replace(last, sequence=number, from_state=before, to_state=state))
            before = state

    found = replayed(house.run("replay", batch, "--json"))

    assert (found["state"], found["goes_on_from"]) == ("committed", "committed_files")


def test_a_batch_whose_file_has_mistakes_is_not_replayed(house: House) -> None:
    batch = house.hold()
    house.declare(every="tomorrow")

    ended = house.run("replay", batch)

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "shop.yaml:4" in ended.errors
    assert house.state(batch) is BatchState.QUARANTINED


def test_a_batch_that_is_not_held_is_not_replayed(house: House) -> None:
    batch = house.hold()
    house.run("replay", batch)

    ended = house.run("replay", batch)

    assert ended.exit_code == ExitCode.PROBLEM
    assert "found planned" in ended.errors


def test_one_batch_that_is_unknown_keeps_no_other_from_its_replay(house: House) -> None:
    batch = house.hold()

    ended = house.run("replay", "b0", batch, "--yes", "--json")

    assert ended.exit_code == ExitCode.NOT_FOUND
    unknown, found = ended.document["batches"]
    assert unknown["state"] is None
    assert "'b0'" in unknown["error"]
    assert (found["batch_id"], found["state"], found["error"]) == (batch, "planned", None)


def test_a_dry_run_tells_what_a_replay_would_do_and_does_nothing(house: House) -> None:
    batch = house.hold()
    house.declare()
    before = house.batch(batch)

    found = replayed(house.run("replay", batch, "--dry-run", "--json"))

    assert (found["state"], found["goes_on_from"], found["contract_version"]) == ("planned", "source", 2)
    assert house.batch(batch) == before
    with house.shell.ledger.transaction() as tx:
        latest = tx.latest_contract("shop", "orders")
        assert latest is not None
        assert latest.version == 1
        assert tx.pending_message_count() == 0
    assert not house.shell.queues.waiting(QueueName.EXTRACT)


def test_a_replay_of_many_needs_a_filter_or_ids_and_not_both(house: House) -> None:
    batch = house.hold()

    for arguments in ([], [batch, "--source", "shop"], ["--yes"], ["--limit", "3"]):
        ended = house.run("replay", *arguments)

        assert ended.exit_code == ExitCode.CONFIGURATION, arguments
        assert "expected either ids of batches or an option that chooses" in " ".join(ended.errors.split())
        assert house.state(batch) is BatchState.QUARANTINED


def test_more_than_one_is_replayed_only_if_their_number_is_typed(house: House) -> None:
    held = [house.hold(hour) for hour in range(3)]

    refused = house.run("replay", "--source", "shop", typed="y\n")
    unanswered = house.run("replay", "--source", "shop", typed="")

    assert {refused.exit_code, unanswered.exit_code} == {ExitCode.PROBLEM}
    assert "nothing was changed" in refused.errors
    assert {house.state(batch) for batch in held} == {BatchState.QUARANTINED}
    assert ids(house.run("replay", "--source", "shop", "--json", typed="3\n")) == held
    assert {house.state(batch) for batch in held} == {BatchState.PLANNED}


def test_a_script_replays_what_fits_the_first_held_first_and_no_more_than_it_says(house: House) -> None:
    held = [house.hold(hour) for hour in range(3)]
    other = house.hold(3, reason=Reason.NULL_CURSOR)

    done = house.run("replay", "--reason", "column_missing", "--limit", "2", "--yes", "--json")

    assert ids(done) == held[:2]
    assert house.state(held[2]) is house.state(other) is BatchState.QUARANTINED
    assert len(house.shell.queues.waiting(QueueName.EXTRACT)) == 2


def test_a_filter_that_nothing_fits_is_no_error(house: House) -> None:
    ended = house.run("replay", "--source", "nobody", "--yes")

    assert (ended.exit_code, ended.output) == (ExitCode.OK, "nothing was replayed\n")


def test_an_overtaken_snapshot_is_said_to_end_superseded(house: House) -> None:
    old = house.hold(0, mode=PublishMode.REPLACE)
    start = NOON + HOUR
    with house.shell.ledger.transaction() as tx:
        add_batch(
            tx,
            a_batch("newer", state=BatchState.PUBLISHED, window=Window(None, start + HOUR), planned_at=start),
        )

    found = replayed(house.run("replay", old, "--json"))

    assert "this one will end superseded" in found["remark"]


def test_of_two_operators_who_replay_at_once_one_does_and_the_other_hears_of_it(house: House) -> None:
    batch = house.hold()
    start = threading.Barrier(2)
    endings: list[Ended] = []

    def operate() -> None:
        start.wait(timeout=10)
        try:
            Replays(house.shell.ledger, None).replay(batch)
            endings.append(Ended(0, "", ""))
        except NotDone as error:
            endings.append(Ended(1, "", str(error)))

    operators = [threading.Thread(target=operate) for _ in range(2)]
    for operator in operators:
        operator.start()
    for operator in operators:
        operator.join(timeout=10)

    assert sorted(ended.exit_code for ended in endings) == [0, 1]
    assert "found planned" in "".join(ended.errors for ended in endings)
    with house.shell.ledger.transaction() as tx:
        assert [event.reason for event in tx.events(batch)].count(Reason.REPLAYED) == 1


def test_with_the_ledger_away_the_rest_is_not_tried_and_it_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [house.hold(hour) for hour in range(3)]
    really = lifecycle.replay
    calls: list[str] = []

    def replay_once(tx: Any, batch_id: str, **arguments: Any) -> Any:
        calls.append(batch_id)
        if len(calls) == 2:
            raise Unavailable("ledger: nobody answers")
        return really(tx, batch_id, **arguments)

    monkeypatch.setattr(lifecycle, "replay", replay_once)

    ended = house.run("replay", *held, "--yes")

    assert ended.exit_code == ExitCode.UNAVAILABLE
    assert calls == held[:2]
    assert "not tried: 1 more" in ended.errors
    assert len(house.shell.queues.waiting(QueueName.EXTRACT)) == 1


# ---- rejected rows -----------------------------------------------------------------------------------------


def test_published_batches_with_rejected_rows_are_listed(house: House) -> None:
    published = house.publish_with_rejects()
    house.hold()

    (found,) = house.run("list", "--rejects", "--json").document["batches"]

    assert (found["batch_id"], found["rows_rejected"], found["readings"]) == (published.id, 2, [])
    assert [file["format"] for file in found["files"]] == ["rejects"]
    assert published.id in house.run("list", "--rejects").output


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (["--source", "shop"], 1),
        (["--source", "crm"], 0),
        (["--table", "items"], 0),
        (["--since", "1h"], 1),
        (["--until", "1h"], 0),
    ],
)
def test_they_are_narrowed_by_source_table_and_time(house: House, filters: list[str], count: int) -> None:
    house.publish_with_rejects()

    assert len(ids(house.run("list", "--rejects", *filters, "--json"))) == count


def test_they_have_no_reason_and_no_state_to_choose_by(house: House) -> None:
    for filters in (["--reason", "null_key"], ["--state", "failed"]):
        assert house.run("list", "--rejects", *filters).exit_code == ExitCode.CONFIGURATION


def test_rejected_rows_of_a_merged_table_are_read_again_by_another_batch(house: House) -> None:
    published = house.publish_with_rejects()
    house.declare()

    found = replayed(house.run("replay", published.id, "--rejects", "--note", "cured", "--json"))

    again = house.batch(found["planned_batch_id"])
    assert (again.slot, again.window, again.contract_version) == ("initial rejects 1", published.window, 2)
    assert house.batch(published.id) == published
    assert len(house.shell.queues.waiting(QueueName.EXTRACT)) == 1
    (listed,) = house.run("list", "--rejects", "--json").document["batches"]
    assert [reading["batch_id"] for reading in listed["readings"]] == [again.id]


def test_while_they_are_read_again_no_second_reading_is_planned(house: House) -> None:
    published = house.publish_with_rejects()
    house.run("replay", published.id, "--rejects")

    ended = house.run("replay", published.id, "--rejects")
    by_filter = house.run("replay", "--rejects", "--source", "shop", "--json")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "reads its rejected rows already, and is planned; wait for it" in ended.errors
    assert ids(by_filter) == []


def test_once_their_window_was_published_again_they_are_listed_no_more(house: House) -> None:
    published = house.publish_with_rejects()
    with house.shell.ledger.transaction() as tx:
        add_batch(tx, a_batch("initial rejects 1", state=BatchState.PUBLISHED))

    assert ids(house.run("list", "--rejects", "--json")) == []
    shown = house.run("show", published.id, "--json").document
    assert [reading["state"] for reading in shown["readings"]] == ["published"]


def test_rows_of_a_table_that_is_appended_to_are_not_read_again_for_they_would_be_doubled(
    house: House,
) -> None:
    published = house.publish_with_rejects(mode=PublishMode.APPEND)

    ended = house.run("replay", published.id, "--rejects")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "would double the rows that did arrive" in ended.errors
    assert "cursor 'updated_at' moves" in ended.errors
    with house.shell.ledger.transaction() as tx:
        assert len(tx.batches()) == 1


def test_rows_of_a_snapshot_come_with_the_next_one(house: House) -> None:
    published = house.publish_with_rejects(mode=PublishMode.REPLACE)

    ended = house.run("replay", published.id, "--rejects")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "after the cure the next one brings the rows" in ended.errors


def test_a_held_batch_has_no_rejects_of_its_own_to_replay(house: House) -> None:
    held = house.hold()

    for command in ("replay", "discard"):
        more = ["--because", "x"] if command == "discard" else []
        ended = house.run(command, held, "--rejects", *more)

        assert ended.exit_code == ExitCode.PROBLEM
        assert "leave out --rejects" in ended.errors


def test_rejected_rows_are_given_up_and_the_cleaner_deletes_the_list_of_them(house: House) -> None:
    published = house.publish_with_rejects()

    ended = house.run(
        "discard", published.id, "--rejects", "--because", "test rows", typed=f"{published.id}\n"
    )

    assert ended.exit_code == ExitCode.OK, ended.errors
    assert "2 rows; 1 objects" in ended.errors
    assert ids(house.run("list", "--rejects", "--json")) == []
    assert len(house.shell.queues.waiting(QueueName.CLEAN)) == 1
    assert clean_batch(published.id, ledger=house.shell.ledger, store=house.shell.store) == 1
    assert list(house.shell.store.list("esclusa-shop", "")) == []
    with house.shell.ledger.transaction() as tx:
        (file,) = tx.files(batch_id=published.id)
    assert file.deleted_at is not None
    assert (file.reason, file.detail) == (Reason.DISCARDED, "test rows")
    assert house.batch(published.id) == published


# ---- discard -----------------------------------------------------------------------------------------------


def test_a_batch_is_given_up_only_if_its_id_is_typed(house: House) -> None:
    held = house.hold()
    file = house.set_aside(held, b"abc")

    refused = house.run("discard", held, "--because", "a test", typed="yes\n")
    done = house.run("discard", held, "--because", "a test", "--json", typed=f"{held}\n")

    assert refused.exit_code == ExitCode.PROBLEM
    assert (
        "2026-11-22T12:00:00Z to 2026-11-22T13:00:00Z: rows nobody counted; 1 objects (3 bytes)"
        in refused.errors
    )
    assert "nothing was changed" in refused.errors
    assert done.exit_code == ExitCode.OK
    (document,) = done.document["batches"]
    assert (document["state"], document["object_count"], document["size_in_bytes"]) == ("discarded", 1, 3)
    with house.shell.ledger.transaction() as tx:
        event = tx.events(held)[-1]
    assert (event.to_state, event.actor, event.detail) == (BatchState.DISCARDED, "operator", "a test")
    assert clean_batch(held, ledger=house.shell.ledger, store=house.shell.store) == 1
    assert house.shell.store.head(file.location) is None


def test_several_are_given_up_if_their_number_is_typed(house: House) -> None:
    held = [house.hold(hour) for hour in range(2)]
    other = house.hold(2, reason=Reason.NULL_CURSOR)

    refused = house.run("discard", "--reason", "column_missing", "--because", "x", typed=f"{held[0]}\n")
    done = house.run("discard", "--reason", "column_missing", "--because", "x", "--json", typed="2\n")

    assert refused.exit_code == ExitCode.PROBLEM
    assert ids(done) == held
    assert "2 batches; 0 objects (0 bytes) will be deleted" in done.errors
    assert "not tried" not in done.errors
    assert [house.state(batch) for batch in (*held, other)] == [
        BatchState.DISCARDED,
        BatchState.DISCARDED,
        BatchState.QUARANTINED,
    ]


def test_a_script_gives_up_without_being_asked(house: House) -> None:
    held = house.hold()

    ended = house.run("discard", held, "--because", "x", "--yes", typed="")

    assert ended.exit_code == ExitCode.OK
    assert house.state(held) is BatchState.DISCARDED


@pytest.mark.parametrize("arguments", [[], ["--because", " "]])
def test_nothing_is_given_up_without_a_word_why(house: House, arguments: list[str]) -> None:
    held = house.hold()

    ended = house.run("discard", held, "--yes", *arguments)

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert house.state(held) is BatchState.QUARANTINED


def test_giving_up_a_snapshot_loses_nothing(house: House) -> None:
    held = house.hold(mode=PublishMode.REPLACE)

    ended = house.run("discard", held, "--because", "x", "--yes")

    assert "nothing: the next snapshot holds all rows" in ended.output


def test_what_is_not_held_is_not_given_up(house: House) -> None:
    published, held = house.publish_with_rejects(), house.hold()

    ended = house.run("discard", published.id, "b0", held, "--because", "x", "--yes", "--json")

    assert ended.exit_code == ExitCode.NOT_FOUND
    assert "only a batch that is held can be discarded" in ended.errors
    assert house.batch(published.id) == published
    assert house.state(held) is BatchState.DISCARDED
    assert [batch["batch_id"] for batch in ended.document["batches"]] == [held, published.id, "b0"]


def test_a_batch_that_is_given_up_does_not_hold_up_its_table(house: House) -> None:
    held = house.hold()
    with house.shell.ledger.transaction() as tx:
        tx.set_watermark("shop", "orders", NOON + HOUR)

    house.run("discard", held, "--because", "x", "--yes")

    with house.shell.ledger.transaction() as tx:
        (progress,) = tx.table_progress()
    assert progress.published_until == NOON + HOUR


def test_a_batch_given_up_while_the_cleaner_sets_it_aside_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = house.hold()
    batch = house.batch(held)
    body = b"abc"
    file = a_raw_file(batch, Area.TMP, sha256=sha256(body), file_size_in_bytes=len(body))
    house.put(file.location, body)
    with house.shell.ledger.transaction() as tx:
        tx.insert_file(file)
    really = house.shell.store.copy

    def copy_and_be_overtaken(*arguments: Any, **more: Any) -> None:
        really(*arguments, **more)
        house.run("discard", held, "--because", "x", "--yes")
        clean_batch(held, ledger=house.shell.ledger, store=house.shell.store)

    with monkeypatch.context() as patch:
        patch.setattr(house.shell.store, "copy", copy_and_be_overtaken)
        clean_batch(held, ledger=house.shell.ledger, store=house.shell.store)
    with house.shell.ledger.transaction() as tx:
        left = tx.batches_with_leftovers(limit=10)
    for batch in left:
        clean_batch(batch.id, ledger=house.shell.ledger, store=house.shell.store)

    assert list(house.shell.store.list("esclusa-shop", "")) == []
    with house.shell.ledger.transaction() as tx:
        assert tx.files(batch_id=held, present_only=True) == []


# ---- hostile input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["nonsense", "s3://b/k", "b" * 5000, "'; DROP TABLE batch --", "%", "🙂", "\x1b[2J"]
)
def test_an_id_of_any_form_is_looked_for_and_not_found(house: House, target: str) -> None:
    house.hold()

    for arguments in (["show", target], ["replay", target], ["discard", target, "--because", "x", "--yes"]):
        ended = house.run(*arguments)

        assert ended.exit_code == ExitCode.NOT_FOUND, arguments
        assert "\x1b" not in ended.output + ended.errors


def test_every_document_is_json_without_control_characters(house: House) -> None:
    held = house.hold(table="\x1b[2Jorders")

    for arguments in (
        ["list"],
        ["show", held],
        ["replay", held, "--dry-run"],
        ["discard", held, "--because", "x", "--yes"],
    ):
        ended = house.run(*arguments, "--json")

        assert json.loads(ended.output), arguments
        assert "\x1b" not in ended.output
