"""The commands that put queues in order: redrive, purge."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from cli.context import JsonOption, connections_of
from cli.output import (
    exit_code_of,
    heading,
    number,
    print_json,
    print_table,
    remark,
    require_typed,
    tell_error,
    visible,
)
from cli.queues import MEANINGS, QueueArgument
from shared.dead_letters import Judgement, Standing, Tally, Walk, sort_out
from shared.domain.reasons import Reason
from shared.ports import Ledger, QueueInspector, QueueName, SeenMessage

#: The most dead letters that one command walks through. SQS lets 120 000 be in flight.
MAX_DEAD_LETTERS = 10_000

ReasonOption = Annotated[
    str | None,
    typer.Option(
        "--reason",
        metavar="REASON",
        help=f"Only these: {', '.join(Standing)}, or a reason of their batches such as attempt_failed.",
    ),
]


# ---- redrive -----------------------------------------------------------------------------------------------


def redrive(
    context: typer.Context,
    queue: QueueArgument,
    reason: ReasonOption = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=MAX_DEAD_LETTERS, help="At most so many are sent again.")
    ] = 1_000,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be sent again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Send dead letters to their live queue again: those whose batch still waits for them.

    The others stay where they are: nobody can read them, or they would do nothing. The sweeper wakes batches without
    any redrive; this is quicker. --reason STANDING sends those of that standing, useful or not; with a reason of
    batches, of those that help only the ones whose batch has it.
    """
    connections = connections_of(context)
    fleet = connections.fleet()
    inspector = connections.queues(fleet)
    wanted = _helped_by_redrive(_parsed(reason))
    with _progress(inspector, queue) as on_progress:
        tally = sort_out(
            inspector,
            queue,
            ledger=fleet.ledger,
            wanted=wanted,
            settle=Walk.leave if is_dry_run else Walk.redrive,
            max_settled=limit,
            max_looked_at=MAX_DEAD_LETTERS,
            on_progress=on_progress,
        )
    document = {"queue": queue, "is_dry_run": is_dry_run, **_tally_document(tally, settled="redriven_count")}
    if as_json:
        print_json(document)
    else:
        _print_tally(tally, settled="would be redriven" if is_dry_run else "redriven")
    _end_with(tally)


def _helped_by_redrive(reason: Standing | Reason | None) -> Callable[[Judgement], bool]:
    match reason:
        case Standing():
            return lambda judgement: judgement.standing is reason
        case Reason():
            return lambda judgement: judgement.standing is Standing.WAITING and judgement.reason is reason
        case None:
            return lambda judgement: judgement.standing is Standing.WAITING


def _parsed(reason: str | None) -> Standing | Reason | None:
    if reason is None:
        return None
    if reason in list(Standing):
        return Standing(reason)
    if reason in list(Reason):
        return Reason(reason)
    known = ", ".join([*Standing, *sorted(Reason)])
    raise typer.BadParameter(f"expected one of {known}, found {visible(reason)!r}", param_hint="--reason")


@contextmanager
def _progress(inspector: QueueInspector, queue: QueueName) -> Iterator[Callable[[Tally], None]]:
    """Show on a terminal how far a walk through dead letters has come."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    expected = inspector.depth(queue, dead_letters=True).total
    with typer.progressbar(length=max(expected, 1), label="looking", file=sys.stderr) as bar:
        yield lambda tally: bar.update(tally.found.total() - bar.pos)


def _tally_document(tally: Tally, *, settled: str) -> dict[str, object]:
    return {
        "looked_at_count": tally.found.total(),
        settled: tally.settled.total(),
        "is_cut": tally.is_cut,
        "groups": [
            {
                "standing": standing,
                "reason": reason,
                "count": tally.found[standing, reason],
                settled: tally.settled[standing, reason],
                "meaning": MEANINGS[standing],
            }
            for standing, reason in _names(tally)
        ],
    }


def _print_tally(tally: Tally, *, settled: str) -> None:
    print_table(
        [
            *(heading("standing"), heading("reason of the batch"), number("found"), number(settled)),
            heading("meaning"),
        ],
        [
            (
                standing,
                reason,
                tally.found[standing, reason],
                tally.settled[standing, reason],
                MEANINGS[standing],
            )
            for standing, reason in _names(tally)
        ],
        none="no dead letters",
    )


def _names(tally: Tally) -> list[tuple[Standing, Reason | None]]:
    order = list(Standing)
    return sorted(tally.found, key=lambda name: (order.index(name[0]), name[1] or ""))


def _end_with(tally: Tally) -> None:
    if tally.is_cut:
        remark("there may be more dead letters: do the same again")
    if tally.error is not None:
        tell_error(tally.error)
        raise typer.Exit(exit_code_of(tally.error))


# ---- purge -------------------------------------------------------------------------------------------------


def purge(
    context: typer.Context,
    queue: QueueArgument,
    dead_letters: Annotated[bool, typer.Option("--dead", help="Delete its dead letters instead.")] = False,
    reason: ReasonOption = None,
    is_confirmed: Annotated[
        bool, typer.Option("--yes", help="Do not ask; else you type the name of the queue.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Delete every message of a queue, or of its dead letters; with --reason, only some of the dead letters.

    No batch is lost with its message: the sweeper sends it anew, after a minute or more. SQS takes up to 60 seconds
    to empty a queue, loses what is sent meanwhile too, and does it once in 60 seconds.
    """
    chosen = _parsed(reason)
    if chosen is not None and not dead_letters:
        raise typer.BadParameter(
            "a live queue is emptied whole: messages are read among dead letters only; give --dead too",
            param_hint="--reason",
        )
    connections = connections_of(context)
    fleet = connections.fleet()
    inspector = connections.queues(fleet)
    if chosen is not None:
        _purge_by_reason(inspector, queue, chosen, fleet.ledger, is_confirmed=is_confirmed, as_json=as_json)
        return
    count = inspector.depth(queue, dead_letters=dead_letters).total
    what = f"dead letters of {queue}" if dead_letters else f"messages of {queue}, those in flight too"
    if not is_confirmed:
        _ask(f"{count} {what} (approximately) will be deleted.", queue=queue)
    inspector.empty(queue, dead_letters=dead_letters)
    if as_json:
        print_json(
            {"queue": queue, "is_dead": dead_letters, "reason": None, "deleted_count": count, "groups": []}
        )
    else:
        typer.echo(f"SQS deletes {count} {what} (approximately); it may take 60 seconds")
    if not dead_letters:
        remark("the sweeper sends batches that wait for one of them a new message")


def _purge_by_reason(
    inspector: QueueInspector,
    queue: QueueName,
    reason: Standing | Reason,
    ledger: Ledger,
    *,
    is_confirmed: bool,
    as_json: bool,
) -> None:
    def walk_through(settle: Callable[[Walk, SeenMessage], None]) -> Tally:
        with _progress(inspector, queue) as on_progress:
            return sort_out(
                inspector,
                queue,
                ledger=ledger,
                wanted=lambda judgement: reason in {judgement.standing, judgement.reason},
                settle=settle,
                max_settled=MAX_DEAD_LETTERS,
                max_looked_at=MAX_DEAD_LETTERS,
                on_progress=on_progress,
            )

    if not is_confirmed:
        counted = walk_through(Walk.leave)
        if counted.error is not None:
            raise counted.error
        _ask(f"{counted.settled.total()} dead letters of {queue} ({reason}) will be deleted.", queue=queue)
    tally = walk_through(Walk.delete)
    if as_json:
        document = _tally_document(tally, settled="deleted_count")
        print_json({"queue": queue, "is_dead": True, "reason": reason, **document})
    else:
        _print_tally(tally, settled="deleted")
    _end_with(tally)


def _ask(sentence: str, *, queue: QueueName) -> None:
    remark(sentence)
    require_typed(str(queue), called="the name of the queue")
