"""The commands that look into queues and put them in order: queues, peek, redrive, purge."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.commands import QueuesAway, Shell
from support.ledger_rows import BUCKET, a_batch, a_foreign_file, a_raw_file, add_batch

from cli.output import ExitCode
from cli.queues import MEANINGS, content_of
from shared.dead_letters import Standing
from shared.domain.batches import Batch, BatchState
from shared.domain.files import Area, FileStatus
from shared.domain.reasons import Reason
from shared.errors import Unavailable
from shared.lifecycle import messages_for
from shared.messages import (
    EXTRACT_TASK,
    PROCESS_TASK,
    clean_message,
    gate_message,
    set_aside_message,
    task_message,
)
from shared.ports import OutboxMessage, QueueName, SeenMessage
from shared.queues.memory import MemoryQueues

ATTACK = "\x1b[2J\u202e[red]"


@pytest.fixture
def shell() -> Shell:
    shell = Shell()
    shell.queues = MemoryQueues(max_receive_count=1, clock=shell.clock)
    return shell


def keep(shell: Shell, batch: Batch) -> Batch:
    """Put a batch into the ledger."""
    with shell.ledger.transaction() as tx:
        return add_batch(tx, batch)


def extract_task(batch_id: str) -> str:
    return task_message(EXTRACT_TASK, {"batch_id": batch_id}, queue="extract", task_id=f"{batch_id}-extract")


def let_die(shell: Shell, *bodies: str, queue: QueueName = QueueName.EXTRACT) -> None:
    for body in bodies:
        shell.queues.send([OutboxMessage(queue, body, "shop")])
        shell.queues.release(shell.queues.receive(queue, -1))


def bodies(messages: Any) -> list[str]:
    return [queued.message.body for queued in messages]


def waiting_batch(slot: str = "waiting", **changes: Any) -> Batch:
    return a_batch(slot, state=BatchState.PLANNED, **changes)


def published_batch(slot: str = "published") -> Batch:
    return a_batch(slot, state=BatchState.PUBLISHED)


def fill_with_one_of_each(shell: Shell) -> dict[Standing, str]:
    """Let a message of each standing die in the extract queue; return their bodies."""
    letters = {
        Standing.WAITING: extract_task(keep(shell, waiting_batch()).id),
        Standing.MOVED_ON: extract_task(keep(shell, a_batch("ready", state=BatchState.READY)).id),
        Standing.AT_REST: extract_task(keep(shell, published_batch()).id),
        Standing.UNKNOWN_BATCH: extract_task("b" + "0" * 24),
        Standing.MALFORMED: "hello",
    }
    let_die(shell, *letters.values())
    return letters


# ---- queues ------------------------------------------------------------------------------------------------


def test_queues_are_shown_with_their_dead_letters_and_ages(shell: Shell) -> None:
    (awaited,) = messages_for(keep(shell, waiting_batch()))
    let_die(shell, awaited.body)
    shell.clock.advance(minutes=5)
    shell.queues.send([awaited])
    shell.clock.advance(minutes=1)

    document = shell.run("queues", "--json").document

    assert [line["queue"] for line in document["queues"]] == list(QueueName)
    assert document["queues"][0] == {
        "queue": "extract",
        "visible": 1,
        "in_flight": 0,
        "delayed": 0,
        "oldest_age_seconds": 60,
        "oldest_age_from": "cloudwatch",
        "dead_letters": 1,
        "dead_letters_oldest_age_seconds": 360,
        "dead_letters_oldest_age_from": "cloudwatch",
        "error": None,
    }
    assert document["queues"][1]["oldest_age_seconds"] is None


class Unmeasured(MemoryQueues):
    """Queues of which nobody measures ages."""

    def oldest_ages(self, *, dead_letters: bool = False) -> dict[QueueName, timedelta]:
        return {}


def test_an_age_that_nobody_measured_is_told_by_the_batch_that_waits_longest_and_by_the_dead_letters(
    shell: Shell,
) -> None:
    shell.queues = Unmeasured(max_receive_count=1, clock=shell.clock)
    keep(shell, waiting_batch())
    let_die(shell, "hello")
    shell.clock.advance(minutes=7)
    shell.queues.send([OutboxMessage(QueueName.EXTRACT, "x", "shop")])

    line = shell.run("queues", "--json").document["queues"][0]
    (shown,) = [text for text in shell.run("queues").output.splitlines() if text.startswith("extract")]

    assert (line["oldest_age_seconds"], line["oldest_age_from"]) == (420, "ledger")
    assert (line["dead_letters_oldest_age_seconds"], line["dead_letters_oldest_age_from"]) == (
        420,
        "messages",
    )
    assert "7m00s (ledger)" in shown
    assert shell.queues.depth(QueueName.EXTRACT, dead_letters=True).visible == 1


def test_an_age_that_nobody_knows_is_unknown_and_never_a_number(shell: Shell) -> None:
    shell.queues = Unmeasured(clock=shell.clock)
    shell.queues.send([OutboxMessage(QueueName.CLEAN, "x", "shop")])

    line = shell.run("queues", "--json").document["queues"][-1]

    assert (line["queue"], line["oldest_age_seconds"], line["oldest_age_from"]) == ("clean", None, None)
    assert "unknown" in shell.run("queues").output


def test_dead_letters_that_may_be_counted_and_not_read_are_of_unknown_age(shell: Shell) -> None:
    class Unreadable(Unmeasured):
        def look(self, *_: Any, **__: Any) -> Any:
            raise Unavailable("queue extract: AccessDenied")

    shell.queues = Unreadable(max_receive_count=1, clock=shell.clock)
    let_die(shell, "hello")

    ended = shell.run("queues", "--json")

    assert ended.exit_code == ExitCode.OK
    assert ended.document["queues"][0]["dead_letters"] == 1
    assert ended.document["queues"][0]["dead_letters_oldest_age_seconds"] is None


def test_an_empty_queue_has_no_age_whatever_waits(shell: Shell) -> None:
    shell.queues = Unmeasured(clock=shell.clock)
    keep(shell, waiting_batch())
    shell.clock.advance(minutes=7)

    assert shell.run("queues", "--json").document["queues"][0]["oldest_age_seconds"] is None


def test_a_queue_that_does_not_answer_is_told_and_the_others_are_shown() -> None:
    shell = Shell(queues=QueuesAway(Unavailable("queue extract: nobody answers")))

    ended = shell.run("queues", "--json")

    assert ended.exit_code == ExitCode.UNAVAILABLE
    assert len(ended.document["queues"]) == len(QueueName)
    assert ended.document["queues"][0]["error"] == "queue extract: nobody answers"
    assert "nobody answers" in ended.errors


# ---- peek --------------------------------------------------------------------------------------------------


def test_dead_letters_are_shown_with_their_batch_and_stay_where_they_are(shell: Shell) -> None:
    batch = keep(shell, waiting_batch(reason=Reason.ATTEMPT_FAILED, detail="the source said no"))
    let_die(shell, extract_task(batch.id))

    document = shell.run("peek", "extract", "--dead", "--json").document

    (message,) = document["messages"]
    assert (document["queue"], document["is_dead"]) == ("extract", True)
    assert json.loads(message["body"]) == message["content"]
    assert message["content"]["body"] == [[], {"batch_id": batch.id}, {}]
    assert message["standing"] == "waiting"
    assert message["batch"]["id"] == batch.id
    assert (message["batch"]["state"], message["batch"]["reason"]) == ("planned", "attempt_failed")
    assert message["batch"]["next"]
    assert shell.queues.depth(QueueName.EXTRACT, dead_letters=True).visible == 1


def test_messages_are_readable_for_people(shell: Shell) -> None:
    batch = keep(shell, waiting_batch(reason=Reason.ATTEMPT_FAILED))
    let_die(shell, extract_task(batch.id))

    lines = shell.run("peek", "extract", "--dead").output.splitlines()

    assert f"batch:         {batch.id} of shop.orders" in lines
    assert "reason:        attempt_failed" in lines
    assert f'      "batch_id": "{batch.id}"' in lines


def test_no_more_dead_letters_are_shown_than_asked_for(shell: Shell) -> None:
    let_die(shell, *(f"letter {number}" for number in range(25)))

    ended = shell.run("peek", "extract", "--dead", "--limit", "12", "--json")

    assert len(ended.document["messages"]) == 12
    assert "raise --limit" in shell.run("peek", "extract", "--dead", "--limit", "12").errors
    assert shell.queues.depth(QueueName.EXTRACT, dead_letters=True).visible == 25


@pytest.mark.parametrize(
    "body",
    [
        "hello",
        "",
        "null",
        "[1, 2]",
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 10_000 + "}",
        "[" * 50_000,
        '{"a": ' * 500 + "1" + "}" * 500,
        '{"a": "\\ud800"}',
        '{"a": "\\u001b[2J\\u202e"}',
        ATTACK,
        json.dumps({"x": "y" * 200_000}),
    ],
    ids=str,
)
@pytest.mark.parametrize("queue", [QueueName.EXTRACT, QueueName.GATE_TMP, QueueName.CLEAN])
def test_whatever_somebody_wrote_is_shown_and_moves_no_cursor(
    shell: Shell, queue: QueueName, body: str
) -> None:
    let_die(shell, body, queue=queue)

    shown = shell.run("peek", queue, "--dead")
    document = shell.run("peek", queue, "--dead", "--json").document

    assert shown.exit_code == ExitCode.OK
    assert "standing:      malformed" in shown.output
    assert "\x1b" not in shown.output
    assert "\u202e" not in shown.output
    assert document["messages"][0]["body"] == body
    assert document["messages"][0]["objection"]


@pytest.mark.parametrize("body", ['{"a": 1.10}', '{"a": 1e999}', '{"a": 1, "a": 2}', '{"a": NaN}', "[1]"])
def test_a_body_is_shown_as_json_only_if_nothing_of_it_is_lost_by_that(body: str) -> None:
    assert content_of('{"a": [1, null, "x"]}') == {"a": [1, None, "x"]}
    assert content_of(body) is None


@pytest.mark.parametrize("body", ["x" * 50_000, json.dumps({"x": "y" * 50_000})])
def test_a_long_body_is_cut_for_people_and_whole_for_programs(shell: Shell, body: str) -> None:
    let_die(shell, body)

    shown = shell.run("peek", "extract", "--dead").output

    assert len(shown) < 5_000
    assert "--json shows all" in shown
    assert shell.run("peek", "extract", "--dead", "--json").document["messages"][0]["body"] == body


def test_a_live_queue_is_not_looked_into_and_what_waits_for_it_is_shown(shell: Shell) -> None:
    batch = keep(shell, waiting_batch())
    keep(shell, published_batch())
    shell.queues.send(messages_for(batch))
    with shell.ledger.transaction() as tx:
        tx.post(OutboxMessage(QueueName.EXTRACT, extract_task(batch.id), "shop"))
        tx.post(OutboxMessage(QueueName.PROCESS, "for another queue", "shop"))

    ended = shell.run("peek", "extract")
    document = shell.run("peek", "extract", "--json").document

    assert "was not looked into" in ended.errors
    assert batch.id in ended.output
    assert [row["id"] for row in document["waiting_batches"]] == [batch.id]
    assert [row["body"] for row in document["outbox"]] == [extract_task(batch.id)]
    assert document["is_received"] is False
    assert [queued.receive_count for queued in shell.queues.waiting(QueueName.EXTRACT)] == [0]


def test_the_cleaners_queue_is_shown_by_the_batches_with_leftovers(shell: Shell) -> None:
    batch = keep(shell, published_batch())
    with shell.ledger.transaction() as tx:
        tx.insert_file(a_raw_file(batch))

    document = shell.run("peek", "clean", "--json").document

    assert [row["id"] for row in document["waiting_batches"]] == [batch.id]


def test_who_insists_looks_into_a_live_queue_and_is_told_the_price(shell: Shell) -> None:
    shell.queues = MemoryQueues(max_receive_count=5, clock=shell.clock)
    batch = keep(shell, waiting_batch())
    shell.queues.send(messages_for(batch))

    ended = shell.run("peek", "extract", "--receive")

    assert batch.id in ended.output
    assert "lost one of its deliveries" in ended.errors
    assert [queued.receive_count for queued in shell.queues.waiting(QueueName.EXTRACT)] == [1]


def test_a_queue_that_is_none_is_a_usage_error(shell: Shell) -> None:
    for command in ("peek", "redrive", "purge"):
        assert shell.run(command, "attic").exit_code == ExitCode.CONFIGURATION


# ---- what a message is worth -------------------------------------------------------------------------------


def s3_event(key: str) -> str:
    record = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": BUCKET}, "object": {"key": key, "size": 1}},
    }
    return json.dumps({"Records": [record]})


def in_ledger(shell: Shell, batch: Batch, **file_changes: Any) -> str:
    """Put a batch with a file into the ledger and return the file's key."""
    keep(shell, batch)
    file = a_raw_file(batch, **file_changes)
    with shell.ledger.transaction() as tx:
        tx.insert_file(file)
    return file.location.key


STANDINGS: dict[str, tuple[QueueName, Callable[[Shell], str], Standing]] = {
    "a batch the stage waits for": (
        QueueName.EXTRACT,
        lambda shell: extract_task(keep(shell, waiting_batch()).id),
        Standing.WAITING,
    ),
    "a batch at work": (
        QueueName.EXTRACT,
        lambda shell: extract_task(keep(shell, a_batch(state=BatchState.EXTRACTING)).id),
        Standing.MOVED_ON,
    ),
    "a batch that is held": (
        QueueName.EXTRACT,
        lambda shell: extract_task(keep(shell, a_batch(state=BatchState.QUARANTINED)).id),
        Standing.AT_REST,
    ),
    "a task of another worker": (
        QueueName.EXTRACT,
        lambda _: task_message(PROCESS_TASK, {"batch_id": "b1"}, queue="process", task_id="b1"),
        Standing.MALFORMED,
    ),
    "a batch before its gate": (
        QueueName.GATE_TMP,
        lambda shell: gate_message(keep(shell, a_batch(state=BatchState.EXTRACTED)).id, Area.TMP),
        Standing.WAITING,
    ),
    "a batch past its gate": (
        QueueName.GATE_TMP,
        lambda shell: gate_message(keep(shell, a_batch(state=BatchState.READY)).id, Area.TMP),
        Standing.MOVED_ON,
    ),
    "another gate": (QueueName.GATE_TMP, lambda _: gate_message("b1", Area.INPUT), Standing.MALFORMED),
    "S3's test event": (QueueName.GATE_TMP, lambda _: '{"Event": "s3:TestEvent"}', Standing.AT_REST),
    "an object to check": (
        QueueName.GATE_TMP,
        lambda shell: s3_event(in_ledger(shell, a_batch(state=BatchState.EXTRACTED))),
        Standing.WAITING,
    ),
    "an object that was checked": (
        QueueName.GATE_TMP,
        lambda shell: s3_event(
            in_ledger(shell, a_batch(state=BatchState.ADMITTED), status=FileStatus.CORRECT)
        ),
        Standing.MOVED_ON,
    ),
    "an object that its writer has not recorded": (
        QueueName.GATE_TMP,
        lambda shell: s3_event(a_raw_file(keep(shell, a_batch(state=BatchState.EXTRACTING))).location.key),
        Standing.MOVED_ON,
    ),
    "an object that nobody of ours wrote": (
        QueueName.GATE_TMP,
        lambda _: s3_event("tmp/by+hand.csv"),
        Standing.WAITING,
    ),
    "a foreign object that the ledger knows": (
        QueueName.GATE_TMP,
        lambda shell: s3_event(foreign_in_ledger(shell)),
        Standing.AT_REST,
    ),
    "a batch with leftovers": (
        QueueName.CLEAN,
        lambda shell: clean_message(key_batch(in_ledger(shell, published_batch()))),
        Standing.WAITING,
    ),
    "a batch that is clean": (
        QueueName.CLEAN,
        lambda shell: clean_message(keep(shell, published_batch()).id),
        Standing.AT_REST,
    ),
    "an unknown batch to clean": (QueueName.CLEAN, lambda _: clean_message("b1"), Standing.UNKNOWN_BATCH),
    "a foreign object to set aside": (
        QueueName.CLEAN,
        lambda shell: set_aside_message(replace(a_foreign_file().location, key=foreign_in_ledger(shell))),
        Standing.WAITING,
    ),
    "an object to set aside that the ledger does not know": (
        QueueName.CLEAN,
        lambda _: set_aside_message(a_foreign_file().location),
        Standing.AT_REST,
    ),
}


def foreign_in_ledger(shell: Shell) -> str:
    file = a_foreign_file()
    with shell.ledger.transaction() as tx:
        tx.insert_file(file)
    return file.location.key


def key_batch(key: str) -> str:
    return key.split("/")[2]


@pytest.mark.parametrize(("queue", "make_body", "standing"), STANDINGS.values(), ids=STANDINGS)
def test_a_message_is_worth_what_the_ledger_says(
    shell: Shell, queue: QueueName, make_body: Callable[[Shell], str], standing: Standing
) -> None:
    let_die(shell, make_body(shell), queue=queue)

    (message,) = shell.run("peek", queue, "--dead", "--json").document["messages"]

    assert message["standing"] == standing


def test_every_standing_has_a_meaning() -> None:
    assert list(MEANINGS) == list(Standing)


# ---- redrive -----------------------------------------------------------------------------------------------


def test_a_redrive_sends_what_helps_and_says_why_the_others_stay(shell: Shell) -> None:
    letters = fill_with_one_of_each(shell)

    ended = shell.run("redrive", "extract", "--json")

    assert ended.exit_code == ExitCode.OK
    assert bodies(shell.queues.waiting(QueueName.EXTRACT)) == [letters.pop(Standing.WAITING)]
    assert sorted(bodies(shell.queues.dead_letters(QueueName.EXTRACT))) == sorted(letters.values())
    assert (ended.document["looked_at_count"], ended.document["redriven_count"]) == (5, 1)
    assert {group["standing"]: group["redriven_count"] for group in ended.document["groups"]} == {
        "waiting": 1,
        "moved_on": 0,
        "at_rest": 0,
        "unknown_batch": 0,
        "malformed": 0,
    }


@pytest.mark.parametrize("standing", list(Standing))
def test_a_redrive_of_one_standing_sends_these_useful_or_not(shell: Shell, standing: Standing) -> None:
    letters = fill_with_one_of_each(shell)

    shell.run("redrive", "extract", "--reason", standing)

    assert bodies(shell.queues.waiting(QueueName.EXTRACT)) == [letters[standing]]


def test_a_redrive_by_a_reason_of_batches_sends_those_that_wait_and_have_it(shell: Shell) -> None:
    failed = keep(shell, waiting_batch("failed before", reason=Reason.ATTEMPT_FAILED))
    others = [
        keep(shell, waiting_batch("expired", reason=Reason.LEASE_EXPIRED)),
        keep(shell, waiting_batch("new")),
        keep(shell, a_batch("held", state=BatchState.FAILED, reason=Reason.ATTEMPT_FAILED)),
    ]
    let_die(shell, *(extract_task(batch.id) for batch in [failed, *others]))

    shell.run("redrive", "extract", "--reason", "attempt_failed")

    assert bodies(shell.queues.waiting(QueueName.EXTRACT)) == [extract_task(failed.id)]


def test_a_redrive_keeps_the_group(shell: Shell) -> None:
    let_die(shell, extract_task(keep(shell, waiting_batch()).id))

    shell.run("redrive", "extract")

    assert [queued.message.group for queued in shell.queues.waiting(QueueName.EXTRACT)] == ["shop"]


def test_a_dry_run_tells_the_same_and_moves_nothing(shell: Shell) -> None:
    fill_with_one_of_each(shell)

    document = shell.run("redrive", "extract", "--dry-run", "--json").document

    assert document["is_dry_run"] is True
    assert document["redriven_count"] == 1
    assert shell.queues.depth(QueueName.EXTRACT).visible == 0
    assert shell.queues.depth(QueueName.EXTRACT, dead_letters=True).visible == 5
    assert "would be redriven" in shell.run("redrive", "extract", "--dry-run").output


def test_a_redrive_is_bounded_and_goes_on_where_it_ended(shell: Shell) -> None:
    wanted = [extract_task(keep(shell, waiting_batch(str(number))).id) for number in range(25)]
    let_die(shell, *wanted)

    first = shell.run("redrive", "extract", "--limit", "20")
    left = shell.queues.depth(QueueName.EXTRACT, dead_letters=True).visible
    shell.run("redrive", "extract", "--limit", "20")

    assert left == 5
    assert "do the same again" in first.errors
    assert sorted(bodies(shell.queues.waiting(QueueName.EXTRACT))) == sorted(wanted)


def test_a_redrive_of_nothing_says_so(shell: Shell) -> None:
    ended = shell.run("redrive", "extract")

    assert (ended.exit_code, ended.output) == (ExitCode.OK, "no dead letters\n")


def test_a_reason_that_is_none_is_a_usage_error_that_lists_them(shell: Shell) -> None:
    ended = shell.run("redrive", "extract", "--reason", "bad luck")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "malformed" in ended.errors


class Breaking(MemoryQueues):
    """Queues that stop answering when a method is called for the second time."""

    def __init__(self, broken: str, **options: Any) -> None:
        super().__init__(**options)
        self.broken, self.calls = broken, 0

    def _count(self, method: str) -> None:
        self.calls += method == self.broken
        if self.calls == 2:
            raise Unavailable("queue extract: nobody answers")

    def resend(self, message: SeenMessage) -> None:
        self._count("resend")
        super().resend(message)

    def delete(self, message: SeenMessage) -> None:
        self._count("delete")
        super().delete(message)


@pytest.mark.parametrize(("broken", "sent", "kept"), [("resend", 1, 2), ("delete", 2, 2)])
def test_a_redrive_that_is_cut_off_loses_nothing_and_tells_what_was_done(
    shell: Shell, broken: str, sent: int, kept: int
) -> None:
    shell.queues = Breaking(broken, max_receive_count=1, clock=shell.clock)
    let_die(shell, *(extract_task(keep(shell, waiting_batch(str(number))).id) for number in range(3)))

    ended = shell.run("redrive", "extract", "--json")

    assert ended.exit_code == ExitCode.UNAVAILABLE
    assert ended.document["redriven_count"] == 1
    assert shell.queues.depth(QueueName.EXTRACT).visible == sent
    # One that was sent and not deleted is there twice: its second delivery finds nothing to do.
    assert shell.queues.depth(QueueName.EXTRACT, dead_letters=True).visible == kept


def test_queues_that_are_away_are_told(shell: Shell) -> None:
    shell.queues = QueuesAway(Unavailable("queue extract: nobody answers"))

    for command in (["redrive", "extract"], ["purge", "extract", "--yes"]):
        assert shell.run(*command).exit_code == ExitCode.UNAVAILABLE


# ---- purge -------------------------------------------------------------------------------------------------


def test_a_purge_asks_for_the_name_of_the_queue(shell: Shell) -> None:
    shell.queues.send([OutboxMessage(QueueName.EXTRACT, "x", "shop")] * 3)

    refused = shell.run("purge", "extract", typed="yes\n")
    left = shell.queues.depth(QueueName.EXTRACT).visible
    done = shell.run("purge", "extract", typed="extract\n")

    assert (refused.exit_code, left) == (ExitCode.PROBLEM, 3)
    assert "3 messages of extract" in refused.errors
    assert "nothing was changed" in refused.errors
    assert done.exit_code == ExitCode.OK
    assert shell.queues.depth(QueueName.EXTRACT).visible == 0
    assert "the sweeper" in done.errors


def test_a_purge_that_nobody_answers_deletes_nothing(shell: Shell) -> None:
    shell.queues.send([OutboxMessage(QueueName.EXTRACT, "x", "shop")])

    ended = shell.run("purge", "extract", typed="")

    assert ended.exit_code == ExitCode.PROBLEM
    assert shell.queues.depth(QueueName.EXTRACT).visible == 1


def test_a_script_purges_without_being_asked(shell: Shell) -> None:
    let_die(shell, "1", "2")
    shell.queues.send([OutboxMessage(QueueName.EXTRACT, "alive", "shop")])

    document = shell.run("purge", "extract", "--dead", "--yes", "--json").document

    assert (document["is_dead"], document["deleted_count"]) == (True, 2)
    assert shell.queues.depth(QueueName.EXTRACT, dead_letters=True).visible == 0
    assert shell.queues.depth(QueueName.EXTRACT).visible == 1


def test_dead_letters_are_purged_by_reason(shell: Shell) -> None:
    letters = fill_with_one_of_each(shell)

    ended = shell.run("purge", "extract", "--dead", "--reason", "malformed", "--json", typed="extract\n")

    del letters[Standing.MALFORMED]
    assert "1 dead letters of extract (malformed)" in ended.errors
    assert ended.exit_code == ExitCode.OK
    assert ended.document["deleted_count"] == 1
    assert sorted(bodies(shell.queues.dead_letters(QueueName.EXTRACT))) == sorted(letters.values())


def test_dead_letters_are_purged_by_the_reason_of_their_batch(shell: Shell) -> None:
    held = a_batch("held", state=BatchState.QUARANTINED, reason=Reason.COLUMN_MISSING)
    let_die(shell, extract_task(keep(shell, held).id), "hello")

    document = shell.run(
        "purge", "extract", "--dead", "--reason", "column_missing", "--yes", "--json"
    ).document

    assert document["deleted_count"] == 1
    assert bodies(shell.queues.dead_letters(QueueName.EXTRACT)) == ["hello"]


def test_a_live_queue_is_purged_whole_or_not_at_all(shell: Shell) -> None:
    shell.queues.send([OutboxMessage(QueueName.EXTRACT, "x", "shop")])

    ended = shell.run("purge", "extract", "--reason", "malformed", "--yes")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "--dead" in ended.errors
    assert shell.queues.depth(QueueName.EXTRACT).visible == 1
