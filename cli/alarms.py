"""Commands about what should have come and did not: alarms, retire."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import DEFAULT_SOURCES, JsonOption, SourcesOption, connections_of, settings_named
from cli.output import (
    ExitCode,
    NotDone,
    NotFound,
    heading,
    print_json,
    print_table,
    remark,
    text_of,
    whole,
)

if TYPE_CHECKING:
    from shared.alarms import AlarmLimits
    from shared.domain.alarms import Alarm

#: The watcher runs each minute.
_WATCHER_IS_LATE_AFTER = timedelta(minutes=5)


def alarms(
    context: typer.Context,
    show_all: Annotated[
        bool, typer.Option("--all", help="Also those that are over, the last raised first.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, help="At most so many that are over.")
    ] = 100,
    as_json: JsonOption = False,
) -> None:
    """
    Show what somebody has to look at. The exit code is 1 if there is anything.

    Found anew by this command itself, so that it holds even if the watcher is dead; since when it lasts, and
    whether anybody was told, is what the watcher recorded.
    """
    from shared.alarms import WATCHER, judge, look, open_alarms_of

    connections = connections_of(context)
    fleet = connections.fleet()
    limits = alarm_limits()
    facts = look(fleet.ledger, connections.queues(fleet), limits=limits)
    findings = judge(facts, limits=limits)
    with fleet.ledger.transaction() as tx:
        recorded = tx.alarms(unsettled_only=True)
        past = [alarm for alarm in tx.alarms(limit=limit) if alarm.resolved_at] if show_all else []
        watcher_ran_at = tx.last_run(WATCHER)
    found = open_alarms_of(findings, recorded, now=facts.now)
    if as_json:
        print_json(
            {
                "at": facts.now,
                "watcher_last_ran_at": watcher_ran_at,
                "open_count": len(found),
                "unseen_queues": sorted(findings.unseen_queues),
                "alarms": [asdict(alarm) for alarm in (*found, *past)],
            }
        )
    else:
        _print_alarms(found, past)
    remark(watcher_text(watcher_ran_at, now=facts.now))
    if findings.unseen_queues:
        remark(f"queues that did not answer: {', '.join(sorted(findings.unseen_queues))}")
    if findings.is_held_cut:
        remark(f"more than {limits.held_limit} batches are held; only the first have an alarm each")
    if findings.unseen_queues:
        raise typer.Exit(ExitCode.UNAVAILABLE)
    if found:
        raise typer.Exit(ExitCode.PROBLEM)


def alarm_limits() -> "AlarmLimits":
    """
    Return from when on something is alarming.

    Raises:
        ConfigurationError: if a setting is wrong.
    """
    from lambdas.watcher.settings import WatcherSettings

    with settings_named():
        return WatcherSettings().limits()


def watcher_text(last_ran_at: datetime | None, *, now: datetime) -> str:
    """Return when the watcher last ran, and what it means if that is long ago."""
    if last_ran_at is None:
        return "the watcher never ran: nobody is told of alarms"
    told = f"the watcher last ran at {text_of(last_ran_at.replace(microsecond=0))}"
    if now - last_ran_at <= _WATCHER_IS_LATE_AFTER:
        return told
    return f"{told}: nobody is told of alarms until it runs again"


def _print_alarms(found: "Sequence[Alarm]", past: "Sequence[Alarm]") -> None:
    rows = [
        (
            _seconds(alarm.raised_at),
            _seconds(alarm.resolved_at) or "open",
            alarm.kind,
            alarm.subject,
            _seconds(alarm.raise_told_at) or "not yet",
            alarm.detail,
        )
        for alarm in (*found, *past)
    ]
    print_table(
        [
            *(whole("since"), whole("until"), whole("alarm"), whole("about"), whole("told")),
            heading("what was found, and what to do"),
        ],
        rows,
        none="no alarms",
    )


def _seconds(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(microsecond=0)


def retire(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A source whose file is gone for good.")],
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Expect nothing of a source any more. Its batches, files and tables stay as they are.

    A source whose file vanished stays expected, and is late, until this says that it was meant so. A source
    whose file is still there is refused.
    """
    from shared.planning import retire_source

    # A source has the name of its file, which may be one that cannot be read at the moment.
    file = sources / f"{source}.yaml"
    if file.exists():
        raise NotDone(f"{file}: expected no such file, found one; delete it first, for `enqueue` reads it")
    count = retire_source(source, ledger=connections_of(context).fleet().ledger)
    if not count:
        raise NotFound(f"source {source!r}: nothing is expected of it")
    if as_json:
        print_json({"source": source, "table_count": count})
    else:
        typer.echo(f"{source}: nothing is expected of its {count} tables any more")
