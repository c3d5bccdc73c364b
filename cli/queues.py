"""The commands that look into queues: queues, peek."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.context import JsonOption, connections_of
from cli.explain import next_step
from cli.output import (
    duration_text,
    exit_code_of,
    heading,
    number,
    print_facts,
    print_json,
    print_section,
    print_table,
    remark,
    tell_error,
    text_of,
    visible,
    whole,
)
from shared.dead_letters import Judgement, Standing, judge, walking
from shared.domain.batches import GATE_STATES, STAGE_STATES, Batch, BatchState
from shared.errors import EsclusaError, Unavailable
from shared.lifecycle import GATE_QUEUES
from shared.ports import (
    Ledger,
    LedgerTransaction,
    PendingMessage,
    QueueDepth,
    QueueInspector,
    QueueName,
    SeenMessage,
)

if TYPE_CHECKING:
    from shared.fleet import Fleet

#: What a person may ask to see at once: a message may weigh a megabyte.
MAX_SHOWN = 100
#: How much of a body people are shown.
MAX_SHOWN_CHARACTERS = 2_000
#: How deep the JSON of a body may nest to be shown as such.
MAX_SHOWN_DEPTH = 20
#: `queues` reads so many dead letters to find the oldest, if nobody measured its age.
MAX_DEAD_LETTERS_FOR_AGE = 1_000

QueueArgument = Annotated[QueueName, typer.Argument(metavar="QUEUE", help="As `esclusa queues` names it.")]

#: The state in which a batch waits for a message of a queue. A stage's queue bears its name.
WAITING_STATES: Mapping[QueueName, BatchState] = {
    **{QueueName(stage): states.waiting for stage, states in STAGE_STATES.items()},
    **{GATE_QUEUES[area]: checked for area, (checked, _) in GATE_STATES.items()},
}

#: What a redrive would do for a message.
MEANINGS = {
    Standing.WAITING: "what it speaks of waits for it: a redrive helps",
    Standing.MOVED_ON: "its batch waits for something else: a redrive does nothing",
    Standing.AT_REST: "nothing is left to do for it: a redrive does nothing",
    Standing.UNKNOWN_BATCH: "the ledger holds no such batch: a redrive does nothing",
    Standing.MALFORMED: "nobody who serves the queue can read it: after a redrive it comes back",
}


# ---- queues ------------------------------------------------------------------------------------------------


class AgeBasis(StrEnum):
    """Where an age comes from."""

    #: Measured by the queues' own service.
    CLOUDWATCH = "cloudwatch"
    #: How long the batch waits that waits longest for a message of the queue; its message may be younger.
    LEDGER = "ledger"
    #: Every dead letter was read: since the oldest was first sent.
    MESSAGES = "messages"


@dataclass(frozen=True, slots=True)
class Age:
    """How old the oldest message of a queue is, as far as it is known."""

    seconds: int
    basis: AgeBasis


@dataclass(frozen=True, slots=True)
class QueueLine:
    """How full a queue and its dead-letter queue are; None what could not be seen."""

    queue: QueueName
    depth: QueueDepth | None = None
    oldest: Age | None = None
    dead: QueueDepth | None = None
    oldest_dead: Age | None = None
    error: str | None = None


def queues(context: typer.Context, as_json: JsonOption = False) -> None:
    """
    Show how many messages each queue and its dead-letter queue hold, and how old the oldest is.

    The numbers of SQS are approximate. Ages are those of CloudWatch, some minutes old; of dead letters since they
    died. What it has not measured: how long a batch waits for a message of the queue (ledger), or since when the
    oldest dead letter was sent (messages), for which up to 1000 are read and given back. Else the age is unknown.
    """
    connections = connections_of(context)
    fleet = connections.fleet()
    inspector = connections.queues(fleet)
    errors: list[EsclusaError] = []
    waits = _longest_waits(fleet.ledger, errors)
    measured, measured_dead = inspector.oldest_ages(), inspector.oldest_ages(dead_letters=True)
    lines = []
    for queue in QueueName:
        try:
            depth, dead = inspector.depth(queue), inspector.depth(queue, dead_letters=True)
            lines.append(
                QueueLine(
                    queue,
                    depth=depth,
                    oldest=_age(depth, measured.get(queue)) or _age(depth, waits.get(queue), AgeBasis.LEDGER),
                    dead=dead,
                    oldest_dead=_age(dead, measured_dead.get(queue))
                    or _age_by_reading(inspector, queue, dead, fleet),
                )
            )
        except EsclusaError as error:
            errors.append(error)
            lines.append(QueueLine(queue, error=str(error)))
    _print_queues(lines, as_json=as_json)
    for trouble in errors:
        tell_error(trouble)
    if errors:
        raise typer.Exit(max(map(exit_code_of, errors)))


def _longest_waits(ledger: Ledger, errors: list[EsclusaError]) -> dict[QueueName, timedelta]:
    try:
        with ledger.transaction() as tx:
            now, tallies = tx.now(), tx.batch_tallies()
    except Unavailable as error:
        errors.append(error)
        return {}
    since: dict[BatchState, datetime] = {}
    for tally in tallies:
        since[tally.state] = min(since.get(tally.state, tally.longest_since), tally.longest_since)
    return {queue: now - since[state] for queue, state in WAITING_STATES.items() if state in since}


def _age(depth: QueueDepth, age: timedelta | None, basis: AgeBasis = AgeBasis.CLOUDWATCH) -> Age | None:
    """Return an age, unless there is no message that could have it: what was measured is some minutes old."""
    if age is None or not depth.total:
        return None
    return Age(int(age.total_seconds()), basis)


def _age_by_reading(
    inspector: QueueInspector, queue: QueueName, dead: QueueDepth, fleet: "Fleet"
) -> Age | None:
    if not dead.total:
        return None
    sent_at: list[datetime] = []
    try:
        with walking(inspector, queue, dead_letters=True) as walk:
            for messages in walk.looks(max_messages=MAX_DEAD_LETTERS_FOR_AGE):
                sent_at += [message.sent_at for message in messages]
        if not sent_at or len(sent_at) == MAX_DEAD_LETTERS_FOR_AGE:
            return None
        with fleet.ledger.transaction() as tx:
            return Age(int((tx.now() - min(sent_at)).total_seconds()), AgeBasis.MESSAGES)
    except EsclusaError:
        # Who may count dead letters need not be allowed to read them.
        return None


def _print_queues(lines: Sequence[QueueLine], *, as_json: bool) -> None:
    if as_json:
        print_json({"queues": [_line_document(line) for line in lines]})
        return
    print_table(
        [
            heading("queue"),
            *(number(name) for name in ("visible", "in flight", "delayed")),
            whole("oldest"),
            number("dead letters"),
            whole("oldest dead letter"),
        ],
        [
            (
                line.queue,
                *(
                    (line.depth.visible, line.depth.in_flight, line.depth.delayed)
                    if line.depth
                    else (None,) * 3
                ),
                _age_text(line.depth, line.oldest),
                None if line.dead is None else line.dead.total,
                _age_text(line.dead, line.oldest_dead),
            )
            for line in lines
        ],
        none="no queues",
    )


def _line_document(line: QueueLine) -> dict[str, object]:
    return {
        "queue": line.queue,
        "visible": line.depth and line.depth.visible,
        "in_flight": line.depth and line.depth.in_flight,
        "delayed": line.depth and line.depth.delayed,
        "oldest_age_seconds": line.oldest and line.oldest.seconds,
        "oldest_age_from": line.oldest and line.oldest.basis,
        "dead_letters": None if line.dead is None else line.dead.total,
        "dead_letters_oldest_age_seconds": line.oldest_dead and line.oldest_dead.seconds,
        "dead_letters_oldest_age_from": line.oldest_dead and line.oldest_dead.basis,
        "error": line.error,
    }


def _age_text(depth: QueueDepth | None, age: Age | None) -> str:
    if age is not None:
        return f"{duration_text(age.seconds)} ({age.basis})"
    return "unknown" if depth and depth.total else ""


# ---- peek --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message, and what the ledger knows of what it speaks of."""

    message: SeenMessage
    judgement: Judgement
    #: What happens next with its batch.
    next: str | None


def peek(
    context: typer.Context,
    queue: QueueArgument,
    dead_letters: Annotated[bool, typer.Option("--dead", help="Look at its dead letters.")] = False,
    receives: Annotated[
        bool,
        typer.Option(
            "--receive", help="Look into a live queue all the same: each message loses one of its deliveries."
        ),
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=MAX_SHOWN, help="At most so many messages.")
    ] = 10,
    as_json: JsonOption = False,
) -> None:
    """
    Show messages as JSON, each with what the ledger knows of its batch.

    Dead letters are read and given back; nothing counts how often. SQS shows a message of a live queue only by
    delivering it, and one that was delivered too often is dead: so a live queue is not looked into, and you see
    which batches wait for its messages, and what the outbox holds for it.
    """
    connections = connections_of(context)
    fleet = connections.fleet()
    if not dead_letters and not receives:
        _show_what_waits(fleet.ledger, queue, limit=limit, as_json=as_json)
        return
    inspector = connections.queues(fleet)
    if not dead_letters:
        remark(
            f"{queue} is live: each message shown has lost one of its deliveries, and nobody could work on it "
            "meanwhile; one that has lost its last dies"
        )
    peeked = _look_at(inspector, queue, fleet.ledger, dead_letters=dead_letters, limit=limit)
    if as_json:
        print_json(
            {
                "queue": queue,
                "is_dead": dead_letters,
                "is_received": True,
                "messages": [_message_document(item) for item in peeked],
                "waiting_batches": [],
                "outbox": [],
            }
        )
        return
    for item in peeked:
        _print_message(item)
    if not peeked:
        typer.echo("no dead letters" if dead_letters else "no messages")
    if len(peeked) == limit:
        remark(f"there may be more than {limit}: raise --limit")


def _look_at(
    inspector: QueueInspector, queue: QueueName, ledger: Ledger, *, dead_letters: bool, limit: int
) -> list[Peeked]:
    peeked: list[Peeked] = []
    with walking(inspector, queue, dead_letters=dead_letters) as walk:
        for messages in walk.looks(max_messages=limit):
            with ledger.transaction() as tx:
                peeked += [_peeked(message, tx) for message in messages]
    return sorted(peeked, key=lambda item: item.message.sent_at)


def _peeked(message: SeenMessage, tx: LedgerTransaction) -> Peeked:
    judgement = judge(message, tx=tx)
    batch = judgement.batch
    return Peeked(
        message, judgement, next_step(batch, tx.attempts(batch.id), now=tx.now()) if batch else None
    )


def _message_document(item: Peeked) -> dict[str, object]:
    message, batch = item.message, item.judgement.batch
    return {
        "message_id": message.id,
        "sent_at": message.sent_at,
        "receive_count": message.receive_count,
        "group": message.group,
        "body": message.body,
        "content": content_of(message.body),
        "standing": item.judgement.standing,
        "objection": item.judgement.objection or None,
        "batch": batch and {**_batch_document(batch), "next": item.next},
    }


def _batch_document(batch: Batch) -> dict[str, object]:
    return {
        "id": batch.id,
        "source": batch.source,
        "table": batch.table,
        "state": batch.state,
        "changed_at": batch.changed_at,
        "reason": batch.reason,
        "detail": batch.detail,
        "attempts": dict(batch.attempts),
        "woken_at": batch.woken_at,
    }


def _print_message(item: Peeked) -> None:
    message, judgement, batch = item.message, item.judgement, item.judgement.batch
    print_section(f"message {text_of(message.id)}")
    facts: dict[str, object] = {
        "sent": message.sent_at,
        "received": f"{message.receive_count} times",
        "group": message.group,
        "standing": f"{judgement.standing}: {MEANINGS[judgement.standing]}",
        "objection": judgement.objection,
    }
    if batch is not None:
        facts |= {
            "batch": f"{batch.id} of {batch.source}.{batch.table}",
            "state": f"{batch.state} since {text_of(batch.changed_at)}",
            "reason": batch.reason,
            "detail": batch.detail,
            "attempts": ", ".join(f"{stage} {count}" for stage, count in batch.attempts.items())
            or "none yet",
            "next": item.next,
        }
    print_facts(facts)
    typer.echo(_body_text(message.body))


def _body_text(body: str) -> str:
    content = content_of(body)
    if content is None:
        return _cut(f"no JSON to show: {visible(body[:MAX_SHOWN_CHARACTERS])}", of=len(body))
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return _cut(visible(text[:MAX_SHOWN_CHARACTERS], keep_line_breaks=True), of=len(text))


def _cut(text: str, *, of: int) -> str:
    more = of - MAX_SHOWN_CHARACTERS
    return f"{text} … and {more} characters more; --json shows all" if more > 0 else text


def content_of(body: str) -> dict[str, Any] | None:
    """
    Return the JSON object that a body is; None if it is none, or would look like another one when shown.

    >>> content_of('{"a": 1}'), content_of('{"a": 1.10}'), content_of('{"a": 1, "a": 2}')
    ({'a': 1}, None, None)
    """
    if _nesting(body) > MAX_SHOWN_DEPTH:
        return None
    try:
        content = json.loads(
            body, parse_float=_refuse, parse_constant=_refuse, object_pairs_hook=_without_duplicates
        )
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _nesting(body: str) -> int:
    """Return how deep a text nests at most, brackets within strings counted too."""
    depth = deepest = 0
    for character in body:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _refuse(number: str) -> Any:
    raise ValueError(f"{number} would be shown as another number, or is none")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return fields


def _show_what_waits(ledger: Ledger, queue: QueueName, *, limit: int, as_json: bool) -> None:
    with ledger.transaction() as tx:
        if queue in WAITING_STATES:
            batches = tx.batches(states=[WAITING_STATES[queue]], limit=limit)
        else:
            batches = tx.batches_with_leftovers(limit=limit)
        pending = tx.pending_messages(
            limit=limit, without=[other for other in QueueName if other is not queue]
        )
    if as_json:
        print_json(
            {
                "queue": queue,
                "is_dead": False,
                "is_received": False,
                "messages": [],
                "waiting_batches": [_batch_document(batch) for batch in batches],
                "outbox": [_pending_document(item) for item in pending],
            }
        )
        return
    remark(
        f"{queue} is live, and was not looked into: SQS shows a message only by delivering it, and one that was "
        "delivered too often is dead. This is what the ledger knows; --receive looks all the same"
    )
    print_section(f"batches that wait for a message of {queue}")
    print_table(
        [
            *(whole("batch"), whole("table"), heading("state"), whole("since")),
            *(whole("last message"), heading("reason"), heading("detail")),
        ],
        [
            (b.id, f"{b.source}.{b.table}", b.state, b.changed_at, b.woken_at, b.reason, b.detail)
            for b in batches
        ],
        none="none",
    )
    print_section("messages in the outbox, not known to be sent")
    print_table(
        [number("id"), whole("group"), heading("body")],
        [(item.id, item.message.group, item.message.body) for item in pending],
        none="none",
    )
    if limit in {len(batches), len(pending)}:
        remark(f"there may be more than {limit}: raise --limit")


def _pending_document(item: PendingMessage) -> dict[str, object]:
    body = item.message.body
    return {"id": item.id, "group": item.message.group, "body": body, "content": content_of(body)}
